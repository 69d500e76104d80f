//! Every relative link leads somewhere, and every page of the book is in its summary.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::pages::{Page, pages, root};

/// What stands in `](…)`.
fn targets(prose: &str) -> impl Iterator<Item = &str> {
    prose.split("](").skip(1).filter_map(|rest| rest.split_once(')').map(|(target, _)| target))
}

/// A heading's anchor, as forges make it: lower case, blanks as hyphens, the rest of punctuation left out.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().chars().filter_map(|c| match c {
        ' ' => Some('-'),
        '-' | '_' => Some(c),
        c if c.is_alphanumeric() => Some(c.to_ascii_lowercase()),
        _ => None,
    });
    kept.collect()
}

fn anchors(page: &Page) -> BTreeSet<String> {
    let prose = page.prose();
    let headings = prose.lines().filter(|line| line.starts_with('#'));
    headings.map(|line| anchor(line.trim_start_matches('#'))).collect()
}

/// A path without `.` and `..`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => assert!(plain.pop(), "{} leaves", path.display()),
            std::path::Component::CurDir => {}
            part => plain.push(part),
        }
    }
    plain
}

#[test]
fn every_relative_link_and_anchor_exists() {
    let pages = pages();
    let mut followed = 0;
    for page in &pages {
        let prose = page.prose();
        for target in targets(&prose) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            followed += 1;
            let (file, wanted) = target.split_once('#').unwrap_or((target, ""));
            let from = page.path.display();
            let path = if file.is_empty() {
                page.path.clone()
            } else {
                plain(&page.path.parent().unwrap().join(file))
            };
            assert!(root().join(&path).exists(), "{from}: {target} doesn't exist");
            if !wanted.is_empty() {
                let there = pages.iter().find(|page| page.path == path);
                let there = there.unwrap_or_else(|| panic!("{from}: {target} is no page"));
                assert!(anchors(there).contains(wanted), "{from}: {target} has no such heading");
            }
        }
    }
    assert!(followed > 60, "only {followed} links: were they found?");
}

#[test]
fn every_page_of_the_book_is_in_its_summary() {
    let pages = pages();
    let summary = pages.iter().find(|page| page.path == Path::new("docs/SUMMARY.md")).unwrap();
    let listed: BTreeSet<_> =
        targets(&summary.text).map(|target| Path::new("docs").join(target)).collect();
    let there = pages.iter().map(|page| page.path.clone());
    let there = there.filter(|path| path.starts_with("docs") && *path != summary.path);
    assert_eq!(listed, there.collect::<BTreeSet<_>>());
}
