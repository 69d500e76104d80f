//! The settings file: TOML, read into names, values and lines.

use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Origin};
use super::nearest::nearest;
use super::schema::{SCHEMA, SECTIONS, Setting};
use super::syntax::Raw;

/// The name of the catalogue's table.
pub(crate) const TYPES: &str = "events.types";

/// What a file says.
#[derive(Default)]
pub(crate) struct Contents {
    /// The settings that it sets.
    pub(crate) values: Vec<(&'static Setting, Raw, Origin)>,
    /// The entries of `events.types`, each with its name.
    pub(crate) types: Vec<(String, TypeEntry, Origin)>,
    pub(crate) errors: Vec<ConfigError>,
}

/// An entry of `events.types` as it is written; its fields' names and values.
pub(crate) type TypeEntry = Option<Vec<(String, Raw)>>;

/// Reads a settings file.
pub(crate) fn read(path: &Path) -> Contents {
    let mut contents = Contents::default();
    match std::fs::read_to_string(path) {
        Ok(text) => Reader { path, text: &text, contents: &mut contents }.read(),
        Err(error) => contents.errors.push(ConfigError {
            key: format!("--config {}", path.display()),
            value: None,
            origin: Origin::Default,
            problem: format!("the file can't be read: {error}"),
            nearest: None,
        }),
    }
    contents
}

struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
    contents: &'a mut Contents,
}

impl Reader<'_> {
    fn read(&mut self) {
        let (table, errors) = DeTable::parse_recoverable(self.text);
        for error in &errors {
            // Not the error's `Display`: that quotes the line, which may hold a key.
            let origin = self.origin(error.span().unwrap_or_default());
            let problem = format!("not TOML: {}", error.message());
            self.refuse(String::new(), origin, problem, None);
        }
        // What was recovered of a broken file is not what was meant.
        if errors.is_empty() {
            self.table("", table.get_ref());
        }
    }

    fn table(&mut self, prefix: &str, table: &DeTable<'_>) {
        for (key, value) in table {
            let origin = self.origin(key.span());
            let name = if prefix.is_empty() {
                key.get_ref().to_string()
            } else {
                format!("{prefix}.{}", key.get_ref())
            };
            self.entry(&name, value.get_ref(), origin);
        }
    }

    fn entry(&mut self, name: &str, value: &DeValue<'_>, origin: Origin) {
        if let Some(setting) = Setting::named(name) {
            self.contents.values.push((setting, raw(value), origin));
            return;
        }
        let section = SECTIONS.iter().any(|(section, _)| *section == name);
        match value.as_table() {
            Some(table) if name == TYPES => self.types(table),
            // An unknown section's keys tell better than its name what was meant.
            Some(table) if section || (!name.contains('.') && !table.is_empty()) => {
                self.table(name, table);
            }
            None if section => {
                self.refuse(name.to_owned(), origin, "expected a table".to_owned(), None);
            }
            Some(_) | None => {
                let settings = SCHEMA.iter().map(|setting| setting.name);
                let sections = SECTIONS.iter().map(|(section, _)| *section);
                let nearest = nearest(name, settings.chain(sections)).map(str::to_owned);
                self.refuse(name.to_owned(), origin, "unknown setting".to_owned(), nearest);
            }
        }
    }

    fn types(&mut self, table: &DeTable<'_>) {
        for (name, value) in table {
            let origin = self.origin(name.span());
            let entry = value.get_ref().as_table().map(|fields| {
                let field = |(key, value): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
                    let key: &std::borrow::Cow<'_, str> = key.get_ref();
                    (key.to_string(), raw(value.get_ref()))
                };
                fields.iter().map(field).collect()
            });
            self.contents.types.push((name.get_ref().to_string(), entry, origin));
        }
    }

    fn refuse(&mut self, key: String, origin: Origin, problem: String, nearest: Option<String>) {
        self.contents.errors.push(ConfigError { key, value: None, origin, problem, nearest });
    }

    fn origin(&self, span: Range<usize>) -> Origin {
        let before = self.text.as_bytes().iter().take(span.start);
        let line = before.filter(|byte| **byte == b'\n').count().saturating_add(1);
        Origin::File { path: self.path.to_owned(), line }
    }
}

fn raw(value: &DeValue<'_>) -> Raw {
    match value {
        DeValue::Array(values) => {
            let texts: Option<Vec<_>> =
                values.iter().map(|value| scalar(value.get_ref())).collect();
            texts.map_or(Raw::Other("a list of lists or tables"), Raw::List)
        }
        DeValue::Table(_) => Raw::Other("a table"),
        DeValue::Datetime(_) => Raw::Other("a date or time"),
        DeValue::String(_) | DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) => {
            scalar(value).map_or(Raw::Other("that"), Raw::Text)
        }
    }
}

fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => Some(number.to_string()),
        DeValue::Float(number) => Some(number.to_string()),
        DeValue::Boolean(boolean) => Some(boolean.to_string()),
        DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => None,
    }
}
