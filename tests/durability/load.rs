//! Posters of numbered events over kept-alive connections.

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;

use tokio::task::JoinSet;

use crate::client::{Answer, Connection};
use crate::numbers::Numbers;

/// Users of one poster: the event numbered `n` is of user `n % USERS`. So many that no lane meets a
/// few only, of whom each gets no more than a share of a batch.
pub(crate) const USERS: u64 = 128;

/// Letters that can't be compressed: about half of an event, so that what is measured on disk is no
/// more than what real events save.
fn noise(number: u64) -> impl Iterator<Item = char> {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut state = (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(LETTERS[usize::try_from(state >> 58).unwrap()])
    })
}

/// One connection's worth of events, numbered from 0. A number whose outcome is not known is never
/// used again.
#[derive(Debug)]
pub(crate) struct Poster {
    pub(crate) id: usize,
    pub(crate) next: u64,
    pub(crate) acknowledged: Numbers,
    body: String,
}

impl Poster {
    pub(crate) fn new(id: usize) -> Self {
        Self { id, next: 0, acknowledged: Numbers::default(), body: String::new() }
    }

    /// Posts `count` events of 110 bytes as one request, and notes them when they are accepted and
    /// `counts`, asked when the answer is there, says so.
    pub(crate) async fn post(
        &mut self,
        connection: &mut Connection,
        count: u64,
        counts: impl Fn() -> bool,
    ) -> io::Result<Answer> {
        let numbers = self.next..self.next + count;
        self.next = numbers.end;
        self.body.clear();
        self.body.push('[');
        for number in numbers.clone() {
            if self.body.len() > 1 {
                self.body.push(',');
            }
            let start = self.body.len();
            let (id, user) = (self.id, number % USERS);
            write!(self.body, r#"{{"userId":"c{id}u{user}","type":"visit","n":{number},"note":""#)
                .unwrap();
            let padding = 108_usize.saturating_sub(self.body.len() - start);
            self.body.extend(noise(number).take(padding));
            self.body.push_str("\"}");
        }
        self.body.push(']');
        let answer = connection.post("/v1/events/batch/", &self.body).await?;
        if answer.status == 202 && counts() {
            for number in numbers {
                self.acknowledged.insert(number);
            }
        }
        Ok(answer)
    }
}

/// The events that all of these had acknowledged.
pub(crate) fn acknowledged(posters: &[Poster]) -> u64 {
    posters.iter().map(|poster| poster.acknowledged.count()).sum()
}

/// Posts `events` events in batches, each poster over its connection; `admits` is waited for before
/// each batch. Every batch must be accepted.
pub(crate) async fn fill<F: Future<Output = ()> + Send>(
    api: SocketAddr,
    posters: Range<usize>,
    events: u64,
    batch: u64,
    admits: impl Fn() -> F + Clone + Send + 'static,
) -> Vec<Poster> {
    let mut posting = JoinSet::new();
    let share = events / posters.len() as u64;
    for id in posters {
        let admits = admits.clone();
        posting.spawn(async move {
            let mut poster = Poster::new(id);
            let mut connection = Connection::open(api).await.unwrap();
            while poster.next < share {
                admits().await;
                let count = batch.min(share - poster.next);
                let answer = poster.post(&mut connection, count, || true).await.unwrap();
                assert_eq!(answer.status, 202, "{}", answer.text());
            }
            poster
        });
    }
    posting.join_all().await
}
