//! The table of GMFY's calls: for each its method, its path and its name in the metrics.

use std::borrow::Cow;
use std::fmt;

use http::Method;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// All but RFC 3986's unreserved characters: what is left can't end a segment, a path or a header.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Why a text can't be an id of GMFY's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    #[error("an id must not be empty")]
    Empty,
    /// A URL's path can't carry it: every reader of URLs takes it for a step up, or for none.
    #[error("an id must not be `.` or `..`")]
    DotSegment,
    #[error("an id must not contain a NUL")]
    Nul,
    #[error("an id must be UTF-8, percent-encoded")]
    NotUtf8,
}

/// The id of a user, rating, challenge or payment, decoded. It can be any text that can be one
/// segment of a path, `/` and `?` included, and stays one segment on the way to GMFY.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(String);

impl Id {
    /// Takes an id that isn't percent-encoded (or whose `%` are meant).
    ///
    /// # Errors
    /// When it can't be one segment of a path.
    pub fn new(id: impl Into<String>) -> Result<Self, IdError> {
        let id = id.into();
        match id.as_str() {
            "" => Err(IdError::Empty),
            "." | ".." => Err(IdError::DotSegment),
            text if text.contains('\0') => Err(IdError::Nul),
            _ => Ok(Self(id)),
        }
    }

    /// Takes a segment of a request's path as it was sent, and decodes it once.
    ///
    /// # Errors
    /// When it can't be one segment of a path, or isn't UTF-8 once decoded.
    pub fn from_encoded_segment(segment: &str) -> Result<Self, IdError> {
        let decoded = percent_decode_str(segment).decode_utf8().map_err(|_| IdError::NotUtf8)?;
        Self::new(decoded)
    }

    /// The id, decoded.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A call of GMFY's API that is passed through. Ids stay one path segment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    Users,
    User(Id),
    Badges(Id),
    RatingTop(Id),
    ChallengeTop(Id),
    Payment(Id),
    Notifications,
    UserNotifications(Id),
    UnreadNotifications,
    UserUnreadNotifications(Id),
    Version,
    CreatePayment,
    ResendCode(Id),
}

/// One row of the table.
#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    pub(super) method: Method,
    /// The value of the metrics' label `endpoint`.
    pub(super) name: &'static str,
    /// Relative to the base URL. None where the setting of unread notifications' path says it.
    path: Option<&'static str>,
    /// What stands between the id and the end.
    after_id: &'static str,
}

impl Endpoint {
    const fn new(method: Method, name: &'static str, path: &'static str) -> Self {
        Self { method, name, path: Some(path), after_id: "/" }
    }

    const fn unread() -> Self {
        Self { method: Method::GET, name: "get_unread_notifications", path: None, after_id: "/" }
    }

    fn then(self, after_id: &'static str) -> Self {
        Self { after_id, ..self }
    }

    /// The path relative to the base URL, ids encoded.
    pub(super) fn path<'a>(&self, id: Option<&Id>, unread_path: &'a str) -> Cow<'a, str> {
        let path = self.path.unwrap_or(unread_path);
        match id {
            None => Cow::Borrowed(path),
            Some(Id(id)) => {
                let id = utf8_percent_encode(id, SEGMENT);
                Cow::Owned(format!("{path}{id}{}", self.after_id))
            }
        }
    }
}

/// Where delivery's batches go.
pub(super) const BATCH: Endpoint =
    Endpoint::new(Method::POST, "create_batch_events", "v1/events/batch/");

