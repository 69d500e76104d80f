//! Settings from environment variables.

use std::ffi::OsString;

use super::nearest::nearest;
use super::schema::{SCHEMA, Setting, variable};

/// What a variable is to the settings.
pub(crate) enum Variable {
    /// It sets this one.
    Sets(&'static Setting),
    /// It looks like a setting's, and is none; the nearest variable.
    Unknown(Option<String>),
    /// It is the catalogue's, which is set in the file only.
    EventTypes,
    /// It is someone else's, as `GMFY_SIDECAR_SERVICE_HOST` is Kubernetes'.
    Ignored,
}

/// Reads the name of a variable.
pub(crate) fn variable_named(name: &str) -> Variable {
    let alias = match name {
        "GMFY_URL" => Some("upstream.url"),
        "GMFY_API_KEY" => Some("upstream.api_key"),
        _ => None,
    };
    let by_name = |setting: &&Setting| setting.variable() == name;
    if let Some(setting) = alias.and_then(Setting::named).or_else(|| SCHEMA.iter().find(by_name)) {
        return Variable::Sets(setting);
    }
    let Some(rest) = name.strip_prefix("GMFY_").filter(|rest| rest.contains("__")) else {
        return Variable::Ignored;
    };
    let types = variable("events.types");
    if name == types || name.starts_with(&format!("{types}__")) {
        return Variable::EventTypes;
    }
    // Compared as dotted names, so that the nearest is the same as in the file.
    let dotted = rest.trim_matches('_').to_ascii_lowercase().replace("__", ".");
    let nearest = nearest(&dotted, SCHEMA.iter().map(|setting| setting.name)).map(variable);
    Variable::Unknown(nearest)
}

/// The variables that concern the settings, out of a process's environment. Bytes that aren't
/// UTF-8 become U+FFFD, which is then refused where it matters.
#[must_use]
pub fn environment_of(
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Vec<(String, String)> {
    let lossy = |text: OsString| text.to_string_lossy().into_owned();
    let variables = variables.into_iter().map(|(name, value)| (lossy(name), lossy(value)));
    variables.filter(|(name, _)| name.starts_with("GMFY_")).collect()
}
