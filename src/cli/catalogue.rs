//! `catalogue`: the event classes that a Python project declares for GMFY's client, as
//! `events.types`. Nothing of the project is run.

mod classes;
mod lines;
mod types;

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::{Failure, output};
use crate::config::event_type_line;
use types::{Declared, File, Problem, event_types};

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// The project's folder; its Python files are read, and none is run
    #[arg(long, value_name = "DIR")]
    from_python: PathBuf,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let dir = &arguments.from_python;
    let unusable = |why: String| Failure::Usage(format!("--from-python {}: {why}", dir.display()));
    match fs::metadata(dir) {
        Ok(metadata) if metadata.is_dir() => {}
        Ok(_) => return Err(unusable("it is no folder".to_owned())),
        Err(error) => return Err(unusable(error.to_string())),
    }
    let (files, mut problems) = read(dir);
    let (declared, not_understood) = event_types(&files);
    problems.extend(not_understood);
    if declared.is_empty() && problems.is_empty() {
        return Err(Failure::Runtime(anyhow::anyhow!(
            "{}: in {} Python files no class inherits from gmfy's BaseEvent, BaseActionEvent or \
             BaseUniqueEvent",
            dir.display(),
            files.len()
        )));
    }
    if arguments.json {
        output::line(&format!("{:#}", as_json(&declared, &problems)));
    } else {
        output::line(as_toml(&declared).trim_end());
    }
    for Problem { file, line, problem } in &problems {
        output::error(&format!("{}:{line}: {problem}", dir.join(file).display()));
    }
    Ok(if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A table for the settings file, each entry with the class that it is from.
fn as_toml(declared: &BTreeMap<String, Declared>) -> String {
    let mut text = "[events.types]\n".to_owned();
    for (name, Declared { event_type, file, line, class }) in declared {
        text += &format!("# {class}, {file}:{line}\n{}\n", event_type_line(name, event_type));
    }
    text
}

fn as_json(declared: &BTreeMap<String, Declared>, problems: &[Problem]) -> serde_json::Value {
    let entry = |declared: &Declared| {
        let Declared { event_type, file, line, class } = declared;
        let kind = event_type.kind.to_string();
        let actions = &event_type.actions;
        serde_json::json!({ "kind": kind, "actions": actions, "class": class, "file": file, "line": line })
    };
    let types: serde_json::Map<_, _> =
        declared.iter().map(|(name, declared)| (name.clone(), entry(declared))).collect();
    let problem = |problem: &Problem| {
        let Problem { file, line, problem } = problem;
        serde_json::json!({ "file": file, "line": line, "problem": problem })
    };
    let problems: Vec<_> = problems.iter().map(problem).collect();
    serde_json::json!({ "types": types, "not_understood": problems })
}

/// The largest file that is read, in bytes: a longer one is data.
const LARGEST: u64 = 4 * 1024 * 1024;

/// How deep folders are followed.
const DEEPEST: usize = 32;

/// Reads the Python files below a folder, in the order of their names; what can't be read is told.
fn read(dir: &Path) -> (Vec<File>, Vec<Problem>) {
    let (mut names, mut problems) = (Vec::new(), Vec::new());
    find(dir, Path::new(""), DEEPEST, &mut names, &mut problems);
    let mut files = Vec::new();
    for name in names {
        let shown = name.display().to_string();
        let problem = |line, problem: &str| Problem {
            file: shown.clone(),
            line,
            problem: problem.to_owned(),
        };
        match text_of(&dir.join(&name)) {
            Ok(text) => {
                let (lines, unclosed) = lines::logical_lines(&text);
                problems.extend(unclosed.map(|(line, what)| problem(line, what)));
                files.push(File { name: shown, module: classes::module(&lines) });
            }
            Err(why) => problems.push(problem(1, &why)),
        }
    }
    (files, problems)
}

fn text_of(path: &Path) -> Result<String, String> {
    let file = fs::File::open(path).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if u64::try_from(bytes.len()).is_ok_and(|read| read > LARGEST) {
        return Err("it is too large to be read (over 4 MiB)".to_owned());
    }
    String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())
}

fn find(
    dir: &Path,
    below: &Path,
    depth: usize,
    found: &mut Vec<PathBuf>,
    problems: &mut Vec<Problem>,
) {
    let entries = match fs::read_dir(dir.join(below)) {
        Ok(entries) => entries,
        Err(error) => {
            let file = below.display().to_string();
            problems.push(Problem { file, line: 1, problem: error.to_string() });
            return;
        }
    };
    let mut entries: Vec<_> = entries.flatten().collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (name, path) = (entry.file_name(), below.join(entry.file_name()));
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            let hidden = name.as_encoded_bytes().starts_with(b".");
            // What is installed there isn't the project's.
            let installed = matches!(name.to_str(), Some("site-packages" | "node_modules"))
                || entry.path().join("pyvenv.cfg").exists();
            if depth > 0 && !hidden && !installed {
                find(dir, &path, depth - 1, found, problems);
            }
        } else if path.extension().is_some_and(|extension| extension == "py") {
            found.push(path);
        }
    }
}

#[cfg(test)]
mod tests;
