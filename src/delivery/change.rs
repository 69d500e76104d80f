//! Who is told of users whose state at GMFY changed.

use std::fmt;
use std::sync::Arc;

use crate::queue::UserHash;

type Told = dyn Fn(&mut dyn Iterator<Item = UserHash>) + Send + Sync;

/// Nobody, or a function that is called with the users of a request.
#[derive(Clone, Default)]
pub(super) struct OnChange(Option<Arc<Told>>);

impl OnChange {
    pub(super) fn new(
        told: impl Fn(&mut dyn Iterator<Item = UserHash>) + Send + Sync + 'static,
    ) -> Self {
        Self(Some(Arc::new(told)))
    }

    pub(super) fn tell(&self, mut users: impl Iterator<Item = UserHash>) {
        if let Some(told) = &self.0 {
            told(&mut users);
        }
    }
}

impl fmt::Debug for OnChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OnChange").field(&self.0.is_some()).finish()
    }
}
