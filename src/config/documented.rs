//! The settings file that documents every setting with its default.

use super::file::TYPES;
use super::schema::{SCHEMA, SECTIONS, Takes, defaults};

const HEAD: &str = "\
# The settings of gmfy-sidecar: every one, with its default. Uncomment what you change.
#
# A setting NAME of the table [SECTION] is also set by the environment variable
# GMFY_SECTION__NAME, which wins over this file, and by `--set SECTION.NAME=VALUE`, which wins over
# both; lists are comma-separated there. `gmfy-sidecar check` shows what applies, and why.
#
# This file is generated from the program's own table of settings.
";

const TYPES_HELP: &str = "\
# The application's event types, in this file only. With none, every type is accepted.
#subscription = { kind = \"action\", actions = [\"create\", \"remove\"] }
#register = { kind = \"classic\" }
#visit_user = { kind = \"unique\" }
";

/// The longest line, in characters.
const WIDTH: usize = 100;

/// The text of the documented settings file. It changes nothing when it is used as it stands.
#[must_use]
pub fn documented_file() -> String {
    let defaults = defaults();
    let mut file = HEAD.to_owned();
    for (section, about) in SECTIONS {
        file.push('\n');
        if !about.is_empty() {
            push_comment(&mut file, about);
        }
        file.push_str(&format!("[{section}]\n"));
        if section == TYPES {
            file.push_str(TYPES_HELP);
        }
        for setting in SCHEMA {
            let Some((_, name)) = setting.name.rsplit_once('.').filter(|(of, _)| *of == section)
            else {
                continue;
            };
            let restart = match setting.takes {
                Takes::Reload => "",
                Takes::Restart => " A change needs a restart.",
            };
            let expected = (setting.expected)();
            push_comment(&mut file, &format!("{}{restart} Takes {expected}.", setting.doc));
            file.push_str(&format!("#{name} = {}\n", (setting.toml)(&defaults)));
        }
    }
    file
}

/// Appends the text as a comment, its lines broken between words.
fn push_comment(file: &mut String, text: &str) {
    let mut width = 0;
    for word in text.split_whitespace() {
        let next = word.chars().count() + 1;
        if width == 0 || width + next > WIDTH {
            file.push_str(if width == 0 { "#" } else { "\n#" });
            width = 1;
        }
        file.push(' ');
        file.push_str(word);
        width += next;
    }
    file.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Settings, Sources};

    fn load(text: &str) -> crate::config::Loaded {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("settings.toml");
        std::fs::write(&path, text).unwrap();
        let environment = vec![
            ("GMFY_URL".to_owned(), "http://gmfy.test".to_owned()),
            ("GMFY_API_KEY".to_owned(), "k".to_owned()),
        ];
        Settings::load(&Sources { file: Some(path), environment, ..Sources::default() }).unwrap()
    }

    /// `UPDATE=1 cargo test --lib the_committed_file` writes it.
    #[test]
    fn the_committed_file_is_the_generated_one() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/config/gmfy-sidecar.toml");
        let generated = documented_file();
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(path, &generated).unwrap();
        }
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            committed == generated,
            "config/gmfy-sidecar.toml is not what the schema says; to write it anew: \
             UPDATE=1 cargo test --lib the_committed_file"
        );
    }

    #[test]
    fn the_documented_file_changes_nothing_also_when_its_defaults_are_uncommented() {
        let expected = Settings::with_upstream("http://gmfy.test", "k");
        let commented = documented_file();
        assert_eq!(load(&commented).settings, expected);
        let set = |line: &str| match line.strip_prefix('#') {
            Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase()) => rest.to_owned(),
            _ => line.to_owned(),
        };
        let uncommented: Vec<_> = commented.lines().map(set).collect();
        let mut loaded = load(&uncommented.join("\n"));
        assert_eq!(loaded.settings.events.types.len(), 3, "the examples are valid");
        loaded.settings.events.types.clear();
        assert_eq!(loaded.settings, expected);
        let from_file =
            |one: &&crate::config::Effective| one.origin.to_string().starts_with("file");
        assert_eq!(loaded.effective.iter().filter(from_file).count(), SCHEMA.len() - 2 + 3);
    }

    #[test]
    fn no_line_is_too_long_to_read() {
        for line in documented_file().lines() {
            assert!(line.chars().count() <= WIDTH, "{line}");
        }
    }
}
