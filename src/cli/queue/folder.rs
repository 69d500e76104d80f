//! The folder that a `queue` command is about.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use crate::cli::settings::{SettingsArgs, load};
use crate::cli::{Failure, output};
use crate::config::{Settings, Sources};
use crate::queue::Folder;

#[derive(Args, Debug)]
pub(super) struct FolderArgs {
    /// The folder, as queue.dir names it [default: queue.dir of the settings]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,

    #[command(flatten)]
    settings: SettingsArgs,

    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

impl FolderArgs {
    /// The settings, with the folder in `queue.dir`; the folder holds a queue.
    pub(super) fn settings(&self) -> Result<Settings, Failure> {
        self.load(self.settings.sources())
    }

    /// Locks the folder, for a command that talks to no GMFY and so needs no settings of it.
    pub(super) fn open(&self) -> Result<(PathBuf, Folder), Failure> {
        let mut sources = self.settings.sources();
        sources.defaults.extend([
            ("upstream.url", "http://127.0.0.1/".to_owned()),
            ("upstream.api_key", "unused".to_owned()),
        ]);
        let dir = self.load(sources)?.queue.dir;
        let folder = Folder::open(&dir)?;
        Ok((dir, folder))
    }

    /// Reads the folder, and prints what was found: as JSON, or in words.
    pub(super) fn report<T: Serialize>(
        &self,
        read: impl FnOnce(&Path, &Folder) -> Result<T, anyhow::Error>,
        text: impl FnOnce(&T) -> String,
    ) -> Result<T, Failure> {
        let (dir, folder) = self.open()?;
        let found = read(&dir, &folder)?;
        let shown = if self.json { serde_json::to_string_pretty(&found)? } else { text(&found) };
        output::line(&shown);
        Ok(found)
    }

    fn load(&self, mut sources: Sources) -> Result<Settings, Failure> {
        if let Some(dir) = &self.data_dir {
            sources.sets.push(format!("queue.dir={}", dir.display()));
        }
        let settings = load(&sources)?.settings;
        check_is_queue(&settings.queue.dir)?;
        Ok(settings)
    }
}

/// Opening creates what is missing, so a wrong name would otherwise go unnoticed. A wrong name is
/// wrong usage: only what can't be looked at is a fault at run time.
fn check_is_queue(dir: &Path) -> Result<(), Failure> {
    let shown = dir.display();
    match fs::metadata(dir) {
        Ok(metadata) if metadata.is_dir() => {}
        Ok(_) => return Err(Failure::Usage(format!("{shown} is a file; a queue is a folder"))),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            let text = format!("there is no folder {shown}: {NAME_IT}");
            return Err(Failure::Usage(text));
        }
        Err(error) => return Err(anyhow::anyhow!("{shown}: {error}").into()),
    }
    if dir.join("FORMAT").exists() || has_generations(&dir.join("queue")) {
        return Ok(());
    }
    let text = format!(
        "{shown} holds no queue: {NAME_IT}, in which the files FORMAT and LOCK and the folder queue \
         lie"
    );
    Err(Failure::Usage(text))
}

const NAME_IT: &str = "name the folder that queue.dir named (--data-dir DIR)";

fn has_generations(log: &Path) -> bool {
    let Ok(entries) = fs::read_dir(log) else { return false };
    entries.flatten().any(|entry| entry.file_name().as_encoded_bytes().starts_with(b"gen-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_without_a_queue_is_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let why = |path: &Path| {
            let Err(Failure::Usage(text)) = check_is_queue(path) else { panic!("no wrong usage") };
            text.replace(&folder.path().display().to_string(), "DIR")
        };
        insta::assert_snapshot!(why(&path.join("a")), @"there is no folder DIR/a: name the folder that queue.dir named (--data-dir DIR)");
        fs::create_dir_all(path.join("queue")).unwrap();
        insta::assert_snapshot!(why(path), @"DIR holds no queue: name the folder that queue.dir named (--data-dir DIR), in which the files FORMAT and LOCK and the folder queue lie");
        fs::write(path.join("b"), "").unwrap();
        insta::assert_snapshot!(why(&path.join("b")), @"DIR/b is a file; a queue is a folder");
        assert!(why(&path.join("b/c")).starts_with("there is no folder DIR/b/c: "));
        let name = "n".repeat(300);
        let unlooked_at = check_is_queue(&path.join(name));
        assert!(matches!(unlooked_at, Err(Failure::Runtime(_))), "{unlooked_at:?}");
        fs::create_dir(path.join("queue/gen-00000000000000000001")).unwrap();
        check_is_queue(path).unwrap();
    }
}
