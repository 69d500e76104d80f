//! File systems of a test's own: ext4 on a loop device, or tmpfs.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// A mounted file system; unmounted when dropped.
#[derive(Debug)]
pub(crate) struct FileSystem {
    folder: TempDir,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Ext4,
    Tmpfs,
}

impl FileSystem {
    /// ext4 of this size on a loop device.
    ///
    /// # Errors
    /// Why this machine can't.
    pub(crate) fn ext4(mib: u64) -> Result<Self, String> {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        std::fs::File::create(&image).unwrap().set_len(mib << 20).unwrap();
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image))?;
        Self { folder, kind: Kind::Ext4 }.mounted(&["-o", "loop"], "image")
    }

    /// tmpfs of this size.
    ///
    /// # Errors
    /// Why this machine can't.
    pub(crate) fn tmpfs(mib: u64) -> Result<Self, String> {
        let folder = tempfile::tempdir().unwrap();
        let size = format!("size={mib}m");
        Self { folder, kind: Kind::Tmpfs }.mounted(&["-t", "tmpfs", "-o", &size], "tmpfs")
    }

    fn mounted(self, arguments: &[&str], what: &str) -> Result<Self, String> {
        std::fs::create_dir(self.path()).unwrap();
        let what = self.folder.path().join(what);
        run(Command::new("mount").args(arguments).arg(&what).arg(self.path()))?;
        Ok(self)
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("mounted")
    }

    /// The disk as a machine finds it that comes up again: whatever was only in memory is gone, once
    /// the power was cut.
    pub(crate) fn remount(&self) {
        assert_eq!(self.kind, Kind::Ext4, "what is in memory does not come back");
        run(Command::new("umount").arg(self.path())).unwrap();
        let image = self.folder.path().join("image");
        run(Command::new("mount").args(["-o", "loop"]).arg(image).arg(self.path())).unwrap();
    }
}

impl Drop for FileSystem {
    fn drop(&mut self) {
        // Lazily, so that it goes although a process that is about to end still has it.
        drop(run(Command::new("umount").arg("--lazy").arg(self.path())));
    }
}

/// Cuts the power of a file system: from this moment on nothing reaches its device.
#[derive(Debug)]
pub(crate) struct PowerCut(std::process::Child);

impl PowerCut {
    /// Gets ready, so that the cut itself takes no time.
    pub(crate) fn prepare(mounted: &Path) -> Self {
        let mut child = Command::new("python3")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/durability/power_cut.py"))
            .arg(mounted)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = [0; 6];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).unwrap();
        assert_eq!(&line, b"ready\n");
        Self(child)
    }

    /// Returns when it is done.
    pub(crate) fn now(mut self) {
        drop(self.0.stdin.take());
        assert!(self.0.wait().unwrap().success(), "the file system can't be shut down");
    }
}

/// Runs a command to its end.
fn run(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    match command.stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("{name}: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Err(format!("{name}: {error}")),
    }
}
