//! The name that someone most likely meant.

/// The candidate nearest to `name` by edit distance, a swap of neighbours counting as one edit;
/// the first of equals.
pub(crate) fn nearest<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    // The work grows with the length; no name of ours is that long.
    let name: String = name.chars().take(64).flat_map(char::to_lowercase).collect();
    candidates.into_iter().min_by_key(|candidate| {
        let whole = strsim::damerau_levenshtein(&name, candidate);
        // A key without its section.
        let last = candidate.rsplit('.').next().unwrap_or(candidate);
        let alone = strsim::damerau_levenshtein(&name, last).saturating_add(1);
        if name.contains('.') { whole } else { whole.min(alone) }
    })
}
