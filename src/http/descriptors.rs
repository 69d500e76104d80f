//! File descriptors: as many as the system gives, and never the last ones for connections.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Kept back for the queue's files, the connections to GMFY, and the other listeners.
const RESERVED: u64 = 256;
/// Connections that are taken in any case.
const FEWEST: u64 = 16;

/// Raises the process's soft limit to its hard one; a process that may not keeps what it has.
pub fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            // `connections_within` counts with what it has.
            tracing::debug!(%error, "the limit of open files can't be raised");
        }
    }
}

/// How many of the connections that `setting` allows the process has descriptors for.
pub(super) fn connections_within(setting: &'static str, wanted: usize) -> usize {
    let connections = within(getrlimit(Resource::Nofile).current, wanted);
    if connections < wanted {
        tracing::warn!(
            setting,
            wanted,
            connections,
            "the limit of open files (ulimit -n) allows fewer connections than the setting"
        );
    }
    connections
}

/// `None` is no limit.
fn within(descriptors: Option<u64>, wanted: usize) -> usize {
    let Some(descriptors) = descriptors else { return wanted };
    // A small limit is shared evenly.
    let left = descriptors.saturating_sub(RESERVED.min(descriptors / 2)).max(FEWEST);
    usize::try_from(left).map_or(wanted, |left| left.min(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_of_the_process_keeps_its_descriptors() {
        for (descriptors, wanted, connections) in [
            (None, 1024, 1024),
            (Some(1_048_576), 1024, 1024),
            (Some(1024), 1024, 768),
            (Some(1024), 100, 100),
            (Some(300), 1024, 150),
            (Some(10), 1024, 16),
        ] {
            assert_eq!(within(descriptors, wanted), connections, "{descriptors:?}");
        }
    }
}
