//! What the commands print for people: tables, sequences, sizes.

use std::io;
use std::path::Path;

use serde::Serialize;

use super::progress;
use crate::cli::table::Side;
use crate::queue::{Folder, GenerationSummary};

/// What an earlier start put aside because it was damaged.
#[derive(Debug, Serialize)]
pub(super) struct Quarantined {
    pub(super) path: String,
    pub(super) bytes: u64,
}

/// What is in quarantine.
pub(super) fn quarantined(folder: &Folder) -> io::Result<Vec<Quarantined>> {
    let found = folder.quarantined()?;
    let shown = found
        .into_iter()
        .map(|(path, bytes)| Quarantined { path: path.display().to_string(), bytes });
    Ok(shown.collect())
}

/// What `read` finds of each generation, with a bar of the bytes read.
pub(super) fn each_generation<T>(
    folder: &Folder,
    mut read: impl FnMut(&GenerationSummary) -> io::Result<T>,
) -> io::Result<Vec<T>> {
    let bar = progress::of_bytes(folder.generations().iter().map(|g| g.bytes).sum());
    let found = folder.generations().iter().map(|summary| {
        let found = read(summary);
        bar.inc(summary.bytes);
        found
    });
    let found = found.collect();
    bar.finish_and_clear();
    found
}

/// Columns with their names above: the first to the left, the others to the right.
pub(super) fn table(names: &[&str], rows: &[Vec<String>]) -> String {
    let side = |at| if at == 0 { Side::Left } else { Side::Right };
    let columns: Vec<_> = names.iter().enumerate().map(|(at, name)| (*name, side(at))).collect();
    crate::cli::table::table(&columns, rows)
}

/// The last part of a path.
pub(super) fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// `1 event`, `2 events`.
pub(super) fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Ranges as people write them, the first few: `3, 7-9`.
pub(super) fn ranges(ranges: &[[u64; 2]]) -> String {
    const SHOWN: usize = 8;
    let mut shown: Vec<_> = ranges
        .iter()
        .take(SHOWN)
        .map(
            |[first, last]| {
                if first == last { first.to_string() } else { format!("{first}-{last}") }
            },
        )
        .collect();
    let more = ranges.len().saturating_sub(SHOWN) as u64;
    if more > 0 {
        shown.push(format!("and {} more (--json has all)", counted(more, "range")));
    }
    shown.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest() {
        let rows = [vec!["gen-1".to_owned(), "12345".to_owned()], vec!["b".into(), "6".into()]];
        insta::assert_snapshot!(table(&["NAME", "EVENTS"], &rows), @r"
        NAME   EVENTS
        gen-1   12345
        b           6
        ");
        insta::assert_snapshot!(table(&["NAME", "EVENTS"], &[]), @"NAME  EVENTS");
    }

    #[test]
    fn many_ranges_are_cut_short() {
        assert_eq!(ranges(&[[3, 3], [7, 9]]), "3, 7-9");
        let many: Vec<_> = (0..10).map(|n| [n * 10, n * 10 + 1]).collect();
        assert!(ranges(&many).ends_with("70-71, and 2 ranges more (--json has all)"));
    }
}
