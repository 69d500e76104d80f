//! `queue verify`: reads everything, and says what is damaged.

use std::path::Path;
use std::process::ExitCode;

use indicatif::HumanBytes;
use serde::Serialize;

use super::folder::FolderArgs;
use super::listing::{Quarantined, counted, each_generation, name, quarantined, ranges, table};
use crate::cli::Failure;
use crate::queue::Folder;

/// What reading everything found. The names are those of the JSON.
#[derive(Debug, Serialize)]
struct Findings {
    data_dir: String,
    damaged: bool,
    generations: Vec<Generation>,
    /// Why the cursors can't be read.
    cursors_damage: Option<String>,
    dead_letters: usize,
    dead_letters_damage: Option<String>,
    /// What an earlier start found damaged, salvaged and put aside: no damage of what is in use.
    quarantined: Vec<Quarantined>,
}

#[derive(Debug, Serialize)]
struct Generation {
    name: String,
    first_sequence: u64,
    /// None when it holds no event.
    last_sequence: Option<u64>,
    /// Readable ones.
    events: u64,
    waiting: u64,
    frames: u64,
    /// First and last of each range of sequences whose events are lost.
    lost: Vec<[u64; 2]>,
}

impl Generation {
    fn is_damaged(&self) -> bool {
        !self.lost.is_empty()
    }
}

pub(super) fn run(arguments: &FolderArgs) -> Result<ExitCode, Failure> {
    let findings = arguments.report(read, text)?;
    Ok(if findings.damaged { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn read(dir: &Path, folder: &Folder) -> Result<Findings, anyhow::Error> {
    let generations = each_generation(folder, |summary| {
        let report = folder.verify(summary.first)?;
        let first = report.first.get();
        Ok(Generation {
            name: name(&summary.path),
            first_sequence: first,
            last_sequence: report.end.get().checked_sub(1).filter(|last| *last >= first),
            events: report.events,
            waiting: report.waiting,
            frames: report.frames,
            lost: report.lost.iter().map(|lost| [lost.start().get(), lost.end().get()]).collect(),
        })
    })?;
    let dead_letters = folder.dead_letters();
    let cursors_damage = folder.state_damage().map(str::to_owned);
    Ok(Findings {
        data_dir: dir.display().to_string(),
        damaged: generations.iter().any(Generation::is_damaged)
            || cursors_damage.is_some()
            || dead_letters.damage.is_some(),
        generations,
        cursors_damage,
        dead_letters: dead_letters.letters.len(),
        dead_letters_damage: dead_letters.damage,
        quarantined: quarantined(folder)?,
    })
}

fn text(findings: &Findings) -> String {
    let rows: Vec<_> = findings
        .generations
        .iter()
        .map(|generation| {
            let last = generation.last_sequence.map_or_else(|| "-".to_owned(), |n| n.to_string());
            vec![
                generation.name.clone(),
                generation.first_sequence.to_string(),
                last,
                generation.events.to_string(),
                generation.waiting.to_string(),
                generation.frames.to_string(),
                (if generation.is_damaged() { "damaged" } else { "whole" }).to_owned(),
            ]
        })
        .collect();
    let names = ["GENERATION", "FIRST", "LAST", "EVENTS", "WAITING", "FRAMES", "STATE"];
    let mut lines = vec![table(&names, &rows), String::new()];
    for generation in &findings.generations {
        let name = &generation.name;
        if !generation.lost.is_empty() {
            let lost = ranges(&generation.lost);
            lines.push(format!("damaged: {name}: the events of these sequences are lost: {lost}"));
        }
    }
    if let Some(damage) = &findings.cursors_damage {
        lines.push(format!(
            "damaged: the cursors: {damage}; the next start delivers everything again that is in \
             the log"
        ));
    }
    if let Some(damage) = &findings.dead_letters_damage {
        lines.push(format!("damaged: the dead letters: {damage}"));
    }
    for Quarantined { path, bytes } in &findings.quarantined {
        lines.push(format!("in quarantine since an earlier start: {path}, {}", HumanBytes(*bytes)));
    }
    let events = findings.generations.iter().map(|generation| generation.events).sum();
    let state = if findings.damaged { "damaged" } else { "whole" };
    lines.push(format!(
        "{state}: {} readable in {}, {}, in {}",
        counted(events, "event"),
        counted(findings.generations.len() as u64, "generation"),
        counted(findings.dead_letters as u64, "dead letter"),
        findings.data_dir
    ));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generation(first: u64, events: u64) -> Generation {
        Generation {
            name: format!("gen-{first:020}"),
            first_sequence: first,
            last_sequence: Some(first + 99),
            events,
            waiting: events / 2,
            frames: 3,
            lost: Vec::new(),
        }
    }

    fn findings() -> Findings {
        Findings {
            data_dir: "/var/lib/gmfy".to_owned(),
            damaged: false,
            generations: vec![generation(1, 100), generation(101, 100)],
            cursors_damage: None,
            dead_letters: 2,
            dead_letters_damage: None,
            quarantined: Vec::new(),
        }
    }

    #[test]
    fn a_whole_folder_is_said_to_be() {
        insta::assert_snapshot!(text(&findings()), @r"
        GENERATION                FIRST  LAST  EVENTS  WAITING  FRAMES  STATE
        gen-00000000000000000001      1   100     100       50       3  whole
        gen-00000000000000000101    101   200     100       50       3  whole

        whole: 200 events readable in 2 generations, 2 dead letters, in /var/lib/gmfy
        ");
    }

    #[test]
    fn damage_is_listed_with_its_place_and_what_follows() {
        let damaged = Findings {
            damaged: true,
            generations: vec![
                Generation { lost: vec![[5, 9], [12, 12]], ..generation(1, 94) },
                generation(101, 100),
            ],
            cursors_damage: Some("damaged: lane 3's cursor".to_owned()),
            dead_letters_damage: Some("damaged: sled found a bad checksum".to_owned()),
            quarantined: vec![Quarantined {
                path: "/var/lib/gmfy/quarantine/gen-00000000000000000001".to_owned(),
                bytes: 16 << 20,
            }],
            ..findings()
        };
        insta::assert_snapshot!(text(&damaged), @r"
        GENERATION                FIRST  LAST  EVENTS  WAITING  FRAMES    STATE
        gen-00000000000000000001      1   100      94       47       3  damaged
        gen-00000000000000000101    101   200     100       50       3    whole

        damaged: gen-00000000000000000001: the events of these sequences are lost: 5-9, 12
        damaged: the cursors: damaged: lane 3's cursor; the next start delivers everything again that is in the log
        damaged: the dead letters: damaged: sled found a bad checksum
        in quarantine since an earlier start: /var/lib/gmfy/quarantine/gen-00000000000000000001, 16.00 MiB
        damaged: 194 events readable in 2 generations, 2 dead letters, in /var/lib/gmfy
        ");
        insta::assert_snapshot!(serde_json::to_string_pretty(&damaged.generations[0]).unwrap(), @r#"
        {
          "name": "gen-00000000000000000001",
          "first_sequence": 1,
          "last_sequence": 100,
          "events": 94,
          "waiting": 47,
          "frames": 3,
          "lost": [
            [
              5,
              9
            ],
            [
              12,
              12
            ]
          ]
        }
        "#);
    }
}
