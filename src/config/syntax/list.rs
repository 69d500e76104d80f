//! Lists: arrays in the file, comma-separated texts elsewhere.

use super::{Expected, Invalid, Raw, Syntax};

/// At least `min` values of one syntax. `none` is the empty list.
pub(crate) struct List<S> {
    pub(crate) of: S,
    pub(crate) min: usize,
}

impl<S: Expected> Expected for List<S> {
    fn expected(&self) -> String {
        let none = if self.min == 0 { ", or `none`" } else { "" };
        format!("a list, each {}{none}", self.of.expected())
    }
}

impl<T, S: Syntax<T>> Syntax<Vec<T>> for List<S> {
    fn parse(&self, raw: &Raw) -> Result<Vec<T>, Invalid> {
        let values = match raw {
            Raw::List(values) => values.clone(),
            Raw::Text(text) => split(text),
            Raw::Other(_) => return Err(raw.text().err().unwrap_or_default()),
        };
        if values.len() < self.min {
            return Err(Invalid::because(format!(
                "it has {} of at least {}",
                values.len(),
                self.min
            )));
        }
        values.into_iter().map(|value| self.of.parse(&Raw::Text(value))).collect()
    }

    fn show(&self, values: &Vec<T>) -> String {
        if values.is_empty() {
            return "none".to_owned();
        }
        let shown: Vec<_> = values.iter().map(|value| self.of.show(value)).collect();
        shown.join(", ")
    }

    fn toml(&self, values: &Vec<T>) -> String {
        let shown: Vec<_> = values.iter().map(|value| self.of.toml(value)).collect();
        format!("[{}]", shown.join(", "))
    }
}

fn split(text: &str) -> Vec<String> {
    match text.trim() {
        "" | "none" => Vec::new(),
        text => text.split(',').map(|value| value.trim().to_owned()).collect(),
    }
}
