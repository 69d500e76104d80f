//! Dead letters that go back into the queue, or away.

use std::future::Future as _;
use std::pin::pin;
use std::task::{Context, Waker};

use super::*;

/// Another fixture's events take the sequences of these letters, so that new ones are higher.
async fn with_letters(dir: &Path, count: u64) -> Fixture {
    let fixture = Fixture::open(dir);
    let users: Vec<String> = (0..count).map(|n| n.to_string()).collect();
    let users: Vec<&str> = users.iter().map(String::as_str).collect();
    fixture.append(&users).await;
    let letters: Vec<_> = (1..=count).map(letter).collect();
    for some in letters.chunks(100) {
        fixture.queue.bury(some.to_vec()).await.unwrap();
    }
    fixture
}

async fn sequences(queue: &Queue) -> Vec<u64> {
    let page = queue.dead_letters(None, 10_000).await.unwrap();
    page.letters.iter().map(|letter| letter.sequence.get()).collect()
}

#[tokio::test]
async fn a_requeued_letter_is_a_new_event_and_no_letter_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = with_letters(dir.path(), 3).await;
    let requeued = fixture.queue.requeue(Sequence::new(2)).await.unwrap().unwrap();
    assert_eq!(requeued, Requeued { from: Sequence::new(2), to: Sequence::new(4) });
    assert_eq!(fixture.queue.requeue(Sequence::new(2)).await.unwrap(), None);
    assert_eq!(sequences(&fixture.queue).await, [1, 3]);
    let events = fixture.read_all(4).await;
    let (event, of) = (&events[0], letter(2));
    assert_eq!(events.len(), 1);
    assert_eq!((&event.json, event.user, event.kind), (&of.event, of.user, of.kind));
    assert_eq!(event.accepted_at, Timestamp::from_millis(1_000), "accepted anew");
    let counts = fixture.metrics.ledger.snapshot();
    assert_eq!((counts.requeued, counts.accepted.iter().sum::<u64>()), (1, 3));
    assert_eq!((counts.appended, counts.dead_letters), (4, 2));
    let crashed = copy_of(dir.path());
    let reopened = Fixture::open(crashed.path());
    assert_eq!(sequences(&reopened.queue).await, [1, 3]);
    assert_eq!(reopened.read_all(1).await.len(), 4);
}

#[tokio::test]
async fn a_crash_between_the_commit_and_the_deletion_leaves_no_letter_in_both_places() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = with_letters(dir.path(), 3).await;
    let before = copy_of(dir.path());
    fixture.queue.requeue(Sequence::new(2)).await.unwrap().unwrap();
    let crashed = copy_of(dir.path());
    // As if the letter had not been deleted yet.
    std::fs::remove_dir_all(crashed.path().join("dead-letters")).unwrap();
    let (from, to) = (before.path().join("dead-letters"), crashed.path().join("dead-letters"));
    std::fs::rename(from, to).unwrap();
    let reopened = Fixture::open(crashed.path());
    assert_eq!(sequences(&reopened.queue).await, [1, 3]);
    let counts = reopened.metrics.ledger.snapshot();
    assert_eq!((counts.recovered, counts.dead_letters), (4, 2));
}

#[tokio::test]
async fn all_are_requeued_in_order_and_those_that_die_again_are_not_chased() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = with_letters(dir.path(), 1_000).await;
    // One that is as new as what is being requeued.
    fixture.queue.bury(vec![letter(1_001)]).await.unwrap();
    let mut requeued = Vec::new();
    fixture.queue.requeue_all(&mut requeued).await.unwrap();
    let expected = (1..=1_000).map(|n| (n, 1_000 + n));
    let pairs = requeued.iter().map(|one| (one.from.get(), one.to.get()));
    assert_eq!(pairs.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    assert_eq!(sequences(&fixture.queue).await, [1_001]);
    let events = fixture.read_all(1_001).await;
    let letters = (1..=1_000).map(|n| letter(n).event);
    assert!(events.iter().map(|event| &event.json).eq(letters.collect::<Vec<_>>().iter()));
}

#[tokio::test]
async fn a_full_queue_takes_none_and_they_stay_letters() {
    let dir = tempfile::tempdir().unwrap();
    let small = Options { max_bytes: 1 << 20, ..options(dir.path()) };
    let fixture = Fixture::open_with(&small).unwrap();
    fixture.queue.bury(vec![letter(1), letter(2)]).await.unwrap();
    let one = fixture.queue.requeue(Sequence::new(1)).await;
    assert_eq!(one, Err(RequeueError::Append(AppendError::QueueFull)));
    assert_eq!(sequences(&fixture.queue).await, [1, 2]);
    assert_eq!(fixture.metrics.ledger.snapshot().requeued, 0);
}

#[tokio::test]
async fn whenever_a_caller_hangs_up_each_letter_is_in_one_place() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = with_letters(dir.path(), 40).await;
    let mut cx = Context::from_waker(Waker::noop());
    for sequence in 1..=40 {
        let requeue = fixture.queue.requeue(Sequence::new(sequence));
        let mut requeue = pin!(requeue);
        for _ in 0..sequence / 4 {
            if requeue.as_mut().poll(&mut cx).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    let (mut first, mut second) = (Vec::new(), Vec::new());
    // Two operators at once.
    let both =
        tokio::join!(fixture.queue.requeue_all(&mut first), fixture.queue.requeue_all(&mut second));
    assert_eq!(both, (Ok(()), Ok(())));
    assert!(sequences(&fixture.queue).await.is_empty());
    let mut found: Vec<_> = fixture.read_all(41).await.into_iter().map(|e| e.json).collect();
    found.sort();
    let mut expected: Vec<_> = (1..=40).map(|n| letter(n).event).collect();
    expected.sort();
    assert_eq!(found, expected);
    assert_eq!(fixture.metrics.ledger.snapshot().requeued, 40);
}

#[tokio::test]
async fn what_is_discarded_is_gone_for_good() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = with_letters(dir.path(), 600).await;
    assert!(fixture.queue.discard(Sequence::new(7)).await.unwrap());
    assert!(!fixture.queue.discard(Sequence::new(7)).await.unwrap());
    assert_eq!(fixture.queue.discard_all().await.unwrap(), 599);
    assert_eq!(fixture.metrics.ledger.snapshot().dead_letters, 0);
    let crashed = copy_of(dir.path());
    let reopened = Fixture::open(crashed.path());
    assert!(sequences(&reopened.queue).await.is_empty());
}

#[tokio::test]
async fn pages_follow_one_another_to_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = with_letters(dir.path(), 10).await;
    for limit in [1, 3, 5, 10, 11] {
        let (mut after, mut found) = (None, Vec::new());
        loop {
            let page = fixture.queue.dead_letters(after, limit).await.unwrap();
            assert!(page.letters.len() <= limit);
            found.extend(page.letters.iter().map(|letter| letter.sequence.get()));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(found, (1..=10).collect::<Vec<_>>(), "{limit}");
    }
}

#[tokio::test]
async fn an_event_is_queued_until_its_lane_passes_it() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path());
    let at = async |sequence| fixture.queue.locate(Sequence::new(sequence)).await.unwrap();
    assert_eq!(at(1).await, Location::Nowhere);
    fixture.append(&["ada", "bob"]).await;
    assert_eq!((at(0).await, at(3).await), (Location::Nowhere, Location::Nowhere));
    assert_eq!((at(1).await, at(2).await), (Location::Queued, Location::Queued));
    let lane = UserHash::of("ada").partition().index() % 4;
    fixture.settle(lane, 3, 1).await;
    assert_eq!(at(1).await, Location::Settled);
}
