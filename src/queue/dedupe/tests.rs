use super::*;

const WINDOW: Duration = Duration::from_secs(600);

fn dedupe(entries: usize) -> (Arc<Dedupe>, Clock) {
    let clock = Clock::manual(Timestamp::from_millis(1_000_000));
    let forgotten = IntCounter::new("forgotten", "Forgotten.").unwrap();
    let limits = DedupeLimits { window: WINDOW, entries };
    (Arc::new(Dedupe::new(limits, clock.clone(), forgotten)), clock)
}

fn add(dedupe: &Dedupe, clock: &Clock, marks: &[u128]) -> Vec<bool> {
    let (is_new, _) = dedupe.add_events(marks.iter().map(|m| Some(Mark(*m))), clock.now());
    dedupe.committed(std::iter::empty(), clock.now());
    is_new
}

#[test]
fn parts_of_a_mark_do_not_run_together() {
    let marks = [("a", "b", "c"), ("ab", "", "c"), ("a", "bc", ""), ("", "ab", "c")];
    let marks: HashSet<u128> = marks.map(|(u, t, k)| Mark::of_event(u, t, k).0).into();
    assert_eq!(marks.len(), 4);
    let keys = [("/a", "bc"), ("/ab", "c")].map(|(p, k)| RequestKey::new(p, k.as_bytes(), b""));
    assert_ne!(keys[0].key, keys[1].key);
}

#[test]
fn an_event_is_known_for_the_window_and_within_one_commit() {
    let (dedupe, clock) = dedupe(100);
    assert_eq!(add(&dedupe, &clock, &[1, 2, 1]), [true, true, false]);
    clock.advance(WINDOW / 2);
    assert_eq!(add(&dedupe, &clock, &[2, 3]), [false, true]);
    clock.advance(WINDOW / 2);
    // A repetition does not prolong it.
    assert_eq!(add(&dedupe, &clock, &[1, 2, 3]), [true, true, false]);
}

#[test]
fn a_failed_commit_is_forgotten_and_nothing_else() {
    let (dedupe, clock) = dedupe(100);
    add(&dedupe, &clock, &[1]);
    let marks = [1, 2, 3].map(|mark| Some(Mark(mark)));
    let (is_new, added) = dedupe.add_events(marks.into_iter(), clock.now());
    assert_eq!((is_new, added), (vec![false, true, true], 2));
    dedupe.take_back(added);
    assert_eq!(add(&dedupe, &clock, &[1, 2, 3]), [false, true, true]);
}

#[test]
fn beyond_the_entries_the_oldest_are_forgotten_and_counted() {
    let (dedupe, clock) = dedupe(3);
    add(&dedupe, &clock, &[1, 2]);
    clock.advance(Duration::from_secs(1));
    add(&dedupe, &clock, &[3, 4, 5]);
    assert_eq!(dedupe.forgotten.get(), 2);
    assert_eq!(add(&dedupe, &clock, &[3, 5]), [false, false]);
    assert_eq!(add(&dedupe, &clock, &[1]), [true]);
}

#[test]
fn a_window_of_zero_is_off() {
    let (dedupe, clock) = dedupe(3);
    dedupe.set_limits(DedupeLimits { window: Duration::ZERO, entries: 3 });
    assert_eq!(add(&dedupe, &clock, &[1, 1]), [true, true]);
}

fn answer(key: RequestKey, accepted: u64, rest: Option<String>) -> Answer {
    Answer { key: key.key, body: key.body, accepted, duplicates: 1, first: 7, rest }
}

#[test]
fn a_request_is_answered_as_its_first_was() {
    let (dedupe, clock) = dedupe(100);
    let key = RequestKey::new("/v1/events/", b"k", b"{}");
    let Begun::First(underway) = dedupe.begin(key) else { panic!("the first") };
    assert!(matches!(dedupe.begin(key), Begun::Underway));
    drop(underway);
    let Begun::First(mut underway) = dedupe.begin(key) else { panic!("it failed: free") };
    let sequences = Some((Sequence::new(7), Sequence::new(9)));
    let appended = Appended { accepted: 3, duplicates: 1, sequences };
    let answer = underway.answer(&appended).unwrap();
    dedupe.committed([answer].into_iter(), clock.now());
    drop(underway);
    let Begun::Replay(replay) = dedupe.begin(key) else { panic!("known") };
    assert_eq!(replay.appended(), appended);
    let other = RequestKey::new("/v1/events/", b"k", b"{ }");
    assert!(matches!(dedupe.begin(other), Begun::OtherBody));
    let elsewhere = RequestKey::new("/v1/events/batch/", b"k", b"{}");
    assert!(matches!(dedupe.begin(elsewhere), Begun::First(_)));
    clock.advance(WINDOW);
    assert!(matches!(dedupe.begin(key), Begun::First(_)));
}

#[test]
fn long_answers_weigh_more_and_the_longest_are_not_remembered() {
    let (dedupe, clock) = dedupe(40);
    let key = |n: u8| RequestKey::new("/", &[n], b"");
    let long = "x".repeat(ENTRY_BYTES * 18);
    for n in 1..=3 {
        dedupe.committed([answer(key(n), 0, Some(long.clone()))].into_iter(), clock.now());
    }
    assert_eq!(dedupe.forgotten.get(), 1);
    assert!(matches!(dedupe.begin(key(1)), Begun::First(_)));
    let Begun::Replay(replay) = dedupe.begin(key(2)) else { panic!("known") };
    assert_eq!((replay.rest.as_deref(), replay.appended().sequences), (Some(&*long), None));
    let Begun::First(underway) = dedupe.begin(key(9)) else { panic!("the first") };
    let mut underway = underway.with_rest(&"x".repeat(MAX_REST));
    assert!(underway.answer(&Appended::default()).is_none());
}

#[test]
fn what_was_packed_is_unpacked() {
    let mut pack = Pack::default();
    let key = RequestKey::new("/", b"k", b"");
    let all: Vec<_> = (0..500_u64)
        .map(|n| match n % 3 {
            0 => Known::Event(Mark(u128::from(n) << 70)),
            1 => Known::Request(Box::new(answer(key, n, Some("r".repeat(40))))),
            _ => Known::Requeued(n),
        })
        .map(|known| (Timestamp::from_millis(77), known))
        .collect();
    for (at, known) in &all {
        pack.push(*at, known, 1000);
    }
    let record = pack.record(Sequence::FIRST);
    assert_eq!((record.entries, record.newest), (500, Timestamp::from_millis(77)));
    let pieces = pack.pieces();
    assert!(pieces.len() > 3 && pieces.iter().all(|piece| piece.len() <= 1000));
    let unpacked: Vec<_> = pieces.iter().flat_map(|piece| unpack(piece)).collect();
    assert_eq!(unpacked, all);
    assert_eq!(unpack(&[0xff; 30]).count(), 0);
}
