//! What there is to win: ratings, challenges, badges, features, and their ids.

use super::id::Id;

/// What a definition counts.
#[derive(Clone, Copy, Debug)]
pub(in crate::simulator) enum Measure {
    Events,
    /// Events with an `idempotenceKey`, duplicates apart.
    Discoveries,
    /// Points in the rating Activity.
    Points,
}

/// A definition that has a name.
pub(in crate::simulator) trait Named {
    fn name(&self) -> &'static str;
}

#[derive(Debug)]
pub(in crate::simulator) struct Rating {
    pub(in crate::simulator) name: &'static str,
    pub(in crate::simulator) unit: &'static str,
}

#[derive(Debug)]
pub(in crate::simulator) struct Challenge {
    pub(in crate::simulator) name: &'static str,
    pub(in crate::simulator) measure: Measure,
    /// What has to be reached for each step.
    pub(in crate::simulator) goals: [u64; 3],
}

#[derive(Debug)]
pub(in crate::simulator) struct Badge {
    pub(in crate::simulator) name: &'static str,
    pub(in crate::simulator) description: &'static str,
    pub(in crate::simulator) measure: Measure,
    /// Earned at this many, and if it isn't permanent at each multiple.
    pub(in crate::simulator) each: u64,
    pub(in crate::simulator) permanent: bool,
}

impl Badge {
    /// How often the badge is earned at `reached`.
    pub(in crate::simulator) const fn earned(&self, reached: u64) -> u64 {
        let times = reached / self.each;
        if self.permanent && times > 1 { 1 } else { times }
    }
}

#[derive(Debug)]
pub(in crate::simulator) struct Feature {
    pub(in crate::simulator) name: &'static str,
    pub(in crate::simulator) description: &'static str,
    /// Points in the rating Activity that unlock it.
    pub(in crate::simulator) points: u64,
}

/// The first is moved by every event, the second by unique ones.
pub(in crate::simulator) const RATINGS: [Rating; 2] =
    [Rating { name: "Activity", unit: "points" }, Rating { name: "Discoveries", unit: "finds" }];

pub(in crate::simulator) const CHALLENGES: [Challenge; 3] = [
    Challenge { name: "First steps", measure: Measure::Events, goals: [1, 3, 5] },
    Challenge { name: "Regular", measure: Measure::Events, goals: [10, 25, 50] },
    Challenge { name: "Collector", measure: Measure::Discoveries, goals: [1, 3, 10] },
];

pub(in crate::simulator) const BADGES: [Badge; 3] = [
    Badge {
        name: "Newcomer",
        description: "Sent a first event",
        measure: Measure::Events,
        each: 1,
        permanent: true,
    },
    Badge {
        name: "Explorer",
        description: "Found something unique",
        measure: Measure::Discoveries,
        each: 1,
        permanent: true,
    },
    Badge {
        name: "Ten more",
        description: "Sent ten more events",
        measure: Measure::Events,
        each: 10,
        permanent: false,
    },
];

pub(in crate::simulator) const FEATURES: [Feature; 2] = [
    Feature { name: "Custom avatar", description: "Upload a picture of your own", points: 50 },
    Feature { name: "Early access", description: "Try what is new before others", points: 500 },
];

macro_rules! named {
    ($($definition:ty),*) => {
        $(impl Named for $definition {
            fn name(&self) -> &'static str {
                self.name
            }
        })*
    };
}
named!(Rating, Challenge, Badge, Feature);

/// The ids of all that, the same for the same seed.
#[derive(Debug)]
pub(in crate::simulator) struct Catalogue {
    pub(in crate::simulator) client: Id,
    pub(in crate::simulator) ratings: Vec<Id>,
    pub(in crate::simulator) challenges: Vec<Id>,
    /// By challenge, then by step.
    pub(in crate::simulator) steps: Vec<[Id; 3]>,
    pub(in crate::simulator) badges: Vec<Id>,
    pub(in crate::simulator) features: Vec<Id>,
}

impl Catalogue {
    pub(in crate::simulator) fn new(seed: u64) -> Self {
        Self {
            client: Id::of(seed, "client"),
            ratings: uuids(seed, "rating", &RATINGS),
            challenges: uuids(seed, "challenge", &CHALLENGES),
            steps: CHALLENGES
                .iter()
                .map(|challenge| {
                    [1, 2, 3].map(|step| Id::of(seed, &format!("step/{}/{step}", challenge.name)))
                })
                .collect(),
            badges: uuids(seed, "badge", &BADGES),
            features: uuids(seed, "feature", &FEATURES),
        }
    }
}

fn uuids<T: Named>(seed: u64, kind: &str, definitions: &[T]) -> Vec<Id> {
    definitions.iter().map(|it| Id::of(seed, &format!("{kind}/{}", it.name()))).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ids_differ_among_themselves_and_between_seeds() {
        let all = |seed| -> BTreeSet<Id> {
            let catalogue = Catalogue::new(seed);
            let steps = catalogue.steps.into_iter().flatten();
            [catalogue.ratings, catalogue.challenges, catalogue.badges, catalogue.features]
                .into_iter()
                .flatten()
                .chain(steps)
                .chain([catalogue.client])
                .collect()
        };
        let count = RATINGS.len() + 4 * CHALLENGES.len() + BADGES.len() + FEATURES.len() + 1;
        assert_eq!(all(1).len(), count);
        assert_eq!(all(1), all(1));
        assert!(all(1).is_disjoint(&all(2)));
    }

    #[test]
    fn a_permanent_badge_is_earned_once_and_another_at_each_multiple() {
        assert_eq!([0, 1, 2, 30].map(|reached| BADGES[0].earned(reached)), [0, 1, 1, 1]);
        assert_eq!([0, 9, 10, 30].map(|reached| BADGES[2].earned(reached)), [0, 0, 1, 3]);
    }
}
