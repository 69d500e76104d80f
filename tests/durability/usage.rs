//! What a process and its folder take, as the system counts it.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

pub(crate) const MIB: u64 = 1024 * 1024;
pub(crate) const GIB: u64 = 1024 * MIB;

/// The budget of resident memory, at any backlog; an unoptimised binary takes more.
pub(crate) const MEMORY: u64 = if cfg!(debug_assertions) { 96 * MIB } else { 48 * MIB };

/// Resident memory of a process, in bytes. Of an unoptimised binary without what is mapped of its
/// file, which is several times as large as what is shipped.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    pub(crate) now: u64,
    /// The most that it was so far.
    pub(crate) peak: u64,
}

pub(crate) fn memory(process: u32) -> Memory {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    };
    let mapped = if cfg!(debug_assertions) { field("RssFile:") } else { 0 };
    Memory { now: field("VmRSS:") - mapped, peak: field("VmHWM:") - mapped }
}

/// The bytes that a process asked the system to read, from its caches too.
pub(crate) fn bytes_read(process: u32) -> u64 {
    io(process, "rchar")
}

fn io(process: u32, name: &str) -> u64 {
    let io = fs::read_to_string(format!("/proc/{process}/io")).unwrap();
    let mut fields = io.lines().filter_map(|line| line.split_once(": "));
    fields.find(|(field, _)| *field == name).unwrap().1.parse().unwrap()
}

/// What a process has cost so far, or what some work of its cost. Other than the time that work
/// takes, it does not depend on what else the machine does; the processor's time depends on it a
/// little.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    /// Bytes handed to the system to be written.
    pub(crate) written: u64,
    /// Bytes that went to a device.
    pub(crate) stored: u64,
    /// Calls that write.
    pub(crate) calls: u64,
    /// Processor time, in hundredths of a second.
    pub(crate) ticks: u64,
}

impl Cost {
    pub(crate) fn of(process: u32) -> Self {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
        // The name before may hold spaces; user and system time are fields 14 and 15, see proc(5).
        let (_, fields) = stat.rsplit_once(')').unwrap();
        let ticks = fields.split_whitespace().skip(11).take(2);
        Self {
            written: io(process, "wchar"),
            stored: io(process, "write_bytes"),
            calls: io(process, "syscw"),
            ticks: ticks.map(|ticks| ticks.parse::<u64>().unwrap()).sum(),
        }
    }

    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            written: self.written - before.written,
            stored: self.stored - before.stored,
            calls: self.calls - before.calls,
            ticks: self.ticks - before.ticks,
        }
    }
}

/// The bytes that a folder takes on its device, with all below it. What vanishes meanwhile counts
/// nothing.
pub(crate) fn folder_bytes(path: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(path) else { return 0 };
    let bytes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => folder_bytes(&entry.path()),
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0,
    });
    bytes.sum()
}

pub(crate) fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / MIB as f64)
}
