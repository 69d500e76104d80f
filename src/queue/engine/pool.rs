//! Fewer of sled's threads.
//!
//! sled hands each write to a pool of seven threads, whose size can't be set, and wakes all of them
//! for it. One does the work; the other six look and go to sleep again, which costs more processor
//! than the write. So all but [`AWAKE`] of the seven are put to sleep for good: each does one flush,
//! and whom it wakes when that is done never comes back. It holds nothing then but a lock that no
//! one else asks for. docs/decisions/0014-sled-threads.md has what it gains and risks.

use std::fs;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Once};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use super::{guarded, pause};

/// Threads that go on working. Not one: a panic in sled ends a thread of the pool.
const AWAKE: usize = 2;
/// As sled 0.34.7 has it. These are the first that it starts; more that it starts while much is to be
/// done, at the opening of a large database, end by themselves.
const THREADS: usize = 7;
const NAME: &str = "sled-io-";
/// A flush may be done before its waker is there, or by a thread that ends by itself: then it is
/// tried again.
const ATTEMPTS: usize = 2000;
/// The longest that a flush may take; beside other tests the disk may be busy for longer.
const PATIENCE: Duration = Duration::from_secs(if cfg!(test) { 60 } else { 1 });
/// How long threads that were just started may take to have their names.
const LOOKS: usize = 20;

static ASLEEP: AtomicUsize = AtomicUsize::new(0);

/// Leaves [`AWAKE`] threads of sled's pool, at the first call. None is put to sleep where it can't be
/// seen how many there are, nor where a newer sled's are fewer.
pub(super) fn thin(tree: &sled::Db) {
    static ONCE: Once = Once::new();
    // Caught within, so that it never is poisoned.
    ONCE.call_once(|| {
        // sled starts the pool with the first work for it.
        let _started = flush(tree, Waker::noop());
        let surplus = running().saturating_sub(AWAKE);
        let (took, taken) = channel();
        let waker = Waker::from(Arc::new(Never { surplus, took }));
        for _ in 0..ATTEMPTS {
            if ASLEEP.load(Ordering::Relaxed) >= surplus {
                break;
            }
            // One at a time: a thread that sleeps already must not have a second one wait for it.
            if flush(tree, &waker).is_pending() && taken.recv_timeout(PATIENCE).is_err() {
                break;
            }
        }
    });
}

/// Begins a flush of what there is. Pending where `waker` will be woken when it is done.
fn flush(tree: &sled::Db, waker: &Waker) -> Poll<()> {
    let flush = || Ok(pin!(tree.flush_async()).poll(&mut Context::from_waker(waker)));
    // What fails here is no write: the next one tells.
    guarded(flush).map_or(Poll::Ready(()), |flushed| flushed.map(drop))
}

/// Keeps the thread that wakes it, as long as it is one of the first seven, and so many are not
/// asleep.
struct Never {
    surplus: usize,
    /// Told when a thread came, once it is known whether it stays.
    took: Sender<()>,
}

impl Wake for Never {
    fn wake(self: Arc<Self>) {
        let stays = is_of_the_pool(std::thread::current().name().unwrap_or_default())
            && ASLEEP
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |asleep| {
                    (asleep < self.surplus).then_some(asleep + 1)
                })
                .is_ok();
        // Whoever waited gave up.
        let (Ok(()) | Err(_)) = self.took.send(());
        if stays {
            loop {
                std::thread::park();
            }
        }
    }
}

/// Whether a thread of this name is one of the first.
fn is_of_the_pool(name: &str) -> bool {
    let number = name.strip_prefix(NAME).and_then(|number| number.parse::<usize>().ok());
    number.is_some_and(|number| number < THREADS)
}

/// How many of the first threads there are.
fn running() -> usize {
    let mut count = 0;
    for _ in 0..LOOKS {
        let Ok(tasks) = fs::read_dir("/proc/self/task") else { return 0 };
        let names =
            tasks.flatten().filter_map(|task| fs::read_to_string(task.path().join("comm")).ok());
        count = names.filter(|name| is_of_the_pool(name.trim_end())).count();
        if count >= THREADS {
            break;
        }
        pause();
    }
    count
}

#[cfg(test)]
mod tests {
    use super::super::Database;
    use super::*;

    #[test]
    fn some_threads_do_the_work_of_all_databases() {
        let folder = tempfile::tempdir().unwrap();
        let open = |name: usize| Database::open(&folder.path().join(name.to_string())).unwrap();
        let first = open(0);
        assert_eq!(running(), THREADS);
        assert_eq!(ASLEEP.load(Ordering::Relaxed), THREADS - AWAKE);
        drop(first);
        // More at once than threads are left; each is opened again with more segments than the pool
        // has threads.
        std::thread::scope(|scope| {
            for name in 0..2 * AWAKE {
                scope.spawn(move || {
                    let database = open(name);
                    for number in 0..1000_u64 {
                        database.insert(&number.to_be_bytes(), &[7; 7000]).unwrap();
                        if number % 8 == 0 {
                            database.flush().unwrap();
                        }
                    }
                    database.sync().unwrap();
                    assert!(database.disk_bytes() > 16 * 512 * 1024);
                    drop(database);
                    let mut entries = 0;
                    let again = open(name);
                    again
                        .scan(&[], |_, _| {
                            entries += 1;
                            true
                        })
                        .unwrap();
                    assert_eq!(entries, 1000);
                    again.insert(b"k", b"v").unwrap();
                    again.flush().unwrap();
                });
            }
        });
    }

    #[test]
    fn only_the_first_threads_are_put_to_sleep() {
        for (name, is_first) in [
            ("sled-io-0", true),
            ("sled-io-6", true),
            ("sled-io-7", false),
            ("sled-io-12", false),
            ("sled-io-", false),
            ("queue-writer", false),
        ] {
            assert_eq!(is_of_the_pool(name), is_first, "{name}");
        }
    }
}
