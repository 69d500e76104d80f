//! The state of the simulated GMFY: who has how many points, steps, badges, features, coins.
//!
//! Every event gives its user points in the rating Activity (how many depends on the type and the
//! seed), and a coin; events with an `idempotenceKey` also move the rating Discoveries, unless the
//! same user sent the same type and key before. What an event leads to (steps, badges, features)
//! is in `catalogue`.
//!
//! Memory is bounded: users beyond the cap are counted and not kept; of notifications, and of the
//! keys of unique events, the newest are kept.

pub(super) mod catalogue;
pub(super) mod id;
pub(super) mod payments;
mod standing;
pub(super) mod views;

use std::collections::{HashMap, HashSet, VecDeque};

use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128};

use self::catalogue::{BADGES, CHALLENGES, Catalogue, FEATURES, Measure, RATINGS};
use self::payments::Payments;
use super::wire::WireEvent;
use crate::clock::Timestamp;

/// How many keys of unique events are remembered.
const KEYS_MAX: usize = 1 << 20;
/// How many notifications are kept.
const NOTICES_MAX: usize = 10_000;

/// Everything that reads show.
#[derive(Debug)]
pub(super) struct World {
    seed: u64,
    max_users: usize,
    pub(super) catalogue: Catalogue,
    pub(super) payments: Payments,
    users: Vec<User>,
    by_id: HashMap<Box<str>, usize>,
    seen_keys: HashSet<u128>,
    seen_order: VecDeque<u128>,
    notices: VecDeque<Notice>,
}

/// One user's state.
#[derive(Debug)]
struct User {
    id: Box<str>,
    /// By the index of the rating.
    points: [u64; RATINGS.len()],
    events: u64,
    discoveries: u64,
    gems: u64,
    /// When each step of each challenge was passed.
    passed: [[Option<Timestamp>; 3]; CHALLENGES.len()],
    badges: [Option<Badge>; BADGES.len()],
    features: [Option<Timestamp>; FEATURES.len()],
}

#[derive(Clone, Copy, Debug)]
struct Badge {
    count: u64,
    acquired: Timestamp,
}

/// A notification, rendered when it is read.
#[derive(Clone, Copy, Debug)]
struct Notice {
    user: usize,
    news: News,
    unread: bool,
}

/// What an event led to, besides points; the numbers are indices into the catalogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    Badge(usize),
    Challenge(usize),
    Feature(usize),
}

impl News {
    /// The notification's words.
    pub(super) fn message(self) -> String {
        let name = self.name();
        match self {
            Self::Badge(_) => format!("You earned the badge {name}"),
            Self::Challenge(_) => format!("You completed the challenge {name}"),
            Self::Feature(_) => format!("You unlocked {name}"),
        }
    }

    /// The name of what was won.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Badge(badge) => name(&BADGES, badge),
            Self::Challenge(challenge) => name(&CHALLENGES, challenge),
            Self::Feature(feature) => name(&FEATURES, feature),
        }
    }
}

fn name<T: catalogue::Named>(definitions: &[T], index: usize) -> &'static str {
    definitions.get(index).map_or("", catalogue::Named::name)
}

/// What an event did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Moved {
        points: u64,
        /// Of the rating Activity, after this event.
        total: u64,
        news: Vec<News>,
    },
    /// A unique event that has counted before.
    Duplicate,
    /// There are too many users to keep this one.
    NotKept,
}

impl World {
    pub(super) fn new(seed: u64, max_users: usize) -> Self {
        Self {
            seed,
            max_users,
            catalogue: Catalogue::new(seed),
            payments: Payments::new(seed),
            users: Vec::new(),
            by_id: HashMap::new(),
            seen_keys: HashSet::new(),
            seen_order: VecDeque::new(),
            notices: VecDeque::new(),
        }
    }

    /// How many users are kept.
    pub(super) const fn user_count(&self) -> usize {
        self.users.len()
    }

    /// Applies one event.
    pub(super) fn apply(&mut self, event: &WireEvent<'_>, now: Timestamp) -> Effect {
        let unique = event.idempotence_key.is_some();
        if unique && !self.is_new_key(event) {
            return Effect::Duplicate;
        }
        let points = points_of(self.seed, &event.event_type);
        let Some(index) = self.user_index(&event.user_id) else { return Effect::NotKept };
        let Some(user) = self.users.get_mut(index) else { return Effect::NotKept };
        let mut news = Vec::new();
        user.move_by(points, unique, now, &mut news);
        let total = user.points[0];
        for news in &news {
            if self.notices.len() == NOTICES_MAX {
                self.notices.pop_front();
            }
            self.notices.push_back(Notice { user: index, news: *news, unread: true });
        }
        Effect::Moved { points, total, news }
    }

    fn is_new_key(&mut self, event: &WireEvent<'_>) -> bool {
        let key = event.idempotence_key.as_deref().unwrap_or_default();
        // The lengths keep ("ab", "c") apart from ("a", "bc").
        let mut identity = Vec::with_capacity(128);
        for part in [&*event.user_id, &*event.event_type, key] {
            identity.extend_from_slice(&part.len().to_le_bytes());
            identity.extend_from_slice(part.as_bytes());
        }
        let hash = xxh3_128(&identity);
        if !self.seen_keys.insert(hash) {
            return false;
        }
        self.seen_order.push_back(hash);
        if self.seen_order.len() > KEYS_MAX
            && let Some(oldest) = self.seen_order.pop_front()
        {
            self.seen_keys.remove(&oldest);
        }
        true
    }

