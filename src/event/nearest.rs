//! What a misspelled name was probably meant to be.

/// Names longer than this are never compared: the cost grows with the square of the length, and
/// nobody misspells so long a name.
const LONGEST: usize = 64;

/// The candidate nearest to `wanted`, if one is near: at most a third of its letters differ, or
/// one of a short name. Case counts between equals only.
pub(super) fn nearest<C: AsRef<str>>(
    wanted: &str,
    candidates: impl IntoIterator<Item = C>,
) -> Option<C> {
    if wanted.is_empty() || wanted.len() > LONGEST {
        return None;
    }
    let folded = wanted.to_lowercase();
    candidates
        .into_iter()
        .filter_map(|candidate| {
            let name = candidate.as_ref();
            let allowed = (wanted.len().max(name.len()) / 3).max(1);
            if name.len() > LONGEST || wanted.len().abs_diff(name.len()) > allowed {
                return None;
            }
            let distance = strsim::osa_distance(&folded, &name.to_lowercase());
            let exact = strsim::osa_distance(wanted, name);
            (distance <= allowed).then_some(((distance, exact), candidate))
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn a_near_name_is_found_and_a_far_one_is_not() {
        let fields = ["userId", "user_id", "type", "eventType", "event_type"];
        for (wanted, expected) in [
            ("userID", Some("userId")),
            ("USERID", Some("userId")),
            ("user-id", Some("user_id")),
            ("user", Some("userId")),
            ("event_typ", Some("event_type")),
            ("tpye", Some("type")),
            ("time", None),
            ("id", None),
            ("", None),
        ] {
            assert_eq!(nearest(wanted, fields), expected, "{wanted}");
        }
        assert_eq!(nearest(&"t".repeat(1 << 20), fields), None);
    }
}
