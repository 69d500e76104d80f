//! `docs/settings.md` and `docs/http.md`, made from what the binary prints.

use std::fmt::Write as _;

use serde_json::Value;

use crate::pages::{binary, root};

fn printed(arguments: &[&str]) -> String {
    let output = binary().args(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Compares a page with what it should be; `GMFY_REWRITE=1` writes it.
fn assert_committed(page: &str, generated: &str) {
    let path = root().join(page);
    if std::env::var_os("GMFY_REWRITE").is_some() {
        std::fs::write(&path, generated).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == generated,
        "{page} is not what the program says; to write it anew: \
         GMFY_REWRITE=1 cargo test --test documents"
    );
}

const SETTINGS: &str = "# Settings

Made from the program by a test (`GMFY_REWRITE=1 cargo test --test documents`): not to be edited.

A setting `section.name` is set in the file (`--config FILE`) as `name` in the table `[section]`, by the
environment variable `GMFY_SECTION__NAME`, or by `--set section.name=VALUE`; the later of these wins.
Lists are comma-separated in variables and flags. `GMFY_URL` and `GMFY_API_KEY` set `upstream.url` and
`upstream.api_key`. An unknown key is an error that names the nearest known one. `gmfy-sidecar check`
prints what is in force and where it is from; `gmfy-sidecar check --defaults` prints a file with every
setting, which is `config/gmfy-sidecar.toml`.
";

#[test]
fn the_page_of_settings_is_the_programs() {
    let defaults = printed(&["check", "--defaults"]);
    let mut page = SETTINGS.to_owned();
    let (mut comment, mut section, mut in_table, mut settings) =
        (Vec::new(), String::new(), false, 0);
    // The file's own head ends with the first blank line.
    for line in defaults.lines().skip_while(|line| !line.is_empty()) {
        if let Some(text) = line.strip_prefix("# ") {
            comment.push(text);
        } else if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']').to_owned();
            let about = comment.join(" ");
            let _ =
                write!(page, "\n## {section}\n{}{about}", if about.is_empty() { "" } else { "\n" });
            (comment, in_table) = (Vec::new(), false);
        } else if let Some((name, value)) =
            line.strip_prefix('#').and_then(|line| line.split_once(" = "))
        {
            if !in_table {
                page = page.trim_end().to_owned()
                    + "\n\n| setting | default | meaning |\n|---|---|---|\n";
                in_table = true;
            }
            let meaning = std::mem::take(&mut comment).join(" ").replace('|', "\\|");
            if section == "events.types" {
                // Examples: no setting of these names has a default.
                let _ = writeln!(
                    page,
                    "| `{section}.{name}` | none | {meaning} For example `{value}`. |"
                );
            } else {
                let _ = writeln!(page, "| `{section}.{name}` | `{value}` | {meaning} |");
                settings += 1;
            }
        }
    }
    assert!(settings > 50, "only {settings} settings: were they found?");
    assert_committed("docs/settings.md", &page);
}

const HTTP: &str = "# HTTP

Made from the program's OpenAPI document by a test (`GMFY_REWRITE=1 cargo test --test documents`): not
to be edited. `gmfy-sidecar openapi` prints the document itself, with the schemas; the admin listener serves it
at `/openapi.json`.
";

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A table's cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

fn operation(page: &mut String, method: &str, path: &str, operation: &Value) {
    let _ = writeln!(
        page,
        "\n### {} {path}\n\n{}.",
        method.to_uppercase(),
        text(&operation["summary"])
    );
    if let Some(description) = operation["description"].as_str() {
        let _ = writeln!(page, "\n{description}");
    }
    if let Some(parameters) = operation["parameters"].as_array() {
        page.push_str("\n| parameter | in | meaning |\n|---|---|---|\n");
        for parameter in parameters {
            let [name, place, meaning] =
                ["name", "in", "description"].map(|key| text(&parameter[key]));
            let _ = writeln!(page, "| `{name}` | {place} | {} |", cell(meaning));
        }
    }
    if let Some(content) = operation["requestBody"]["content"].as_object() {
        let types: Vec<_> = content.keys().map(|kind| format!("`{kind}`")).collect();
        let about = text(&operation["requestBody"]["description"]);
        let _ = writeln!(page, "\nBody: {}. {about}", types.join(" or "));
        let example = content.values().find_map(|kind| kind.get("example"));
        if let Some(example) = example {
            let _ = writeln!(page, "\n```json\n{example}\n```");
        }
    }
    page.push_str("\n| status | meaning |\n|---|---|\n");
    for (status, answer) in operation["responses"].as_object().unwrap() {
        let _ = writeln!(page, "| {status} | {} |", cell(text(&answer["description"])));
    }
    let success = operation["responses"].as_object().unwrap().iter();
    let mut success = success.filter(|(status, _)| status.starts_with('2'));
    if let Some((status, answer)) = success.next()
        && let Some(example) = answer["content"]["application/json"].get("example")
    {
        let _ = writeln!(page, "\n{status}, for example:\n\n```json\n{example}\n```");
    }
}

#[test]
fn the_page_of_http_is_the_programs() {
    let document: Value = serde_json::from_str(&printed(&["openapi"])).unwrap();
    let mut page = format!("{HTTP}\n{}\n", text(&document["info"]["description"]));
    let mut operations = 0;
    for tag in document["tags"].as_array().unwrap() {
        let name = text(&tag["name"]);
        let _ = writeln!(page, "\n## {name}\n\n{}", text(&tag["description"]));
        for (path, methods) in document["paths"].as_object().unwrap() {
            for (method, described) in methods.as_object().unwrap() {
                let is_of_tag =
                    described["tags"].as_array().is_some_and(|tags| tags.contains(&tag["name"]));
                if is_of_tag {
                    operation(&mut page, method, path, described);
                    operations += 1;
                }
            }
        }
    }
    assert!(operations > 25, "only {operations} operations: were they found?");
    assert_committed("docs/http.md", &page);
}