impl Call {
    /// The table.
    pub(super) fn endpoint(&self) -> (Endpoint, Option<&Id>) {
        use Endpoint as E;
        const GET: Method = Method::GET;
        const POST: Method = Method::POST;
        match self {
            Self::Users => (E::new(GET, "get_users", "v1/users/"), None),
            Self::User(id) => (E::new(GET, "get_user", "v1/users/"), Some(id)),
            Self::Badges(id) => (E::new(GET, "get_user_badges", "v1/badges/"), Some(id)),
            Self::RatingTop(id) => {
                (E::new(GET, "get_rating_top_users", "v1/ratings/").then("/top/"), Some(id))
            }
            Self::ChallengeTop(id) => {
                (E::new(GET, "get_challenge_top_users", "v1/challenges/").then("/top/"), Some(id))
            }
            Self::Payment(id) => (E::new(GET, "get_payment", "v1/payments/"), Some(id)),
            Self::Notifications => (E::new(GET, "get_notifications", "v1/notifications/"), None),
            Self::UserNotifications(id) => {
                (E::new(GET, "get_notifications", "v1/notifications/"), Some(id))
            }
            Self::UnreadNotifications => (E::unread(), None),
            Self::UserUnreadNotifications(id) => (E::unread(), Some(id)),
            Self::Version => (E::new(GET, "get_api_version", "v1/version/"), None),
            Self::CreatePayment => (E::new(POST, "create_payment", "v1/payments/"), None),
            Self::ResendCode(id) => {
                (E::new(POST, "create_resend_code", "v1/payments/").then("/resend-code/"), Some(id))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::telemetry::metrics::ENDPOINTS;

    const UNREAD: &str = "v1/notifications/unread/";

    fn id(id: &str) -> Id {
        Id::new(id).unwrap()
    }

    fn path(call: &Call) -> String {
        let (endpoint, id) = call.endpoint();
        endpoint.path(id, UNREAD).into_owned()
    }

    #[test]
    fn every_call_has_its_method_path_and_name() {
        let table = [
            (Call::Users, "GET v1/users/ get_users"),
            (Call::User(id("1")), "GET v1/users/1/ get_user"),
            (Call::Badges(id("1")), "GET v1/badges/1/ get_user_badges"),
            (Call::RatingTop(id("1")), "GET v1/ratings/1/top/ get_rating_top_users"),
            (Call::ChallengeTop(id("1")), "GET v1/challenges/1/top/ get_challenge_top_users"),
            (Call::Payment(id("1")), "GET v1/payments/1/ get_payment"),
            (Call::Notifications, "GET v1/notifications/ get_notifications"),
            (Call::UserNotifications(id("1")), "GET v1/notifications/1/ get_notifications"),
            (Call::UnreadNotifications, "GET v1/notifications/unread/ get_unread_notifications"),
            (
                Call::UserUnreadNotifications(id("1")),
                "GET v1/notifications/unread/1/ get_unread_notifications",
            ),
            (Call::Version, "GET v1/version/ get_api_version"),
            (Call::CreatePayment, "POST v1/payments/ create_payment"),
            (Call::ResendCode(id("1")), "POST v1/payments/1/resend-code/ create_resend_code"),
        ];
        for (call, expected) in table {
            let (endpoint, _) = call.endpoint();
            assert_eq!(format!("{} {} {}", endpoint.method, path(&call), endpoint.name), expected);
            assert!(ENDPOINTS.contains(&endpoint.name), "{} has no series", endpoint.name);
        }
        assert!(ENDPOINTS.contains(&BATCH.name));
    }

    #[test]
    fn a_segment_is_decoded_once_and_encoded_once() {
        let table = [
            ("a", "a"),
            ("a%2Fb", "a%2Fb"),
            ("a/b", "a%2Fb"),
            ("..%2f", "..%2F"),
            ("%2e%2e%2Fv1", "..%2Fv1"),
            ("%252e%252e", "%252e%252e"),
            ("%252F", "%252F"),
            ("...", "..."),
            ("a?b#c", "a%3Fb%23c"),
            ("%0d%0aHost: x", "%0D%0AHost%3A%20x"),
            ("%C3%A9", "%C3%A9"),
            ("\u{e9}", "%C3%A9"),
            ("100%", "100%25"),
            ("a;b=c", "a%3Bb%3Dc"),
            ("a\\b", "a%5Cb"),
        ];
        for (sent, up) in table {
            let id = Id::from_encoded_segment(sent).unwrap();
            assert_eq!(path(&Call::User(id)), format!("v1/users/{up}/"), "for {sent}");
        }
    }

    #[test]
    fn what_cannot_be_one_segment_is_no_id() {
        let table = [
            ("", IdError::Empty),
            (".", IdError::DotSegment),
            ("..", IdError::DotSegment),
            ("%2e", IdError::DotSegment),
            (".%2E", IdError::DotSegment),
            ("%2e%2e", IdError::DotSegment),
            ("%00", IdError::Nul),
            ("a%00b", IdError::Nul),
            ("%ff", IdError::NotUtf8),
            ("%c3", IdError::NotUtf8),
            ("%ed%a0%80", IdError::NotUtf8),
        ];
        for (sent, error) in table {
            assert_eq!(Id::from_encoded_segment(sent), Err(error), "for {sent}");
        }
    }

    proptest! {
        #[test]
        fn an_id_never_leaves_its_segment(text in "\\PC{0,12}|[./%2eEfF\\\\?#]{1,8}") {
            let Ok(id) = Id::new(text.clone()) else { return Ok(()) };
            let path = path(&Call::RatingTop(id));
            let url = reqwest::Url::parse(&format!("https://gmfy.example/base/{path}")).unwrap();
            let segments: Vec<_> = url.path_segments().unwrap().collect();
            prop_assert_eq!(&segments[..3], &["base", "v1", "ratings"]);
            prop_assert_eq!(&segments[4..], &["top", ""]);
            prop_assert_eq!(Id::from_encoded_segment(segments[3]), Id::new(text));
            prop_assert_eq!((url.query(), url.fragment()), (None, None));
        }
    }
}
