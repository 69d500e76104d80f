//! Which answer a read is about: its route, and a key that is the same for the same question.

use std::borrow::Cow;
use std::time::Duration;

use super::epochs::Subject;
use crate::config::ReadTtl;
use crate::upstream::Call;

/// What of GMFY's API is read. The text is the metrics' label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Route {
    Users,
    User,
    Badges,
    Ratings,
    Challenges,
    Payments,
    Notifications,
    UnreadNotifications,
    Version,
}

impl Route {
    pub(super) const ALL: [Self; 9] = [
        Self::Users,
        Self::User,
        Self::Badges,
        Self::Ratings,
        Self::Challenges,
        Self::Payments,
        Self::Notifications,
        Self::UnreadNotifications,
        Self::Version,
    ];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Users => "users",
            Self::User => "user",
            Self::Badges => "badges",
            Self::Ratings => "ratings",
            Self::Challenges => "challenges",
            Self::Payments => "payments",
            Self::Notifications => "notifications",
            Self::UnreadNotifications => "unread_notifications",
            Self::Version => "version",
        }
    }

    /// The route of a call that reads; none for a write.
    pub(super) const fn of(call: &Call) -> Option<Self> {
        Some(match call {
            Call::Users => Self::Users,
            Call::User(_) => Self::User,
            Call::Badges(_) => Self::Badges,
            Call::RatingTop(_) => Self::Ratings,
            Call::ChallengeTop(_) => Self::Challenges,
            Call::Payment(_) => Self::Payments,
            Call::Notifications | Call::UserNotifications(_) => Self::Notifications,
            Call::UnreadNotifications | Call::UserUnreadNotifications(_) => {
                Self::UnreadNotifications
            }
            Call::Version => Self::Version,
            Call::CreatePayment | Call::ResendCode(_) => return None,
        })
    }

    /// How long its answers are fresh; zero where it isn't cached. To read what is unread changes
    /// it, so that is never cached.
    pub(super) const fn ttl(self, ttl: &ReadTtl) -> Duration {
        match self {
            Self::Users | Self::User => ttl.users,
            Self::Badges => ttl.badges,
            Self::Ratings => ttl.ratings,
            Self::Challenges => ttl.challenges,
            Self::Payments => ttl.payments,
            Self::Notifications => ttl.notifications,
            Self::UnreadNotifications => Duration::ZERO,
            Self::Version => ttl.version,
        }
    }

    /// The parameters that GMFY's own client always sends, by name, with its defaults.
    const fn defaults(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Ratings => &[("limit", "10"), ("offset", "0"), ("sort", "ASC")],
            Self::Challenges => &[("limit", "10")],
            Self::Users
            | Self::User
            | Self::Badges
            | Self::Payments
            | Self::Notifications
            | Self::UnreadNotifications
            | Self::Version => &[],
        }
    }
}

impl Route {
    /// The canonical form of no query.
    const fn default_query(self) -> &'static str {
        match self {
            Self::Ratings => "limit=10&offset=0&sort=ASC",
            Self::Challenges => "limit=10",
            Self::Users
            | Self::User
            | Self::Badges
            | Self::Payments
            | Self::Notifications
            | Self::UnreadNotifications
            | Self::Version => "",
        }
    }
}

/// What makes an answer to `call` out of date at once.
pub(super) fn subject(call: &Call) -> Subject {
    match call {
        Call::User(id) | Call::Badges(id) | Call::UserNotifications(id) => {
            Subject::user(id.as_str())
        }
        Call::Users | Call::Notifications => Subject::EVERY_USER,
        Call::Payment(id) | Call::ResendCode(id) => Subject::payment(id.as_str()),
        Call::RatingTop(_)
        | Call::ChallengeTop(_)
        | Call::UnreadNotifications
        | Call::UserUnreadNotifications(_)
        | Call::Version
        | Call::CreatePayment => Subject::NOTHING,
    }
}

/// The key of an answer: a letter for the call, the id, a NUL (which no id holds), the canonical
/// query.
pub(super) fn key(call: &Call, query: &str) -> String {
    let (letter, id) = match call {
        Call::Users => ('u', ""),
        Call::User(id) => ('U', id.as_str()),
        Call::Badges(id) => ('b', id.as_str()),
        Call::RatingTop(id) => ('r', id.as_str()),
        Call::ChallengeTop(id) => ('c', id.as_str()),
        Call::Payment(id) => ('p', id.as_str()),
        Call::Notifications => ('n', ""),
        Call::UserNotifications(id) => ('N', id.as_str()),
        Call::UnreadNotifications => ('x', ""),
        Call::UserUnreadNotifications(id) => ('X', id.as_str()),
        Call::Version => ('v', ""),
        Call::CreatePayment | Call::ResendCode(_) => ('-', ""),
    };
    let mut key = String::with_capacity(2 + id.len() + query.len());
    key.push(letter);
    key.push_str(id);
    key.push('\0');
    key.push_str(query);
    key
}

