//! Room kept on the device, so that a full disk can drain: while events are refused, cursors and
//! dead letters are still written, in the space that this file gives up.
//!
//! It is given up at the first failure for lack of space, and taken back by the writer, which
//! accepts events again only then: so what is released is never used up by new events.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::PoisonError;

use rustix::fs::{FallocateFlags, fallocate};
use tracing::warn;

use super::engine::{self, EngineError, Op};

/// Some rewrites of the state's database, and a few thousand dead letters.
const BYTES: u64 = 4 * 1024 * 1024;
/// What has to be free beside it before events are accepted again: a new generation's files, and the
/// zeros ahead of its log.
const HEADROOM: u64 = 4 * 1024 * 1024;

/// See the module.
#[derive(Debug)]
pub(super) struct Reserve {
    path: PathBuf,
    is_held: Mutex<bool>,
}

impl Reserve {
    /// Takes the reserve in the queue's folder; a full disk leaves it for later.
    pub(super) fn take(dir: &Path) -> Self {
        let reserve = Self { path: dir.join("RESERVE"), is_held: Mutex::new(false) };
        if let Err(error) = reserve.refill() {
            warn!(error = %error, "no room is left to reserve for cursors and dead letters");
        }
        reserve
    }

    /// Gives the room up.
    pub(super) fn release(&self) {
        let mut is_held = self.is_held.lock().unwrap_or_else(PoisonError::into_inner);
        if !*is_held {
            return;
        }
        *is_held = false;
        match File::create(&self.path) {
            Ok(_) => warn!(
                reserve.bytes = BYTES,
                "the disk is full: the reserve is given up to cursors and dead letters"
            ),
            Err(error) => warn!(error = %error, "the reserve could not be given up"),
        }
    }

    /// Whether the room is given up, so the disk was full lately.
    pub(super) fn is_released(&self) -> bool {
        !*self.is_held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the room again, if it and a little more is free. Cheap.
    ///
    /// # Errors
    /// [`EngineError::NoSpace`] when it isn't.
    pub(super) fn refill(&self) -> Result<(), EngineError> {
        let mut is_held = self.is_held.lock().unwrap_or_else(PoisonError::into_inner);
        if *is_held {
            return Ok(());
        }
        let allocated = engine::attempt(Op::Reserve, &self.path, || Ok(allocate(&self.path)?));
        match allocated {
            Err(EngineError::NoSpace) => {
                // What it got of it is given back.
                drop(File::create(&self.path));
                return Err(EngineError::NoSpace);
            }
            // Events aren't refused for want of a reserve.
            Err(error) => warn!(error = %error, "no room can be reserved for cursors"),
            Ok(()) => {}
        }
        *is_held = true;
        Ok(())
    }
}

fn allocate(path: &Path) -> io::Result<()> {
    let mut file = File::options().write(true).create(true).truncate(false).open(path)?;
    match fallocate(&file, FallocateFlags::empty(), 0, BYTES + HEADROOM) {
        Ok(()) => {}
        // Some file systems can't: they get real bytes.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
            let block = vec![0x55; 64 * 1024];
            for _ in 0..(BYTES + HEADROOM) / block.len() as u64 {
                file.write_all(&block)?;
            }
            file.sync_all()?;
        }
        Err(error) => return Err(error.into()),
    }
    file.set_len(BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    #[test]
    fn the_room_is_really_taken_and_really_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let blocks = || folder.path().join("RESERVE").metadata().unwrap().blocks() * 512;
        let reserve = Reserve::take(folder.path());
        assert!(blocks() >= BYTES && blocks() < BYTES + HEADROOM, "{}", blocks());
        reserve.refill().unwrap();
        assert!(!reserve.is_released());
        reserve.release();
        assert_eq!(blocks(), 0);
        assert!(reserve.is_released());
        reserve.refill().unwrap();
        assert!(blocks() >= BYTES);
        // A start finds it as it was left.
        Reserve::take(folder.path());
        assert!(blocks() >= BYTES);
    }
}
