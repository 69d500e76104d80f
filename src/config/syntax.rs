//! How values are written: one small type for each syntax, the same in the file, in the
//! environment and in flags.

mod choice;
mod duration;
mod list;
mod nats;
mod network;
mod number;
mod size;
mod text;

pub(crate) use choice::{Boolean, Or, Words};
pub(crate) use duration::Period;
pub use duration::parse_duration;
pub(crate) use list::List;
pub(crate) use nats::{NatsServer, StreamName};
pub(crate) use network::{Address, BaseUrl, Host, Required, UrlPath};
pub(crate) use number::{Count, FileMode, Ratio};
pub(crate) use size::{GIB, KIB, MIB, Size, TIB};
pub use text::check_log_level;
pub(crate) use text::{Directives, FilePath, Key, key_text};

/// A value as it was written. The file's numbers and booleans are their texts.
pub(crate) enum Raw {
    Text(String),
    List(Vec<String>),
    /// Something no setting takes; says what.
    Other(&'static str),
}

impl Raw {
    /// The text, without white space around it.
    ///
    /// # Errors
    /// For anything but a text, a number or a boolean.
    pub(crate) fn text(&self) -> Result<&str, Invalid> {
        match self {
            Self::Text(text) => Ok(text.trim()),
            Self::List(_) => Err(Invalid::because("not a list")),
            Self::Other(what) => Err(Invalid::because(format!("not {what}"))),
        }
    }
}

/// Why a text is not a value; what was expected instead is known to its syntax.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Invalid {
    pub(crate) because: Option<String>,
    /// The text may hold a credential and must not be shown.
    pub(crate) hide_value: bool,
}

impl Invalid {
    pub(crate) fn because(reason: impl Into<String>) -> Self {
        Self { because: Some(reason.into()), hide_value: false }
    }

    pub(crate) const fn hidden(mut self) -> Self {
        self.hide_value = true;
        self
    }
}

/// What a syntax accepts, in words that follow "expected".
pub(crate) trait Expected {
    fn expected(&self) -> String;
}

/// A syntax for values of `T`. `parse` takes back what `show` wrote, secrets apart.
pub(crate) trait Syntax<T>: Expected {
    fn parse(&self, raw: &Raw) -> Result<T, Invalid>;

    /// The value as people read it.
    fn show(&self, value: &T) -> String;

    /// The value as it stands in the file.
    fn toml(&self, value: &T) -> String {
        quoted(&self.show(value))
    }
}

/// A TOML basic string.
pub(crate) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