/// A query in the one spelling that all of the same meaning have: default parameters filled in,
/// parameters by name (those of one name in the order in which they came), percent-encoding
/// normalised (RFC 3986 §6.2.2). It is also what GMFY is sent.
pub(super) fn canonical_query(route: Route, query: Option<&str>) -> Cow<'static, str> {
    let query = query.unwrap_or_default();
    if query.is_empty() {
        return Cow::Borrowed(route.default_query());
    }
    let given = query.split('&').filter(|parameter| !parameter.is_empty());
    let mut parameters: Vec<String> = given.map(normalised).collect();
    for (name, value) in route.defaults() {
        if !parameters.iter().any(|parameter| name_of(parameter) == *name) {
            parameters.push(format!("{name}={value}"));
        }
    }
    parameters.sort_by(|a, b| name_of(a).cmp(name_of(b)));
    Cow::Owned(parameters.join("&"))
}

fn name_of(parameter: &str) -> &str {
    parameter.split('=').next().unwrap_or_default()
}

/// Decodes what needs no encoding, encodes what isn't ASCII, writes the rest in upper case.
fn normalised(text: &str) -> String {
    use std::fmt::Write as _;
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let digit = |offset: usize| {
            bytes.get(at + offset).and_then(|digit| char::from(*digit).to_digit(16))
        };
        let encoded = match (byte, digit(1), digit(2)) {
            (b'%', Some(high), Some(low)) => u8::try_from(high * 16 + low).ok(),
            _ => None,
        };
        at += if encoded.is_some() { 3 } else { 1 };
        match encoded {
            Some(plain) if is_unreserved(plain) => out.push(char::from(plain)),
            // Left as it is, it could become an escape of what is decoded behind it.
            None if byte == b'%' => out.push_str("%25"),
            None if byte.is_ascii() => out.push(char::from(byte)),
            Some(byte) => drop(write!(out, "%{byte:02X}")),
            None => drop(write!(out, "%{byte:02X}")),
        }
    }
    out
}

const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::telemetry::metrics::READ_ROUTES;
    use crate::upstream::Id;

    #[test]
    fn routes_are_the_labels_of_the_metric() {
        assert_eq!(Route::ALL.map(Route::as_str), READ_ROUTES);
    }

    #[test]
    fn no_query_is_the_query_of_all_defaults() {
        for route in Route::ALL {
            assert_eq!(canonical_query(route, None), canonical_query(route, Some("&")));
        }
    }

    #[test]
    fn spellings_of_one_query_have_one_key() {
        const FULL: &str = "limit=10&offset=0&sort=ASC";
        for (route, query, expected) in [
            (Route::Ratings, None, FULL),
            (Route::Ratings, Some(""), FULL),
            (Route::Ratings, Some("sort=ASC&offset=0"), FULL),
            (Route::Ratings, Some("limit=10&&sort=%41SC"), FULL),
            (Route::Ratings, Some("limit=5"), "limit=5&offset=0&sort=ASC"),
            (Route::Ratings, Some("limit=10&x=1"), "limit=10&offset=0&sort=ASC&x=1"),
            (Route::Challenges, None, "limit=10"),
            (Route::Users, None, ""),
            (Route::Users, Some("b=2&a=1"), "a=1&b=2"),
            (Route::Users, Some("a=2&b=0&a=1"), "a=2&a=1&b=0"),
            (Route::Users, Some("a=%e9%2f&b"), "a=%E9%2F&b"),
            (Route::Users, Some("a=\u{e9}"), "a=%C3%A9"),
            (Route::Users, Some("a=%zz&b=%"), "a=%25zz&b=%25"),
            (Route::Users, Some("a=%%30a"), "a=%250a"),
            (Route::Users, Some("a=1+2"), "a=1+2"),
        ] {
            assert_eq!(canonical_query(route, query), expected, "{query:?}");
        }
    }

    #[test]
    fn no_two_calls_share_a_key() {
        let id = |id: &str| Id::new(id).unwrap();
        let calls = [
            Call::Users,
            Call::User(id("1")),
            Call::User(id("11")),
            Call::Badges(id("1")),
            Call::RatingTop(id("1")),
            Call::ChallengeTop(id("1")),
            Call::Payment(id("1")),
            Call::Notifications,
            Call::UserNotifications(id("1")),
            Call::UnreadNotifications,
            Call::UserUnreadNotifications(id("1")),
            Call::Version,
        ];
        let keys: std::collections::BTreeSet<_> = calls.iter().map(|call| key(call, "")).collect();
        assert_eq!(keys.len(), calls.len());
        assert_ne!(key(&Call::User(id("a?b=1")), ""), key(&Call::User(id("a")), "b=1"));
    }

    proptest! {
        #[test]
        fn a_canonical_query_is_canonical_and_in_any_order(
            mut parameters in prop::collection::vec("[a-c]{1,2}=(%[0-9a-fA-F]{2}|[a-z+%]){0,4}", 0..6),
        ) {
            let once = canonical_query(Route::Ratings, Some(&parameters.join("&")));
            prop_assert_eq!(&canonical_query(Route::Ratings, Some(&once)), &once);
            parameters.sort_by(|a, b| name_of(b).cmp(name_of(a)));
            prop_assert_eq!(canonical_query(Route::Ratings, Some(&parameters.join("&"))), once);
        }
    }
}
