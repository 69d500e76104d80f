//! The paths of the application listener, taken from the raw path: what is encoded in a segment
//! stays in that segment.

use http::Method;

use super::problem::Problem;
use crate::upstream::{Call, Id, IdError};

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    PostEvent,
    PostBatch,
    Read(Call),
    Write(Call),
}

/// A path that exists; ids left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    Events,
    Batch,
    Payments,
    ResendCode,
    Users,
    User,
    Badges,
    RatingTop,
    ChallengeTop,
    Payment,
    Notifications,
    UserNotifications,
    Unread,
    UserUnread,
    Version,
    /// Any path that isn't ours.
    Other,
}

/// The most segments a path of ours has, and one more.
const SEGMENTS: usize = 5;
/// Beyond this no nearest path is looked for, in bytes.
const LONGEST_COMPARED: usize = 256;

impl Route {
    pub(super) const ALL: [Self; 16] = [
        Self::Events,
        Self::Batch,
        Self::Payments,
        Self::ResendCode,
        Self::Users,
        Self::User,
        Self::Badges,
        Self::RatingTop,
        Self::ChallengeTop,
        Self::Payment,
        Self::Notifications,
        Self::UserNotifications,
        Self::Unread,
        Self::UserUnread,
        Self::Version,
        Self::Other,
    ];

    /// As people and metrics name it.
    pub(super) const fn template(self) -> &'static str {
        match self {
            Self::Events => "/v1/events/",
            Self::Batch => "/v1/events/batch/",
            Self::Payments => "/v1/payments/",
            Self::ResendCode => "/v1/payments/{id}/resend-code/",
            Self::Users => "/v1/users/",
            Self::User => "/v1/users/{id}/",
            Self::Badges => "/v1/badges/{id}/",
            Self::RatingTop => "/v1/ratings/{id}/top/",
            Self::ChallengeTop => "/v1/challenges/{id}/top/",
            Self::Payment => "/v1/payments/{id}/",
            Self::Notifications => "/v1/notifications/",
            Self::UserNotifications => "/v1/notifications/{id}/",
            Self::Unread => "/v1/notifications/unread/",
            Self::UserUnread => "/v1/notifications/unread/{id}/",
            Self::Version => "/v1/version/",
            Self::Other => "other",
        }
    }

    pub(super) const fn is_write(self) -> bool {
        matches!(self, Self::Events | Self::Batch | Self::Payments | Self::ResendCode)
    }

    pub(super) const fn takes_events(self) -> bool {
        matches!(self, Self::Events | Self::Batch)
    }

    /// The value of `Allow`.
    pub(super) const fn allow(self) -> &'static str {
        if self.is_write() { "POST" } else { "GET, HEAD" }
    }
}

/// A path, matched, with its id as sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Matched<'a> {
    pub(super) route: Route,
    id: &'a str,
}

/// Finds the route of a raw path, with or without the last slash.
pub(super) fn matched(path: &str) -> Matched<'_> {
    use Route::{
        Badges, Batch, ChallengeTop, Events, Notifications, Other, Payment, Payments, RatingTop,
        ResendCode, Unread, User, UserNotifications, UserUnread, Users, Version,
    };
    let mut segments = [""; SEGMENTS];
    let mut count = 0;
    let path = path.strip_suffix('/').unwrap_or(path);
    for segment in path.split('/').skip(1) {
        let Some(place) = segments.get_mut(count) else {
            return Matched { route: Other, id: "" };
        };
        *place = segment;
        count += 1;
    }
    let (route, id) = match segments.get(..count).unwrap_or_default() {
        ["v1", "events"] => (Events, ""),
        ["v1", "events", "batch"] => (Batch, ""),
        ["v1", "payments"] => (Payments, ""),
        ["v1", "payments", id] => (Payment, *id),
        ["v1", "payments", id, "resend-code"] => (ResendCode, *id),
        ["v1", "users"] => (Users, ""),
        ["v1", "users", id] => (User, *id),
        ["v1", "badges", id] => (Badges, *id),
        ["v1", "ratings", id, "top"] => (RatingTop, *id),
        ["v1", "challenges", id, "top"] => (ChallengeTop, *id),
        ["v1", "notifications"] => (Notifications, ""),
        ["v1", "notifications", "unread"] => (Unread, ""),
        ["v1", "notifications", "unread", id] => (UserUnread, *id),
        ["v1", "notifications", id] => (UserNotifications, *id),
        ["v1", "version"] => (Version, ""),
        _ => (Other, ""),
    };
    Matched { route, id }
}

