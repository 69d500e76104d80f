//! Who stands where: the order of a rating's or a challenge's users.

use std::cmp::Reverse;

use super::World;

impl World {
    /// The users of a rating, best first; equal ones by id.
    pub(super) fn rating_order(&self, rating: usize) -> Vec<usize> {
        self.order(|user| user.points.get(rating).copied().unwrap_or(0))
    }

    /// The users who passed a step of a challenge, the furthest first; equal ones by id.
    pub(super) fn challenge_order(&self, challenge: usize) -> Vec<usize> {
        self.order(|user| user.progress(challenge))
    }

    fn order(&self, score: impl Fn(&super::User) -> u64) -> Vec<usize> {
        let mut scores: Vec<_> = self
            .users
            .iter()
            .enumerate()
            .map(|(index, user)| (Reverse(score(user)), &*user.id, index))
            .filter(|(Reverse(score), ..)| *score > 0)
            .collect();
        scores.sort_unstable();
        scores.into_iter().map(|(_, _, index)| index).collect()
    }

    /// The place of one user in a rating, from 1; 0 without points.
    pub(super) fn position(&self, rating: usize, index: usize) -> usize {
        let score = |user: &super::User| user.points.get(rating).copied().unwrap_or(0);
        let Some(user) = self.users.get(index).filter(|user| score(user) > 0) else { return 0 };
        let own = (Reverse(score(user)), &*user.id);
        1 + self.users.iter().filter(|other| (Reverse(score(other)), &*other.id) < own).count()
    }
}

impl super::User {
    /// How many steps of a challenge are passed.
    pub(super) fn progress(&self, challenge: usize) -> u64 {
        self.passed
            .get(challenge)
            .map_or(0, |steps| steps.iter().flatten().fold(0, |passed, _| passed + 1))
    }
}
