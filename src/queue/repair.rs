//! What happens to damaged files: they are put aside, and what is readable takes their place.
//!
//! A folder is replaced in three steps, each of which a crash may follow: what is readable is
//! written to `salvage-NAME` beside it, durably; the damaged one is renamed into `quarantine/`;
//! the new one takes its name. [`finish_interrupted`] goes on where a crash left off.
//!
//! A rebuilt generation is a plain row of frames: it is never opened with sled, see `salvage`. It
//! carries a file `LOST` with the sequences that could not be read, a range a
//! line, so that its gaps are known for what they are.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use tracing::{info, warn};

use super::Sequence;
use super::engine::{
    self, Database, EngineError, create_folder, data_file, sync_folder, write_file,
};
use super::salvage::{Contents, RawFrames};

const QUARANTINE: &str = "quarantine";
/// What is put aside is for people to look at; the oldest makes room.
const KEPT_ASIDE: usize = 8;
/// How often a database is opened that a device's error keeps from it.
const OPEN_ATTEMPTS: u32 = 3;
const LOST_FILE: &str = "LOST";
const GENERATION: &str = "gen-";
const SALVAGE: &str = "salvage-";

/// First and last of sequences that are missing, ascending.
pub(super) type Ranges = Vec<(u64, u64)>;

/// The folder of the generation that begins with `first`.
pub(super) fn generation_path(log: &Path, first: Sequence) -> PathBuf {
    log.join(format!("{GENERATION}{:020}", first.get()))
}

/// The first sequence of the generation whose folder has this name.
pub(super) fn generation_first(name: &std::ffi::OsStr) -> Option<u64> {
    let name = name.to_str()?.strip_prefix(GENERATION)?;
    // What was put aside twice has a suffix.
    name.split('.').next()?.parse().ok()
}

/// Puts the generation in `path` aside, and in its place one with what counts of it.
///
/// # Errors
/// When the new one can't be written; then the damaged one is still in its place.
pub(super) fn rebuild(
    dir: &Path,
    path: &Path,
    raw: &RawFrames,
    contents: &Contents,
) -> Result<PathBuf, EngineError> {
    let fill = |fresh: &Path| {
        create_folder(fresh)?;
        write_file(&data_file(fresh), |file| {
            raw.each_frame(contents, |frame| file.write_all(frame.bytes))
        })?;
        write_lost(fresh, &contents.lost)
    };
    replace(dir, path, fill)
}

/// Puts a database's folder aside, and in its place one with these entries; returns where the
/// damaged one is.
pub(super) fn replace_entries(
    dir: &Path,
    path: &Path,
    entries: &BTreeMap<Vec<u8>, Vec<u8>>,
) -> Result<PathBuf, EngineError> {
    let fill = |fresh: &Path| {
        let database = Database::open(fresh)?;
        for (key, value) in entries {
            database.insert(key, value)?;
        }
        database.flush()?;
        database.sync()
    };
    replace(dir, path, fill)
}

fn replace(
    dir: &Path,
    path: &Path,
    fill: impl FnOnce(&Path) -> Result<(), EngineError>,
) -> Result<PathBuf, EngineError> {
    let parent = path.parent().unwrap_or(dir);
    let mut name = std::ffi::OsString::from(SALVAGE);
    name.push(path.file_name().unwrap_or_default());
    let fresh = parent.join(name);
    remove(&fresh)?;
    fill(&fresh)?;
    let aside = put_aside(dir, path)?;
    engine::rename(&fresh, path)?;
    sync_folder(parent)?;
    Ok(aside)
}

/// All entries of a damaged database that can still be read: from its start, from its end, and
/// under these keys.
pub(super) fn readable_entries(
    path: &Path,
    keys: impl IntoIterator<Item = Vec<u8>>,
) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut entries = BTreeMap::new();
    // A device that fails once or twice has lost nothing yet.
    let mut attempt = 1;
    let database = loop {
        match Database::open(path) {
            Ok(database) => break database,
            Err(EngineError::Io(_)) if attempt < OPEN_ATTEMPTS => attempt += 1,
            Err(_) => return entries,
        }
    };
    let mut keep = |key: &[u8], value: &[u8]| {
        entries.insert(key.to_vec(), value.to_vec());
        true
    };
    if database.scan(&[], &mut keep).is_ok() {
        return entries;
    }
    // It fails where it meets the damage, as expected.
    drop(database.scan_back(&mut keep));
    for key in keys {
        if let Ok(Some(value)) = database.get(&key) {
            entries.insert(key, value.to_vec());
        }
    }
    entries
}

