//! When GMFY refuses one event after the other, the fault may not be in the events.

use crate::queue::UserHash;

/// Single events refused in a row, of at least so many users, with one status and nothing
/// delivered between: the fault isn't in the events.
const SUSPICIOUS_REFUSALS: u32 = 32;
const SUSPICIOUS_USERS: usize = 4;

/// Refusals of single events in a row.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    status: u16,
    count: u32,
    users: Vec<UserHash>,
    /// An operator said that events refused with this status are to become dead letters.
    let_go: Option<u16>,
}

impl Refusals {
    /// Whether this one makes it look as if everything were refused.
    pub(super) fn note(&mut self, status: u16, user: UserHash) -> bool {
        if self.status != status {
            self.status = status;
            self.count = 0;
            self.users.clear();
        }
        self.count = self.count.saturating_add(1);
        if self.users.len() < SUSPICIOUS_USERS && !self.users.contains(&user) {
            self.users.push(user);
        }
        self.count >= SUSPICIOUS_REFUSALS
            && self.users.len() >= SUSPICIOUS_USERS
            && self.let_go != Some(status)
    }

    /// The status that an operator let go.
    pub(super) const fn let_go_status(&self) -> Option<u16> {
        self.let_go
    }

    /// Refusals with the status noted last are to become dead letters. Returns that status.
    pub(super) fn let_go(&mut self) -> u16 {
        self.let_go = Some(self.status);
        self.status
    }

    /// Counts from none again; what was let go stays so.
    pub(super) fn restart(&mut self) {
        *self = Self { let_go: self.let_go, ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noted(refusals: &mut Refusals, count: u32, status: u16, users: u32) -> bool {
        let notes = (0..count).map(|n| refusals.note(status, UserHash::from_bits(n % users)));
        notes.fold(false, |_, last| last)
    }

    #[test]
    fn it_takes_enough_refusals_of_enough_users_with_one_status() {
        assert!(!noted(&mut Refusals::default(), 31, 400, 4));
        assert!(noted(&mut Refusals::default(), 32, 400, 4));
        assert!(!noted(&mut Refusals::default(), 1000, 400, 3));
        let mut mixed = Refusals::default();
        assert!(!noted(&mut mixed, 31, 400, 4));
        assert!(!noted(&mut mixed, 31, 422, 4));
        assert!(!noted(&mut mixed, 1, 400, 4));
    }

    #[test]
    fn what_is_let_go_stays_so_until_another_status_shows() {
        let mut refusals = Refusals::default();
        assert!(noted(&mut refusals, 32, 400, 4));
        assert_eq!(refusals.let_go(), 400);
        refusals.restart();
        assert!(!noted(&mut refusals, 100, 400, 10));
        assert!(noted(&mut refusals, 100, 422, 10));
    }
}
