//! The effective settings, for people and for programs.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::load::Effective;

/// A column wider than this isn't padded to: one long value should not push all origins away.
const WIDEST: usize = 40;

/// A line for each setting: name, value, origin.
#[must_use]
pub fn effective_table(effective: &[Effective]) -> String {
    let width = |text: fn(&Effective) -> &str| {
        let widths = effective.iter().map(|one| text(one).chars().count());
        widths.filter(|width| *width <= WIDEST).max().unwrap_or(0)
    };
    let keys = width(|one| &one.key);
    let values = width(|one| &one.value_text);
    let mut table = String::new();
    for Effective { key, value_text, origin } in effective {
        // Writing to a String doesn't fail.
        let _ok = writeln!(table, "{key:keys$}  {value_text:values$}  {origin}");
    }
    table
}

/// An object with a member for each setting: `{"value": …, "origin": …}`, both texts.
#[must_use]
pub fn effective_json(effective: &[Effective]) -> Value {
    let members = effective.iter().map(|Effective { key, value_text, origin }| {
        (key.clone(), json!({ "value": value_text, "origin": origin.to_string() }))
    });
    Value::Object(members.collect::<Map<_, _>>())
}