/// Ends the replacing that a crash interrupted in this folder: what had not taken the damaged
/// one's place yet is removed, and made again when the damage shows again.
pub(super) fn finish_interrupted(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str().and_then(|name| name.strip_prefix(SALVAGE)) else {
            continue;
        };
        let place = folder.join(name);
        if place.exists() {
            remove(&entry.path())?;
        } else {
            engine::rename(&entry.path(), &place)?;
            info!(folder = name, "the salvage that a crash interrupted is finished");
        }
        sync_folder(folder)?;
    }
    Ok(())
}

/// Moves a damaged folder into the quarantine, durably; returns where it is.
pub(super) fn put_aside(dir: &Path, path: &Path) -> io::Result<PathBuf> {
    let quarantine = dir.join(QUARANTINE);
    create_folder(&quarantine)?;
    make_room(&quarantine)?;
    let name = path.file_name().unwrap_or_default();
    let place = (0_u32..)
        .map(|number| match number {
            0 => quarantine.join(name),
            _ => quarantine.join(format!("{}.{number}", name.to_string_lossy())),
        })
        .find(|place| !place.exists())
        .unwrap_or_else(|| quarantine.join(name));
    match engine::rename(path, &place) {
        // There is nothing of it left.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        renamed => renamed?,
    }
    sync_folder(&quarantine)?;
    path.parent().map_or(Ok(()), sync_folder)?;
    Ok(place)
}

fn make_room(quarantine: &Path) -> io::Result<()> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(quarantine)? {
        let entry = entry?;
        entries.push((entry.metadata()?.modified()?, entry.path()));
    }
    entries.sort();
    let surplus = (entries.len() + 1).saturating_sub(KEPT_ASIDE);
    for (_, path) in entries.into_iter().take(surplus) {
        warn!(path = %path.display(), "the oldest of what was put aside is removed");
        remove(&path)?;
    }
    Ok(())
}

/// The highest first sequence of a generation that was put aside.
pub(super) fn highest_aside(dir: &Path) -> Option<u64> {
    let entries = fs::read_dir(dir.join(QUARANTINE)).ok()?;
    entries.filter_map(|entry| generation_first(&entry.ok()?.file_name())).max()
}

fn remove(path: &Path) -> io::Result<()> {
    match engine::remove_folder(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn write_lost(generation: &Path, lost: &[(u64, u64)]) -> Result<(), EngineError> {
    let fill = |file: &mut BufWriter<File>| {
        lost.iter().try_for_each(|(first, last)| writeln!(file, "{first}-{last}"))
    };
    Ok(write_file(&generation.join(LOST_FILE), fill)?)
}

/// The sequences that a rebuilt generation is known to lack. Empty too where the file that says
/// so is damaged: then the gaps show as new damage.
pub(super) fn read_lost(generation: &Path) -> Ranges {
    let text = fs::read_to_string(generation.join(LOST_FILE)).unwrap_or_default();
    let range = |line: &str| {
        let (first, last) = line.split_once('-')?;
        let (first, last) = (first.parse().ok()?, last.parse().ok()?);
        (first <= last).then_some((first, last))
    };
    text.lines().map_while(range).collect()
}

/// Whether all of `first..=last` is known to be lost.
pub(super) fn is_lost(lost: &[(u64, u64)], first: u64, last: u64) -> bool {
    lost.iter().any(|(from, to)| *from <= first && last <= *to)
}

/// Ranges as people read them; only the first few of many.
pub(super) fn describe(lost: &[(u64, u64)]) -> String {
    const SHOWN: usize = 16;
    let one = |(first, last): &(u64, u64)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    let mut text = lost.iter().take(SHOWN).map(one).collect::<Vec<_>>().join(", ");
    if lost.len() > SHOWN {
        text.push_str(&format!(" and {} more ranges", lost.len() - SHOWN));
    }
    text
}
