//! One of a few words; a value or a word that stands for its absence.

use super::{Expected, Invalid, Raw, Syntax};

/// One of these words.
pub(crate) struct Words<T: 'static>(pub(crate) &'static [(&'static str, T)]);

impl<T> Expected for Words<T> {
    fn expected(&self) -> String {
        let words: Vec<_> = self.0.iter().map(|(word, _)| format!("`{word}`")).collect();
        words.join(" or ")
    }
}

impl<T: Copy + PartialEq> Syntax<T> for Words<T> {
    fn parse(&self, raw: &Raw) -> Result<T, Invalid> {
        let text = raw.text()?;
        let found = self.0.iter().find(|(word, _)| *word == text);
        found.map(|(_, value)| *value).ok_or_else(Invalid::default)
    }

    fn show(&self, value: &T) -> String {
        let found = self.0.iter().find(|(_, candidate)| candidate == value);
        found.map_or_else(String::new, |(word, _)| (*word).to_owned())
    }
}

pub(crate) struct Boolean;

impl Expected for Boolean {
    fn expected(&self) -> String {
        "`true` or `false`".to_owned()
    }
}

impl Syntax<bool> for Boolean {
    fn parse(&self, raw: &Raw) -> Result<bool, Invalid> {
        raw.text()?.parse().map_err(|_| Invalid::default())
    }

    fn show(&self, value: &bool) -> String {
        value.to_string()
    }

    fn toml(&self, value: &bool) -> String {
        value.to_string()
    }
}

/// A value, or this word for none.
pub(crate) struct Or<S>(pub(crate) &'static str, pub(crate) S);

impl<S: Expected> Expected for Or<S> {
    fn expected(&self) -> String {
        format!("{}, or `{}`", self.1.expected(), self.0)
    }
}

impl<T, S: Syntax<T>> Syntax<Option<T>> for Or<S> {
    fn parse(&self, raw: &Raw) -> Result<Option<T>, Invalid> {
        match raw {
            Raw::Text(text) if text.trim() == self.0 => Ok(None),
            Raw::Text(_) | Raw::List(_) | Raw::Other(_) => self.1.parse(raw).map(Some),
        }
    }

    fn show(&self, value: &Option<T>) -> String {
        value.as_ref().map_or_else(|| self.0.to_owned(), |value| self.1.show(value))
    }

    fn toml(&self, value: &Option<T>) -> String {
        value.as_ref().map_or_else(|| super::quoted(self.0), |value| self.1.toml(value))
    }
}
