//! A status as people read it.

use std::time::Duration;

use indicatif::HumanBytes;

use crate::cli::output::{Colour, Paint};
use crate::cli::table::{Side, cell, table};
use crate::http::admin::{LaneStatus, Status};

/// The longest text of a fault in a line, in characters.
const LONGEST: usize = 80;

/// The whole status.
pub(super) fn status(status: &Status, paint: Paint) -> String {
    let mut lines = vec![format!(
        "gmfy-sidecar {} ({}), up for {}, {}",
        status.version,
        status.revision,
        span(Duration::from_secs(status.uptime_seconds)),
        readiness(status, paint),
    )];
    lines.push(String::new());
    lines.extend(upstream(status, paint));
    lines.push(queue(status));
    if let Some(nats) = &status.queue.nats {
        let servers = format!(
            "nats-server {}, stream {} on {} servers; an acknowledgement means:",
            nats.server_version, nats.stream, nats.replicas
        );
        lines.push(row("NATS", &cell(&servers, 2 * LONGEST)));
        lines.push(row("", &cell(&nats.acknowledgement, 4 * LONGEST)));
        if let Some(spill) = &nats.spill {
            let text = format!(
                "{} waiting for NATS on this replica's disk; {} of {}",
                events_counted(spill.events),
                HumanBytes(spill.bytes),
                HumanBytes(spill.capacity_bytes),
            );
            lines.push(row("spill", &text));
        }
    }
    lines.push(row("dead letters", &dead_letters(status, paint)));
    lines.push(row("events", &events(status)));
    lines.push(row("read cache", &cache(status)));
    for damage in &status.queue.damages {
        let text =
            format!("{}: {}; put aside in {}", damage.what, damage.reason, damage.quarantine);
        lines.push(row("damaged", &paint.text(Colour::Bad, &cell(&text, 4 * LONGEST))));
    }
    lines.push(String::new());
    lines.push(lanes(&status.lanes));
    lines.join("\n")
}

fn row(name: &str, text: &str) -> String {
    format!("{name:<12}  {text}")
}

fn readiness(status: &Status, paint: Paint) -> String {
    match &status.ready.why {
        None => paint.text(Colour::Good, "ready"),
        Some(why) => paint.text(Colour::Bad, &format!("not ready: {why}")),
    }
}

fn upstream(status: &Status, paint: Paint) -> Vec<String> {
    let upstream = &status.upstream;
    let colour = match upstream.state.as_str() {
        "up" => Colour::Good,
        "misconfigured" => Colour::Bad,
        _ => Colour::Warning,
    };
    let state = paint.text(colour, &upstream.state);
    let mut lines = vec![row("GMFY", &format!("{state} since {}", upstream.since))];
    if let Some(why) = &upstream.why {
        lines.push(row("", &cell(why, LONGEST)));
    }
    if let Some(at) = &upstream.next_attempt_at {
        lines.push(row("", &format!("the next request goes out at {at}")));
    }
    if let Some(status) = upstream.dead_lettering_status {
        let text = format!("what it refuses with {status} becomes dead letters, as asked for");
        lines.push(row("", &paint.text(Colour::Warning, &text)));
    }
    lines
}

fn queue(status: &Status) -> String {
    let queue = &status.queue;
    let oldest = queue.oldest_age_seconds.map(|age| format!(", the oldest for {}", seconds(age)));
    row(
        "queue",
        &format!(
            "{} waiting{}; {} of {}, durability {}",
            events_counted(queue.events),
            oldest.unwrap_or_default(),
            HumanBytes(queue.bytes),
            HumanBytes(queue.capacity_bytes),
            queue.durability,
        ),
    )
}

fn dead_letters(status: &Status, paint: Paint) -> String {
    match status.dead_letters {
        0 => "none".to_owned(),
        count => paint.text(Colour::Warning, &format!("{count} (gmfy-sidecar dead-letters list)")),
    }
}

fn events(status: &Status) -> String {
    let counts = &status.events;
    let all = [
        ("accepted", counts.accepted, true),
        ("found at the start", counts.recovered, false),
        ("requeued", counts.requeued, false),
        ("duplicate", counts.duplicates, false),
        ("delivered", counts.delivered, true),
        ("dead-lettered", counts.dead_lettered, false),
        ("dropped", counts.dropped, false),
    ];
    let shown = all.iter().filter(|(_, count, always)| *always || *count > 0);
    let shown: Vec<_> = shown.map(|(name, count, _)| format!("{count} {name}")).collect();
    shown.join(", ")
}

fn cache(status: &Status) -> String {
    let cache = &status.cache;
    let mut text = format!("{} entries, {}", cache.entries, HumanBytes(cache.bytes));
    let ratios =
        cache.hit_ratio.iter().map(|(route, ratio)| format!("{route} {:.0} %", ratio * 100.0));
    let ratios: Vec<_> = ratios.collect();
    if !ratios.is_empty() {
        text.push_str("; hits: ");
        text.push_str(&ratios.join(", "));
    }
    text
}