    fn user_index(&mut self, id: &str) -> Option<usize> {
        if let Some(index) = self.by_id.get(id) {
            return Some(*index);
        }
        let index = self.users.len();
        if index >= self.max_users {
            return None;
        }
        self.users.push(User::new(id));
        self.by_id.insert(id.into(), index);
        Some(index)
    }
}

/// The points of an event: 5, 10, 15 or 20, always the same for a type and a seed.
fn points_of(seed: u64, event_type: &str) -> u64 {
    5 * (1 + xxh3_64_with_seed(event_type.as_bytes(), seed) % 4)
}

impl User {
    fn new(id: &str) -> Self {
        Self {
            id: id.into(),
            points: [0; RATINGS.len()],
            events: 0,
            discoveries: 0,
            gems: 0,
            passed: [[None; 3]; CHALLENGES.len()],
            badges: [None; BADGES.len()],
            features: [None; FEATURES.len()],
        }
    }

    fn measure(&self, measure: Measure) -> u64 {
        match measure {
            Measure::Events => self.events,
            Measure::Discoveries => self.discoveries,
            Measure::Points => self.points[0],
        }
    }

    fn move_by(&mut self, points: u64, unique: bool, now: Timestamp, news: &mut Vec<News>) {
        self.events += 1;
        self.points[0] += points;
        if unique {
            self.discoveries += 1;
            self.points[1] += 1;
        }
        for (index, challenge) in CHALLENGES.iter().enumerate() {
            let reached = self.measure(challenge.measure);
            let Some(passed) = self.passed.get_mut(index) else { continue };
            let before = passed.iter().flatten().count();
            for (step, goal) in passed.iter_mut().zip(challenge.goals) {
                if reached >= goal && step.is_none() {
                    *step = Some(now);
                }
            }
            if before < passed.len() && passed.iter().all(Option::is_some) {
                self.gems += 1;
                news.push(News::Challenge(index));
            }
        }
        for (index, definition) in BADGES.iter().enumerate() {
            let earned = definition.earned(self.measure(definition.measure));
            let Some(badge) = self.badges.get_mut(index) else { continue };
            if earned > badge.map_or(0, |badge| badge.count) {
                *badge = Some(Badge { count: earned, acquired: now });
                news.push(News::Badge(index));
            }
        }
        for (index, definition) in FEATURES.iter().enumerate() {
            let reached = self.measure(Measure::Points) >= definition.points;
            let Some(feature) = self.features.get_mut(index) else { continue };
            if reached && feature.is_none() {
                *feature = Some(now);
                news.push(News::Feature(index));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;

    fn event<'a>(user: &'a str, event_type: &'a str, key: Option<&'a str>) -> WireEvent<'a> {
        WireEvent {
            user_id: Cow::Borrowed(user),
            event_type: Cow::Borrowed(event_type),
            idempotence_key: key.map(Cow::Borrowed),
        }
    }

    const NOW: Timestamp = Timestamp::from_millis(1_000);

    #[test]
    fn points_add_up_and_the_first_event_earns_a_badge() {
        let mut world = World::new(1, 10);
        let first = world.apply(&event("u", "register", None), NOW);
        let Effect::Moved { points, total, news } = first else { panic!("{first:?}") };
        assert_eq!(points, total);
        assert!(news.contains(&News::Badge(0)), "{news:?}");
        let second = world.apply(&event("u", "register", None), NOW);
        assert!(matches!(second, Effect::Moved { total, .. } if total == 2 * points));
    }

    #[test]
    fn a_unique_event_counts_once_for_a_user_a_type_and_a_key() {
        let mut world = World::new(1, 10);
        let moved = |effect| matches!(effect, Effect::Moved { .. });
        assert!(moved(world.apply(&event("u", "visit", Some("k")), NOW)));
        assert_eq!(world.apply(&event("u", "visit", Some("k")), NOW), Effect::Duplicate);
        assert!(moved(world.apply(&event("u", "visit", Some("l")), NOW)));
        assert!(moved(world.apply(&event("u", "visitk", Some("k")), NOW)));
        assert!(moved(world.apply(&event("v", "visit", Some("k")), NOW)));
        assert!(moved(world.apply(&event("u", "visit", None), NOW)));
        assert!(moved(world.apply(&event("u", "visit", None), NOW)));
    }

    #[test]
    fn users_beyond_the_cap_are_not_kept() {
        let mut world = World::new(1, 2);
        for (user, kept) in [("a", true), ("b", true), ("c", false), ("a", true)] {
            let effect = world.apply(&event(user, "t", None), NOW);
            assert_eq!(effect != Effect::NotKept, kept, "{user}");
        }
        assert_eq!(world.user_count(), 2);
    }

    #[test]
    fn what_is_kept_beside_users_is_bounded() {
        let mut world = World::new(1, 20_000);
        for user in 0..NOTICES_MAX + 5 {
            world.apply(&event(&user.to_string(), "t", None), NOW);
        }
        assert_eq!(world.notices.len(), NOTICES_MAX);
        assert!(world.notices.iter().all(|notice| notice.user >= 5));
    }

    #[test]
    fn the_seed_decides_the_points() {
        let points = |seed| -> Vec<u64> {
            ["a", "b", "c", "d", "e", "f"].map(|name| points_of(seed, name)).into()
        };
        assert_eq!(points(1), points(1));
        assert_ne!(points(1), points(2));
        assert!(points(3).iter().all(|points| [5, 10, 15, 20].contains(points)));
    }
}
