//! Dead letters as people read them.

use serde::Deserialize;

use crate::cli::table::{Side, cell, table};
use crate::http::admin::{DeadLetterDocument, DeadLettersDocument};

/// The longest text of a cell, in characters.
const LONGEST: usize = 40;

/// Of an event, as far as the list shows it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Event {
    #[serde(rename = "userId")]
    user: String,
    #[serde(rename = "type")]
    event_type: String,
}

/// A page as a table, with how to go on.
pub(super) fn list(page: &DeadLettersDocument) -> String {
    let Some(last) = page.dead_letters.last() else { return "no dead letters".to_owned() };
    let columns = [
        ("SEQ", Side::Right),
        ("DEAD SINCE", Side::Left),
        ("REASON", Side::Left),
        ("STATUS", Side::Right),
        ("TRIES", Side::Right),
        ("USER", Side::Left),
        ("TYPE", Side::Left),
        ("ANSWER", Side::Left),
    ];
    let rows: Vec<_> = page.dead_letters.iter().map(row).collect();
    let table = table(&columns, &rows);
    match page.next {
        Some(_) => format!("{table}\n\nThere are more: dead-letters list --after {}", last.seq),
        None => table,
    }
}

fn row(letter: &DeadLetterDocument) -> Vec<String> {
    let event: Event = serde_json::from_str(letter.event.get()).unwrap_or_default();
    vec![
        letter.seq.to_string(),
        letter.dead_lettered_at.clone(),
        letter.reason.clone(),
        status(letter),
        letter.attempts.to_string(),
        cell(&event.user, LONGEST),
        cell(&event.event_type, LONGEST),
        cell(&letter.answer, LONGEST),
    ]
}

fn status(letter: &DeadLetterDocument) -> String {
    letter.status.map_or_else(|| "-".to_owned(), |status| status.to_string())
}

/// One, whole.
pub(super) fn letter(letter: &DeadLetterDocument) -> String {
    let why = match letter.reason.as_str() {
        "rejected" => "GMFY refused it",
        "too_large" => "GMFY found it too large",
        "unknown" => "it can't be known whether GMFY took it, and delivery.on_unknown is park",
        "expired" => "it was older than queue.max_age",
        other => other,
    };
    [
        format!("sequence      {}", letter.seq),
        format!("reason        {}: {why}", letter.reason),
        format!("status        {}", status(letter)),
        format!("tries         {}", letter.attempts),
        format!("accepted      {}", letter.accepted_at),
        format!("dead since    {}", letter.dead_lettered_at),
        format!("GMFY's words  {}", cell(&letter.answer, 2000)),
        format!("event         {}", letter.event.get()),
    ]
    .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::value::RawValue;

    fn page(next: Option<u64>) -> DeadLettersDocument {
        let one = |seq, reason: &str, status, event: &str| DeadLetterDocument {
            seq,
            reason: reason.to_owned(),
            status,
            answer: "{\"detail\":\"no such type\"}".to_owned(),
            attempts: 3,
            accepted_at: "2026-11-24T12:00:00.000Z".to_owned(),
            dead_lettered_at: "2026-11-24T12:00:01.500Z".to_owned(),
            event: RawValue::from_string(event.to_owned()).unwrap(),
        };
        let dead_letters = vec![
            one(7, "rejected", Some(422), r#"{"userId":"ada","type":"vist"}"#),
            one(1040, "expired", None, r#"{"userId":"a\u001b[2J\nb","type":"visit","x":[1,2]}"#),
        ];
        DeadLettersDocument { dead_letters, next }
    }

    #[test]
    fn a_page_is_a_table() {
        insta::assert_snapshot!(list(&page(None)), @r#"
         SEQ  DEAD SINCE                REASON    STATUS  TRIES  USER     TYPE   ANSWER
           7  2026-11-24T12:00:01.500Z  rejected     422      3  ada      vist   {"detail":"no such type"}
        1040  2026-11-24T12:00:01.500Z  expired        -      3  a [2J b  visit  {"detail":"no such type"}
        "#);
        let more = list(&page(Some(1040)));
        assert!(more.ends_with("\n\nThere are more: dead-letters list --after 1040"), "{more}");
        let none = DeadLettersDocument { dead_letters: Vec::new(), next: None };
        assert_eq!(list(&none), "no dead letters");
    }

    #[test]
    fn one_is_shown_whole() {
        insta::assert_snapshot!(letter(&page(None).dead_letters[0]), @r#"
        sequence      7
        reason        rejected: GMFY refused it
        status        422
        tries         3
        accepted      2026-11-24T12:00:00.000Z
        dead since    2026-11-24T12:00:01.500Z
        GMFY's words  {"detail":"no such type"}
        event         {"userId":"ada","type":"vist"}
        "#);
    }
}
