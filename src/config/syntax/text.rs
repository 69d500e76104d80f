//! Keys, paths and log filters.

use std::path::PathBuf;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use super::{Expected, Invalid, Raw, Syntax};
use crate::config::Secret;

/// A key or token that travels in a header.
pub(crate) struct Key;

impl Expected for Key {
    fn expected(&self) -> String {
        "a text that an HTTP header can carry".to_owned()
    }
}

impl Syntax<Secret> for Key {
    fn parse(&self, raw: &Raw) -> Result<Secret, Invalid> {
        key_text(raw.text()?).map(Secret::new).map_err(Invalid::because)
    }

    fn show(&self, value: &Secret) -> String {
        value.to_string()
    }
}

/// The key that a text holds, without the white space around it.
///
/// # Errors
/// Says what is wrong with it, without a character of it.
pub(crate) fn key_text(text: &str) -> Result<&str, &'static str> {
    let key = text.trim();
    if key.is_empty() {
        return Err("it is empty");
    }
    if !key.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return Err("it has line breaks, control characters or characters outside ASCII");
    }
    Ok(key)
}

pub(crate) struct FilePath;

impl Expected for FilePath {
    fn expected(&self) -> String {
        "a path".to_owned()
    }
}

impl Syntax<PathBuf> for FilePath {
    fn parse(&self, raw: &Raw) -> Result<PathBuf, Invalid> {
        let text = raw.text()?;
        if text.is_empty() {
            return Err(Invalid::because("it is empty"));
        }
        if text.contains('\0') {
            return Err(Invalid::because("it has a NUL"));
        }
        Ok(PathBuf::from(text))
    }

    fn show(&self, value: &PathBuf) -> String {
        value.display().to_string()
    }
}

/// A log level, or comma-separated directives for targets.
pub(crate) struct Directives;

impl Expected for Directives {
    fn expected(&self) -> String {
        "`error`, `warn`, `info`, `debug`, `trace` or `off`, or directives such as \
         `info,gmfy_sidecar::delivery=debug`"
            .to_owned()
    }
}

/// Checks a level as the setting log.level is checked.
///
/// # Errors
/// Says what was expected, and why this isn't it.
pub fn check_log_level(level: &str) -> Result<(), String> {
    let checked = Directives.parse(&Raw::Text(level.to_owned()));
    checked.map(drop).map_err(|invalid| {
        let why = invalid.because.map(|why| format!(": {why}")).unwrap_or_default();
        format!("expected {}{why}", Directives.expected())
    })
}

impl Syntax<String> for Directives {
    fn parse(&self, raw: &Raw) -> Result<String, Invalid> {
        let text = raw.text()?;
        for directive in text.split(',').map(str::trim) {
            // A bare word that is no level would be taken for a target at level trace, and a
            // mistyped level would silence all the rest.
            let bare = !directive.contains(['=', '[', '{', ']', '}']);
            let level = !directive.is_empty() && directive.parse::<LevelFilter>().is_ok();
            if bare && !level {
                let why = format!("{directive:?} is no level; a target needs one: TARGET=LEVEL");
                return Err(Invalid::because(why));
            }
        }
        EnvFilter::builder().parse(text).map_err(|error| Invalid::because(error.to_string()))?;
        Ok(text.to_owned())
    }

    fn show(&self, value: &String) -> String {
        value.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_trimmed_and_fit_for_a_header() {
        assert_eq!(key_text(" k3y\n"), Ok("k3y"));
        assert_eq!(key_text("two words"), Ok("two words"));
        for text in ["", " \n", "a\nb", "a\u{7f}", "schlüssel", "a\0b"] {
            assert!(key_text(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_level_is_a_level_or_directives() {
        for (text, fine) in [
            ("info", true),
            ("WARN", true),
            ("off", true),
            ("info,hyper=warn", true),
            ("gmfy_sidecar::delivery=debug, warn", true),
            ("info,[request{id=5}]=trace", true),
            ("", false),
            ("inof", false),
            ("info,", false),
            ("hyper", false),
            ("hyper=loud", false),
            ("info,[=trace", false),
        ] {
            assert_eq!(Directives.parse(&Raw::Text(text.to_owned())).is_ok(), fine, "{text:?}");
        }
    }
}
