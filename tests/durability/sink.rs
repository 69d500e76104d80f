//! A GMFY that keeps nothing but which numbers it saw, and in which order.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::load::{Poster, USERS};
use crate::numbers::Numbers;

/// Runs until it is dropped.
#[derive(Debug)]
pub(crate) struct Sink {
    pub(crate) url: String,
    pub(crate) seen: Arc<Seen>,
    _serving: JoinSet<()>,
}

#[derive(Debug, Default)]
pub(crate) struct Seen {
    is_down: AtomicBool,
    delivered: AtomicU64,
    posters: Mutex<BTreeMap<usize, Arrived>>,
}

#[derive(Debug, Default)]
struct Arrived {
    numbers: Numbers,
    /// By user.
    highest: Vec<Option<u64>>,
    duplicates: u64,
    out_of_order: u64,
}

impl Seen {
    /// Different events that arrived.
    pub(crate) fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }
}

impl Sink {
    /// Down: it answers 503 to everything.
    pub(crate) async fn start(is_down: bool) -> Self {
        let seen = Arc::new(Seen { is_down: is_down.into(), ..Seen::default() });
        let router = Router::new()
            .fallback(take)
            .layer(DefaultBodyLimit::disable())
            .with_state(Arc::clone(&seen));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let mut serving = JoinSet::new();
        serving.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, seen, _serving: serving }
    }

    pub(crate) fn set_down(&self, is_down: bool) {
        self.seen.is_down.store(is_down, Ordering::Relaxed);
    }

    /// Different events that arrived.
    pub(crate) fn delivered(&self) -> u64 {
        self.seen.delivered()
    }

    /// Asserts that all that was acknowledged arrived, each user's events in order; returns how many
    /// events arrived again.
    pub(crate) fn assert_has_all_of(&self, posters: &[Poster]) -> u64 {
        let arrived = self.seen.posters.lock().unwrap();
        let nothing = Arrived::default();
        let mut duplicates = 0;
        for poster in posters {
            let arrived = arrived.get(&poster.id).unwrap_or(&nothing);
            let lost = poster.acknowledged.missing_in(&arrived.numbers);
            assert!(lost.is_empty(), "poster {}: acknowledged and lost: {lost:?}, …", poster.id);
            assert_eq!(arrived.out_of_order, 0, "poster {}: out of order", poster.id);
            duplicates += arrived.duplicates;
        }
        duplicates
    }
}

async fn take(State(seen): State<Arc<Seen>>, body: Bytes) -> (StatusCode, &'static str) {
    if seen.is_down.load(Ordering::Relaxed) {
        return (StatusCode::SERVICE_UNAVAILABLE, "down");
    }
    let mut posters = seen.posters.lock().unwrap();
    let mut new = 0;
    let starts = memchr::memmem::find_iter(&body, br#""userId":"c"#);
    for start in starts {
        let (poster, rest) = number(&body[start + 11..]);
        let (user, rest) = number(&rest[1..]);
        let at = memchr::memmem::find(rest, br#""n":"#).expect("events are numbered");
        let (n, _) = number(&rest[at + 4..]);
        let arrived = posters.entry(poster as usize).or_default();
        if arrived.numbers.insert(n) {
            arrived.highest.resize(USERS as usize, None);
            let highest = &mut arrived.highest[user as usize];
            arrived.out_of_order += u64::from(highest.is_some_and(|highest| highest > n));
            *highest = (*highest).max(Some(n));
            new += 1;
        } else {
            arrived.duplicates += 1;
        }
    }
    seen.delivered.fetch_add(new, Ordering::Relaxed);
    (StatusCode::CREATED, "{}")
}

/// The number that these bytes begin with, and what follows it.
fn number(bytes: &[u8]) -> (u64, &[u8]) {
    let end = bytes.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(bytes.len());
    let (digits, rest) = bytes.split_at(end);
    (digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0')), rest)
}
