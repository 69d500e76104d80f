//! `queue ls`: the log's generations, and what waits in them.

use std::path::Path;
use std::process::ExitCode;

use indicatif::HumanBytes;
use serde::Serialize;

use super::folder::FolderArgs;
use super::listing::{Quarantined, counted, each_generation, name, quarantined, table};
use crate::cli::Failure;
use crate::clock::Timestamp;
use crate::queue::{Folder, GenerationSummary};

/// What is in a folder. The names are those of the JSON.
#[derive(Debug, Serialize)]
struct Contents {
    data_dir: String,
    /// Events accepted and neither delivered nor dead-lettered nor dropped.
    waiting: u64,
    /// When the oldest of them was accepted.
    oldest_accepted_at: Option<String>,
    bytes: u64,
    generations: Vec<Generation>,
    dead_letters: usize,
    dead_letters_damage: Option<String>,
    /// Why the cursors can't be read.
    cursors_damage: Option<String>,
    quarantined: Vec<Quarantined>,
}

#[derive(Debug, Serialize)]
struct Generation {
    name: String,
    first_sequence: u64,
    /// None when it holds no event.
    last_sequence: Option<u64>,
    events: u64,
    waiting: u64,
    bytes: u64,
    #[serde(skip)]
    oldest: Option<Timestamp>,
}

pub(super) fn run(arguments: &FolderArgs) -> Result<ExitCode, Failure> {
    arguments.report(read, text)?;
    Ok(ExitCode::SUCCESS)
}

fn read(dir: &Path, folder: &Folder) -> Result<Contents, anyhow::Error> {
    let generations = each_generation(folder, |summary| generation(folder, summary))?;
    let oldest = generations.iter().filter_map(|generation| generation.oldest).min();
    let dead_letters = folder.dead_letters();
    Ok(Contents {
        data_dir: dir.display().to_string(),
        waiting: generations.iter().map(|generation| generation.waiting).sum(),
        oldest_accepted_at: oldest.map(Timestamp::to_rfc3339),
        bytes: generations.iter().map(|generation| generation.bytes).sum(),
        generations,
        dead_letters: dead_letters.letters.len(),
        dead_letters_damage: dead_letters.damage,
        cursors_damage: folder.state_damage().map(str::to_owned),
        quarantined: quarantined(folder)?,
    })
}

/// Reads a generation, unless all of it is settled and counted.
fn generation(folder: &Folder, summary: &GenerationSummary) -> std::io::Result<Generation> {
    let first = summary.first.get();
    let mut generation = Generation {
        name: name(&summary.path),
        first_sequence: first,
        last_sequence: None,
        events: 0,
        waiting: 0,
        bytes: summary.bytes,
        oldest: None,
    };
    let last = |end: u64| end.checked_sub(1).filter(|last| *last >= first);
    if let (true, Some(events), Some(end)) =
        (folder.is_passed(summary), summary.events, summary.end)
    {
        return Ok(Generation { events, last_sequence: last(end.get()), ..generation });
    }
    folder.each_event(summary.first, |event, is_settled| {
        generation.events += 1;
        generation.last_sequence = Some(event.sequence.get());
        if !is_settled {
            generation.waiting += 1;
            let oldest = generation.oldest.get_or_insert(event.accepted_at);
            *oldest = event.accepted_at.min(*oldest);
        }
        true
    })?;
    Ok(generation)
}

fn text(contents: &Contents) -> String {
    let rows: Vec<_> = contents
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
                HumanBytes(generation.bytes).to_string(),
            ]
        })
        .collect();
    let names = ["GENERATION", "FIRST", "LAST", "EVENTS", "WAITING", "SIZE"];
    let mut lines = vec![table(&names, &rows), String::new()];
    let oldest = contents.oldest_accepted_at.as_ref();
    let oldest = oldest.map(|at| format!(", the oldest since {at}")).unwrap_or_default();
    lines.push(format!(
        "{} waiting{oldest}; {}; {} in {}",
        counted(contents.waiting, "event"),
        counted(contents.dead_letters as u64, "dead letter"),
        HumanBytes(contents.bytes),
        contents.data_dir
    ));
    if let Some(damage) = &contents.cursors_damage {
        lines.push(format!("the cursors are damaged, so all counts as waiting: {damage}"));
    }
    if let Some(damage) = &contents.dead_letters_damage {
        lines.push(format!("the dead letters are damaged: {damage}"));
    }
    for Quarantined { path, bytes } in &contents.quarantined {
        lines.push(format!("in quarantine: {path}, {}", HumanBytes(*bytes)));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents() -> Contents {
        let generation = |first: u64, events: u64, waiting| Generation {
            name: format!("gen-{first:020}"),
            first_sequence: first,
            last_sequence: (events > 0).then(|| first + events - 1),
            events,
            waiting,
            bytes: events * 200,
            oldest: None,
        };
        Contents {
            data_dir: "/var/lib/gmfy".to_owned(),
            waiting: 40_003,
            oldest_accepted_at: Some("2026-11-24T12:00:00.120Z".to_owned()),
            bytes: 24_000_000,
            generations: vec![
                generation(1, 80_000, 3),
                generation(80_001, 40_000, 40_000),
                generation(120_001, 0, 0),
            ],
            dead_letters: 1,
            dead_letters_damage: None,
            cursors_damage: None,
            quarantined: Vec::new(),
        }
    }

    #[test]
    fn a_folder_is_listed_for_people() {
        insta::assert_snapshot!(text(&contents()), @r"
        GENERATION                 FIRST    LAST  EVENTS  WAITING       SIZE
        gen-00000000000000000001       1   80000   80000        3  15.26 MiB
        gen-00000000000000080001   80001  120000   40000    40000   7.63 MiB
        gen-00000000000000120001  120001       -       0        0        0 B

        40003 events waiting, the oldest since 2026-11-24T12:00:00.120Z; 1 dead letter; 22.89 MiB in /var/lib/gmfy
        ");
        let damaged = Contents {
            waiting: 1,
            oldest_accepted_at: None,
            generations: Vec::new(),
            dead_letters_damage: Some("a bad checksum".to_owned()),
            cursors_damage: Some("lane 3's cursor".to_owned()),
            quarantined: vec![Quarantined {
                path: "/var/lib/gmfy/quarantine/gen-1".to_owned(),
                bytes: 4096,
            }],
            ..contents()
        };
        insta::assert_snapshot!(text(&damaged), @r"
        GENERATION  FIRST  LAST  EVENTS  WAITING  SIZE

        1 event waiting; 1 dead letter; 22.89 MiB in /var/lib/gmfy
        the cursors are damaged, so all counts as waiting: lane 3's cursor
        the dead letters are damaged: a bad checksum
        in quarantine: /var/lib/gmfy/quarantine/gen-1, 4.00 KiB
        ");
    }

    #[test]
    fn a_folder_is_listed_for_programs() {
        let contents = Contents { generations: contents().generations.split_off(2), ..contents() };
        insta::assert_snapshot!(serde_json::to_string_pretty(&contents).unwrap(), @r#"
        {
          "data_dir": "/var/lib/gmfy",
          "waiting": 40003,
          "oldest_accepted_at": "2026-11-24T12:00:00.120Z",
          "bytes": 24000000,
          "generations": [
            {
              "name": "gen-00000000000000120001",
              "first_sequence": 120001,
              "last_sequence": null,
              "events": 0,
              "waiting": 0,
              "bytes": 0
            }
          ],
          "dead_letters": 1,
          "dead_letters_damage": null,
          "cursors_damage": null,
          "quarantined": []
        }
        "#);
    }
}
