//! From a folder to the settings.

use super::*;
use crate::config::{EventKind, Settings, Sources};

fn project(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    folder
}

#[test]
fn what_the_tests_own_application_declares_is_a_valid_settings_file() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/python");
    let (files, problems) = read(&dir);
    assert_eq!(problems, []);
    let (declared, problems) = event_types(&files);
    assert_eq!(problems, []);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("sidecar.toml");
    fs::write(&file, as_toml(&declared)).unwrap();
    let sets = ["upstream.url=http://localhost/", "upstream.api_key=k"].map(str::to_owned);
    let sources = Sources { file: Some(file), sets: sets.to_vec(), ..Sources::default() };
    let types = Settings::load(&sources).unwrap().settings.events.types;
    let shown: Vec<_> = types.iter().map(|(name, of)| event_type_line(name, of)).collect();
    insta::assert_snapshot!(shown.join("\n"), @r#"
    purchase = { kind = "classic" }
    register = { kind = "classic" }
    subscription = { kind = "action", actions = ["create", "remove"] }
    visit_user = { kind = "unique" }
    "#);
    assert_eq!(types["visit_user"].kind, EventKind::Unique);
}

#[test]
fn what_is_not_the_projects_is_not_read_and_what_cannot_be_read_is_told() {
    let folder = project(&[
        (
            "a/events.py",
            b"from gmfy import BaseEvent\nclass A(BaseEvent):\n  event_type: Literal['a']\n",
        ),
        ("b.py", b"x = '\xff'"),
        ("c.py", b"x = (1"),
        ("notes.txt", b"class"),
        (".git/x.py", b"x = ("),
        ("venv/pyvenv.cfg", b""),
        ("venv/lib/x.py", b"x = ("),
        ("lib/site-packages/x.py", b"x = ("),
    ]);
    let (files, problems) = read(folder.path());
    let names: Vec<_> = files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names, ["a/events.py", "c.py"]);
    let (declared, _) = event_types(&files);
    insta::assert_snapshot!(format!("{:#}", as_json(&declared, &problems)), @r#"
    {
      "not_understood": [
        {
          "file": "b.py",
          "line": 1,
          "problem": "it is not UTF-8"
        },
        {
          "file": "c.py",
          "line": 1,
          "problem": "a bracket isn't closed"
        }
      ],
      "types": {
        "a": {
          "actions": [],
          "class": "A",
          "file": "a/events.py",
          "kind": "classic",
          "line": 2
        }
      }
    }
    "#);
}
