//! The file that names the version of the folder's format: a newer one is refused, not guessed at.
//!
//! One line of text, `format 2, check CHECK`: the check is the CRC-32C of what stands before it,
//! so that a damaged file is not taken for a newer version.
//!
//! | format | what is new in it |
//! |---|---|
//! | 1 | |
//! | 2 | frames may be compressed, see `frame` |
//!
//! A folder of format 1 is read as it is. It becomes one of format 2 when it is opened to be written
//! to, before anything else is written: a version that knows format 1 only would take compressed
//! frames for damage. The line is written over in place, which needs no room on the device.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use tracing::{info, warn};

use super::engine::{Op, attempt, write_file};
use super::open::OpenError;

pub(super) const FORMAT_VERSION: u32 = 2;

/// Refuses a newer version's folder; writes the file where it is missing, damaged or of an older
/// format.
pub(super) fn check(dir: &Path) -> Result<(), OpenError> {
    let written = match read(dir)? {
        Some(FORMAT_VERSION) => Ok(()),
        Some(version) if version > FORMAT_VERSION => {
            return Err(OpenError::NewerFormat { dir: dir.to_owned(), found: version.to_string() });
        }
        Some(older) => upgrade(dir, older),
        None => write(dir),
    };
    written.map_err(|source| OpenError::Folder { dir: dir.to_owned(), source })
}

/// Refuses a newer version's folder, and changes nothing.
pub(super) fn check_only(dir: &Path) -> Result<(), OpenError> {
    match read(dir)? {
        Some(version) if version > FORMAT_VERSION => {
            Err(OpenError::NewerFormat { dir: dir.to_owned(), found: version.to_string() })
        }
        Some(_) | None => Ok(()),
    }
}

/// The version; none where the file is missing or damaged.
fn read(dir: &Path) -> Result<Option<u32>, OpenError> {
    let bytes = match fs::read(dir.join("FORMAT")) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(OpenError::Folder { dir: dir.to_owned(), source }),
    };
    let version = std::str::from_utf8(&bytes).ok().and_then(parse);
    if version.is_none() {
        warn!("the file FORMAT is damaged; taken for this version's");
    }
    Ok(version)
}

fn parse(text: &str) -> Option<u32> {
    let text = text.trim_end();
    if let Ok(bare) = text.parse() {
        return Some(bare);
    }
    let (version, check) = text.strip_prefix("format ")?.split_once(", check ")?;
    let version = version.parse().ok()?;
    (check == checksum(version)).then_some(version)
}

fn checksum(version: u32) -> String {
    format!("{:08x}", crc32c::crc32c(format!("format {version}").as_bytes()))
}

fn line(version: u32) -> String {
    format!("format {version}, check {}\n", checksum(version))
}

fn write(dir: &Path) -> io::Result<()> {
    write_file(&dir.join("FORMAT"), |file| file.write_all(line(FORMAT_VERSION).as_bytes()))
}

/// Cut off half-way it is a damaged file, and all frames are still what both versions know.
fn upgrade(dir: &Path, older: u32) -> io::Result<()> {
    let path = dir.join("FORMAT");
    let line = line(FORMAT_VERSION);
    let mut file = attempt(Op::Open, &path, || File::options().write(true).open(&path))?;
    attempt(Op::Write, &path, || file.write_all(line.as_bytes()))?;
    file.set_len(line.len() as u64)?;
    attempt(Op::Sync, &path, || file.sync_all())?;
    info!(format.before = older, format.now = FORMAT_VERSION, "the queue's folder is upgraded");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_format_is_refused_and_a_damaged_file_is_not_taken_for_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("FORMAT");
        let is_refused = |text: &[u8]| {
            fs::write(&path, text).unwrap();
            let refused = matches!(check_only(folder.path()), Err(OpenError::NewerFormat { .. }));
            assert_eq!(fs::read(&path).unwrap(), text, "nothing is changed");
            assert_eq!(check(folder.path()).is_err(), refused);
            refused
        };
        assert!(is_refused(b"7\n"));
        assert!(is_refused(line(3).as_bytes()));
        write(folder.path()).unwrap();
        let whole = fs::read(&path).unwrap();
        assert!(!is_refused(&whole));
        for at in 0..whole.len() {
            assert!(!is_refused(&whole[..at]));
            for bit in 0..8 {
                let mut flipped = whole.clone();
                flipped[at] ^= 1 << bit;
                assert!(!is_refused(&flipped), "{}", String::from_utf8_lossy(&flipped));
            }
            assert_eq!(fs::read(&path).unwrap(), whole, "written anew");
        }
    }

    #[test]
    fn an_older_folder_is_upgraded_and_half_an_upgrade_is_no_newer_folder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("FORMAT");
        for older in ["format 1, check 6b64e0ba\n", "1\n", "1"] {
            fs::write(&path, older).unwrap();
            check_only(folder.path()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), older, "only looked at");
            check(folder.path()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), line(2));
        }
        assert_eq!(line(1).len(), line(2).len(), "it is written over in place");
        for cut in 0..line(2).len() - 1 {
            let torn: String = line(2).chars().take(cut).chain(line(1).chars().skip(cut)).collect();
            assert!(matches!(parse(&torn), None | Some(1)), "{torn}");
        }
    }
}
