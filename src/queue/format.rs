//! The file that names the version of the folder's format: a newer one is refused, not guessed at.
//!
//! One line of text, `format 1, check 6b64e0ba`: the check is the CRC-32C of what stands before it,
//! so that a damaged file is not taken for a newer version. There is no older format.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use tracing::warn;

use super::engine::write_file;
use super::open::OpenError;

pub(super) const FORMAT_VERSION: u32 = 1;

/// Refuses a newer version's folder; writes the file where it is missing or damaged.
pub(super) fn check(dir: &Path) -> Result<(), OpenError> {
    match read(dir)? {
        Some(version) if version <= FORMAT_VERSION => Ok(()),
        Some(version) => {
            Err(OpenError::NewerFormat { dir: dir.to_owned(), found: version.to_string() })
        }
        None => write(dir).map_err(|source| OpenError::Folder { dir: dir.to_owned(), source }),
    }
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

fn write(dir: &Path) -> io::Result<()> {
    let check = checksum(FORMAT_VERSION);
    write_file(&dir.join("FORMAT"), |file| writeln!(file, "format {FORMAT_VERSION}, check {check}"))
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
        assert!(is_refused(format!("format 2, check {}\n", checksum(2)).as_bytes()));
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
}
