//! The pages, and what stands in them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A page by its path in the repository.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

/// A fenced block of code.
#[derive(Debug)]
pub(crate) struct Block {
    /// Page and line, to be found by.
    pub(crate) place: String,
    pub(crate) language: String,
    /// What stands behind the language.
    pub(crate) words: Vec<String>,
    pub(crate) text: String,
}

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All pages, in the order of their paths.
pub(crate) fn pages() -> Vec<Page> {
    let mut found = Vec::new();
    for name in ["README.md", "SECURITY.md", "CHANGELOG.md"] {
        found.push(root().join(name));
    }
    for folder in ["docs", "examples"] {
        find(&root().join(folder), &mut found);
    }
    found.sort();
    let page = |path: PathBuf| Page {
        text: fs::read_to_string(&path).unwrap(),
        path: path.strip_prefix(root()).unwrap().to_owned(),
    };
    let pages: Vec<_> = found.into_iter().map(page).collect();
    assert!(pages.len() > 15, "only {} pages: were they found?", pages.len());
    pages
}

fn find(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            find(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
}

impl Page {
    pub(crate) fn blocks(&self) -> Vec<Block> {
        let mut blocks = Vec::new();
        let mut open: Option<(usize, Block)> = None;
        for (at, line) in self.text.lines().enumerate() {
            let fence = line.trim_start().strip_prefix("```");
            match (&mut open, fence) {
                (None, Some(info)) => {
                    let mut words = info.split_whitespace().map(str::to_owned);
                    let block = Block {
                        place: format!("{}:{}", self.path.display(), at + 1),
                        language: words.next().unwrap_or_default(),
                        words: words.collect(),
                        text: String::new(),
                    };
                    open = Some((line.len() - line.trim_start().len(), block));
                }
                (Some(_), Some(_)) => blocks.extend(open.take().map(|(_, block)| block)),
                (Some((indent, block)), None) => {
                    block.text += line.get(*indent..).unwrap_or_default();
                    block.text.push('\n');
                }
                (None, None) => {}
            }
        }
        assert!(open.is_none(), "{}: a block isn't closed", self.path.display());
        blocks
    }

    /// The text without its blocks of code.
    pub(crate) fn prose(&self) -> String {
        let mut is_code = false;
        let mut prose = String::new();
        for line in self.text.lines() {
            if line.trim_start().starts_with("```") {
                is_code = !is_code;
            } else if !is_code {
                prose += line;
                prose.push('\n');
            }
        }
        prose
    }
}

/// The binary, with nothing of the environment that could change what it does.
pub(crate) fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gmfy-sidecar"));
    clean(&mut command);
    command
}

pub(crate) fn clean(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy().to_ascii_uppercase();
        if text.starts_with("GMFY_") || text.ends_with("_PROXY") {
            command.env_remove(&name);
        }
    }
}
