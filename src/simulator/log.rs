//! A line for each event, for the person who watches.

use std::fmt::Write as _;

use tracing::{Level, enabled, info};

use super::wire::WireEvent;
use super::world::{Effect, News};

/// Batches of more events get one line.
const LINES_MAX: usize = 5;

/// Whether the effects of so many events are shown one by one.
pub(super) fn shows_each(events: usize) -> bool {
    events <= LINES_MAX && enabled!(target: "gmfy_simulator", Level::INFO)
}

/// One line for one event.
pub(super) fn event(event: &WireEvent<'_>, effect: &Effect) {
    info!(
        target: "gmfy_simulator",
        user = %event.user_id,
        event_type = %event.event_type,
        "{}", words(effect)
    );
}

/// One line for a large batch.
pub(super) fn batch(events: usize, duplicates: usize, users: usize) {
    info!(target: "gmfy_simulator", events, duplicates, users_known = users, "a batch of events");
}

fn words(effect: &Effect) -> String {
    match effect {
        Effect::Duplicate => "counted before, no effect".to_owned(),
        Effect::NotKept => "applied; too many users to keep this one's state".to_owned(),
        Effect::Moved { points, total, news } => {
            let mut words = format!("+{points} points in Activity (now {total})");
            for news in news {
                let kind = match news {
                    News::Badge(_) => "badge",
                    News::Challenge(_) => "completed",
                    News::Feature(_) => "unlocked",
                };
                // Writing to a String doesn't fail.
                let _written = write!(words, ", {kind} {}", news.name());
            }
            words
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_effect_is_told_in_words() {
        let news = vec![News::Badge(0), News::Feature(0), News::Challenge(0)];
        let effect = Effect::Moved { points: 10, total: 30, news };
        assert_eq!(
            words(&effect),
            "+10 points in Activity (now 30), badge Newcomer, unlocked Custom avatar, \
             completed First steps"
        );
    }
}