impl Matched<'_> {
    /// What a request with this method asks for.
    pub(super) fn action(self, method: &Method, path: &str) -> Result<Action, Problem> {
        if self.route == Route::Other {
            return Err(Problem::not_found(nearest(path)));
        }
        let allowed = if self.route.is_write() {
            method == Method::POST
        } else {
            method == Method::GET || method == Method::HEAD
        };
        if !allowed {
            return Err(Problem::method_not_allowed(self.route.allow()));
        }
        Ok(match self.route {
            Route::Events => Action::PostEvent,
            Route::Batch => Action::PostBatch,
            Route::Payments => Action::Write(Call::CreatePayment),
            Route::ResendCode => Action::Write(Call::ResendCode(self.id()?)),
            Route::Users => Action::Read(Call::Users),
            Route::User => Action::Read(Call::User(self.id()?)),
            Route::Badges => Action::Read(Call::Badges(self.id()?)),
            Route::RatingTop => Action::Read(Call::RatingTop(self.id()?)),
            Route::ChallengeTop => Action::Read(Call::ChallengeTop(self.id()?)),
            Route::Payment => Action::Read(Call::Payment(self.id()?)),
            Route::Notifications => Action::Read(Call::Notifications),
            Route::UserNotifications => Action::Read(Call::UserNotifications(self.id()?)),
            Route::Unread => Action::Read(Call::UnreadNotifications),
            Route::UserUnread => Action::Read(Call::UserUnreadNotifications(self.id()?)),
            Route::Version => Action::Read(Call::Version),
            Route::Other => return Err(Problem::not_found(None)),
        })
    }

    fn id(self) -> Result<Id, IdError> {
        Id::from_encoded_segment(self.id)
    }
}

/// The path of ours that is most like this one, if one is like it.
fn nearest(path: &str) -> Option<&'static str> {
    if path.len() > LONGEST_COMPARED {
        return None;
    }
    let path = format!("{}/", path.trim_matches('/').to_ascii_lowercase());
    Route::ALL
        .iter()
        .filter(|route| **route != Route::Other)
        .map(|route| {
            let distance = strsim::damerau_levenshtein(&path, &with_ids_of(&path, *route));
            (distance, route.template())
        })
        .min()
        .filter(|(distance, _)| *distance <= 4.max(path.len() / 4))
        .map(|(_, template)| template)
}

/// The route's path with this path's segments in the places of its ids.
fn with_ids_of(path: &str, route: Route) -> String {
    let mut given = path.split('/');
    let segments = route.template().trim_start_matches('/').split('/').map(|segment| {
        let given = given.next().unwrap_or_default();
        if segment.starts_with('{') { given } else { segment }
    });
    segments.collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_matches_with_and_without_the_last_slash() {
        for route in Route::ALL.into_iter().filter(|route| *route != Route::Other) {
            let path = route.template().replace("{id}", "a%2Fb");
            assert_eq!(matched(&path).route, route);
            assert_eq!(matched(path.trim_end_matches('/')).route, route);
        }
    }

    #[test]
    fn paths_that_are_not_ours_match_nothing() {
        for path in ["/", "", "*", "/v1/", "/v1/events/batch/1/", "//v1/events/", "/V1/users/"] {
            assert_eq!(matched(path).route, Route::Other, "{path}");
        }
        assert_eq!(matched("/v1/users/a/b/c/d/e/f").route, Route::Other);
    }

    #[test]
    fn an_id_is_decoded_once_and_stays_one_segment() {
        let action = |path: &str| matched(path).action(&Method::GET, path).ok();
        assert_eq!(
            action("/v1/users/a%2Fb"),
            Some(Action::Read(Call::User(Id::new("a/b").unwrap())))
        );
        assert_eq!(
            action("/v1/users/%252F/"),
            Some(Action::Read(Call::User(Id::new("%2F").unwrap())))
        );
        for bad in
            ["/v1/users/../", "/v1/users/%2e/", "/v1/users/%00", "/v1/users/%ff", "/v1/users//"]
        {
            assert_eq!(action(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_nearest_path_is_named_only_when_one_is_near() {
        for (path, expected) in [
            ("/v1/event/", Some("/v1/events/")),
            ("/v1/events/bacth", Some("/v1/events/batch/")),
            ("/v1/rating/42/top/", Some("/v1/ratings/{id}/top/")),
            ("/events/", Some("/v1/events/")),
            ("/favicon.ico", None),
            ("/.well-known/security.txt", None),
        ] {
            assert_eq!(nearest(path), expected, "{path}");
        }
        assert_eq!(nearest(&"/v1/events/".repeat(100)), None);
    }
}