fn lanes(lanes: &[LaneStatus]) -> String {
    let columns = [
        ("LANE", Side::Right),
        ("STATE", Side::Left),
        ("IN WORK", Side::Right),
        ("OLDEST", Side::Right),
        ("LAST ERROR", Side::Left),
    ];
    let rows = lanes.iter().map(|lane| {
        vec![
            lane.lane.to_string(),
            lane.state.clone(),
            lane.in_work.to_string(),
            lane.oldest_age_seconds.map_or_else(|| "-".to_owned(), seconds),
            lane.last_error.as_deref().map_or_else(|| "-".to_owned(), |text| cell(text, LONGEST)),
        ]
    });
    table(&columns, &rows.collect::<Vec<_>>())
}

fn events_counted(count: u64) -> String {
    format!("{count} event{}", if count == 1 { "" } else { "s" })
}

fn seconds(seconds: f64) -> String {
    span(Duration::try_from_secs_f64(seconds).unwrap_or_default())
}

/// A length of time in its two largest units.
pub(super) fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", duration.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{} m {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::http::admin::{
        CacheStatus, DamageStatus, EventCounts, QueueStatus, Ready, UpstreamStatus,
    };

    /// A sidecar that waits for GMFY.
    pub(in crate::cli::status) fn status() -> Status {
        let lane = |lane, state: &str, in_work, oldest_age_seconds, last_error: Option<&str>| {
            let last_error = last_error.map(str::to_owned);
            LaneStatus { lane, state: state.to_owned(), in_work, oldest_age_seconds, last_error }
        };
        let mut cache = CacheStatus { entries: 12, bytes: 48_000, ..CacheStatus::default() };
        cache.hit_ratio.insert("users".to_owned(), 0.914);
        Status {
            version: "0.1.0".to_owned(),
            revision: "abc1234".to_owned(),
            started_at: "2026-11-24T10:00:00.000Z".to_owned(),
            uptime_seconds: 11_520,
            ready: Ready { ready: true, why: None },
            upstream: UpstreamStatus {
                state: "open".to_owned(),
                since: "2026-11-24T13:11:00.000Z".to_owned(),
                why: Some("GMFY answered 503".to_owned()),
                next_attempt_at: Some("2026-11-24T13:12:04.000Z".to_owned()),
                dead_lettering_status: None,
            },
            queue: QueueStatus {
                events: 1_042,
                bytes: 3_400_000,
                capacity_bytes: 1 << 30,
                oldest_age_seconds: Some(61.4),
                durability: "sync".to_owned(),
                damages: Vec::new(),
                nats: None,
            },
            lanes: vec![
                lane(0, "waiting", 500, Some(61.4), Some("GMFY answered 503")),
                lane(1, "idle", 0, None, None),
            ],
            dead_letters: 3,
            events: EventCounts {
                accepted: 20_000,
                delivered: 18_955,
                dead_lettered: 3,
                ..EventCounts::default()
            },
            cache,
        }
    }

    #[test]
    fn a_status_is_shown_for_people() {
        insta::assert_snapshot!(super::status(&status(), Paint::NONE), @r"
        gmfy-sidecar 0.1.0 (abc1234), up for 3 h 12 m, ready

        GMFY          open since 2026-11-24T13:11:00.000Z
                      GMFY answered 503
                      the next request goes out at 2026-11-24T13:12:04.000Z
        queue         1042 events waiting, the oldest for 1 m 1 s; 3.24 MiB of 1.00 GiB, durability sync
        dead letters  3 (gmfy-sidecar dead-letters list)
        events        20000 accepted, 18955 delivered, 3 dead-lettered
        read cache    12 entries, 46.88 KiB; hits: users 91 %

        LANE  STATE    IN WORK   OLDEST  LAST ERROR
           0  waiting      500  1 m 1 s  GMFY answered 503
           1  idle           0        -  -
        ");
    }

    #[test]
    fn colours_tell_what_to_look_at() {
        let mut status = status();
        status.ready = Ready { ready: false, why: Some("the queue is full".to_owned()) };
        status.upstream.state = "misconfigured".to_owned();
        status.queue.damages.push(DamageStatus {
            what: "gen-1".to_owned(),
            reason: "a bad checksum".to_owned(),
            lost: vec![(3, 9)],
            quarantine: "/data/quarantine/gen-1".to_owned(),
        });
        let text = super::status(&status, Paint::ALWAYS);
        assert!(text.contains("\u{1b}[31mnot ready: the queue is full\u{1b}[0m"), "{text}");
        assert!(text.contains("\u{1b}[31mmisconfigured\u{1b}[0m"), "{text}");
        assert!(
            text.contains("damaged       \u{1b}[31mgen-1: a bad checksum; put aside in"),
            "{text}"
        );
        assert!(text.contains("\u{1b}[33m3 (gmfy-sidecar"), "{text}");
    }

    #[test]
    fn times_are_told_in_their_two_largest_units() {
        for (millis, expected) in [
            (0, "0.0 s"),
            (1_240, "1.2 s"),
            (59_999, "59 s"),
            (61_000, "1 m 1 s"),
            (7_260_000, "2 h 1 m"),
            (180_000_000, "2 d 2 h"),
        ] {
            assert_eq!(span(Duration::from_millis(millis)), expected);
        }
    }
}
