//! What comes again is not taken again, whatever happened in between.

use super::*;

/// Unique events of user `u`, told apart by these keys.
fn unique(keys: &[u32], request: Option<Underway>) -> Submission {
    let mut submission = Submission::with_capacity(keys.len(), 0).keyed(request);
    for key in keys {
        submission.push(&Event {
            user_id: Cow::Borrowed("u"),
            event_type: Cow::Borrowed("t"),
            idempotence_key: Some(Cow::Owned(key.to_string())),
            kind: EventKind::Unique,
            wire: Cow::Owned(format!("{{\"k\":{key},\"p\":\"{}\"}}", noise(*key as usize, 1000))),
        });
    }
    submission
}

fn first(begun: Begun) -> Underway {
    match begun {
        Begun::First(underway) => underway,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_unique_event_is_taken_once_across_crashes_seals_and_removals() {
    let dir = tempfile::tempdir().unwrap();
    let small = |dir: &Path| Options { max_bytes: 32 << 20, ..options(dir) };
    let fixture = Fixture::open_with(&small(dir.path())).unwrap();
    let all: Vec<u32> = (0..6000).collect();
    for keys in all.chunks(500) {
        let appended = fixture.queue.append(unique(keys, None)).await.unwrap();
        assert_eq!((appended.accepted, appended.duplicates), (500, 0));
    }
    assert!(generation_count(dir.path()) > 2, "some are sealed");
    // One request repeats within itself, and partly what came before.
    let appended = fixture.queue.append(unique(&[5, 6000, 6000, 5999, 6001], None)).await.unwrap();
    assert_eq!((appended.accepted, appended.duplicates), (2, 3));
    let (first, last) = appended.sequences.unwrap();
    assert_eq!(last, first.next(), "duplicates take no sequence");
    // All is delivered, so that whole generations are gone.
    for lane in 0..4 {
        let count = if lane == 0 { 6002 } else { 0 };
        fixture.settle(lane, last.get() + 1, count).await;
    }
    // An answer to this means that what came before it is done.
    fixture.queue.lanes(4).await.unwrap();
    assert_eq!(generation_count(dir.path()), 1);
    let crashed = copy_of(dir.path());
    drop(fixture);
    for dir in [dir.path(), crashed.path()] {
        let fixture = Fixture::open_with(&small(dir)).unwrap();
        for keys in all.chunks(1000).chain([&[6001, 6000][..]]) {
            let appended = fixture.queue.append(unique(keys, None)).await.unwrap();
            assert_eq!((appended.accepted, appended.duplicates), (0, keys.len() as u64));
        }
        assert_eq!(fixture.metrics.ledger.snapshot().duplicates, 6002);
        let appended = fixture.queue.append(unique(&[7000], None)).await.unwrap();
        assert_eq!(appended.accepted, 1);
    }
}

#[tokio::test]
async fn a_keyed_request_is_answered_as_before_across_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path());
    let key = |name: &str| RequestKey::new("/", name.as_bytes(), b"");
    let mut answers = Vec::new();
    let mut expected = Vec::new();
    for (name, events) in
        [("one", vec![1]), ("none", vec![]), ("again", vec![1]), ("large", (2..40).collect())]
    {
        let underway = first(fixture.queue.begin(key(name)));
        assert!(matches!(fixture.queue.begin(key(name)), Begun::Underway));
        let appended =
            fixture.queue.append(unique(&events, Some(underway.with_rest(name)))).await.unwrap();
        answers.push((name, appended));
        // Requests without events must not get in the way of others' frames.
        let (first, last) = fixture.append(&["a", "b"]).await;
        expected.extend(appended.sequences.iter().flat_map(|(f, l)| f.get()..=l.get()));
        expected.extend(first..=last);
    }
    drop(first(fixture.queue.begin(key("failed"))));
    let crashed = copy_of(dir.path());
    let reopened = Fixture::open(crashed.path());
    for fixture in [&fixture, &reopened] {
        for (name, appended) in &answers {
            let Begun::Replay(answer) = fixture.queue.begin(key(name)) else { panic!("{name}") };
            assert_eq!((answer.appended(), answer.rest.as_deref()), (*appended, Some(*name)));
        }
        assert!(matches!(fixture.queue.begin(key("failed")), Begun::First(_)));
        let events = fixture.read_all(1).await;
        let found: Vec<u64> = events.iter().map(|event| event.sequence.get()).collect();
        assert_eq!(found, expected);
    }
}
