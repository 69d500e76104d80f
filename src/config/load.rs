//! The layers put on top of each other: defaults, file, environment, flags.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

use super::environment::{Variable, variable_named};
use super::error::{ConfigError, ConfigErrors, Origin};
use super::nearest::nearest;
use super::schema::{SCHEMA, Setting, Takes, defaults};
use super::settings::Settings;
use super::syntax::{BaseUrl, Invalid, Raw, Syntax as _};
use super::{Secret, catalogue, checks, file};

/// What the settings are made from.
#[derive(Clone, Default)]
pub struct Sources {
    /// Values instead of the compiled-in defaults, for commands that bring their own: the lowest
    /// layer, shown as `default`.
    pub defaults: Vec<(&'static str, String)>,
    /// The settings file; none: no file.
    pub file: Option<PathBuf>,
    /// The environment's variables, or those that [`super::environment_of`] found to concern us.
    pub environment: Vec<(String, String)>,
    /// The arguments of `--set`, each `KEY=VALUE`; the last of a key wins.
    pub sets: Vec<String>,
}

/// Names only: any of the values may be a secret.
impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.environment.iter().map(|(name, _)| name).collect();
        f.debug_struct("Sources")
            .field("file", &self.file)
            .field("environment", &names)
            .field("sets", &self.sets.len())
            .finish_non_exhaustive()
    }
}

/// Valid settings, and where they come from.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    pub settings: Settings,
    /// Every setting, in the order of the documented file.
    pub effective: Vec<Effective>,
}

/// One setting as it applies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    pub key: String,
    /// As it is written; `none` when it is not set, `***` for a secret.
    pub value_text: String,
    pub origin: Origin,
}

impl Settings {
    /// Reads and checks the settings. Reads files, so not for a runtime's threads.
    ///
    /// # Errors
    /// With everything that is wrong.
    pub fn load(sources: &Sources) -> Result<Loaded, ConfigErrors> {
        let mut draft = Draft::new();
        for (name, value) in &sources.defaults {
            draft.set_named(name, value, &Origin::Default);
        }
        if let Some(path) = &sources.file {
            draft.file(file::read(path));
        }
        draft.environment(&sources.environment);
        for (index, argument) in sources.sets.iter().enumerate() {
            draft.flag(index, argument);
        }
        checks::check(&mut draft);
        draft.finish()
    }

    /// These, but with the values of `running` for what only counts at start.
    #[must_use]
    pub fn with_fixed_of(mut self, running: &Self) -> Self {
        for setting in SCHEMA.iter().filter(|setting| setting.takes == Takes::Restart) {
            (setting.copy)(&mut self, running);
        }
        self
    }

    /// The defaults with this upstream, without any check; for tests and embedders.
    #[must_use]
    pub fn with_upstream(url: &str, api_key: &str) -> Self {
        let mut settings = defaults();
        settings.upstream.url =
            BaseUrl.parse(&Raw::Text(url.to_owned())).unwrap_or_else(|_| url.to_owned());
        settings.upstream.api_key = Some(Secret::new(api_key.trim()));
        settings
    }
}

/// The names of the settings that differ and take effect only when the process starts.
#[must_use]
pub fn reload_differences(old: &Settings, new: &Settings) -> Vec<&'static str> {
    let fixed = SCHEMA.iter().filter(|setting| setting.takes == Takes::Restart);
    fixed.filter(|setting| (setting.differs)(old, new)).map(|setting| setting.name).collect()
}

/// The names of the settings that differ and take effect at once when they are read again.
#[must_use]
pub fn reloadable_differences(old: &Settings, new: &Settings) -> Vec<&'static str> {
    let changeable = SCHEMA.iter().filter(|setting| setting.takes == Takes::Reload);
    let changed = changeable.filter(|setting| (setting.differs)(old, new)).map(|s| s.name);
    let types = (old.events.types != new.events.types).then_some(file::TYPES);
    changed.chain(types).collect()
}

/// Settings in the making.
pub(crate) struct Draft {
    pub(crate) settings: Settings,
    origins: BTreeMap<&'static str, Origin>,
    type_origins: BTreeMap<String, Origin>,
    /// Settings whose value was refused: what the draft holds for them means nothing.
    refused: BTreeSet<&'static str>,
    errors: Vec<ConfigError>,
}

impl Draft {
    fn new() -> Self {
        Self {
            settings: defaults(),
            origins: BTreeMap::new(),
            type_origins: BTreeMap::new(),
            refused: BTreeSet::new(),
            errors: Vec::new(),
        }
    }

    /// Whether none of these settings was refused, so that they can be compared.
    pub(crate) fn sound(&self, names: &[&str]) -> bool {
        names.iter().all(|name| !self.refused.contains(name))
    }

    pub(crate) fn origin(&self, name: &str) -> Origin {
        self.origins.get(name).cloned().unwrap_or(Origin::Default)
    }

    /// Notes that a setting can't be used.
    pub(crate) fn refuse(&mut self, name: &'static str, problem: String) {
        let shown = Setting::named(name)
            .filter(|setting| !setting.secret)
            .map(|setting| (setting.show)(&self.settings))
            .filter(|shown| shown != "none");
        self.errors.push(ConfigError {
            key: name.to_owned(),
            value: shown,
            origin: self.origin(name),
            problem,
            nearest: None,
        });
    }

    fn set(&mut self, setting: &'static Setting, raw: &Raw, origin: Origin) {
        match (setting.apply)(&mut self.settings, raw) {
            Ok(()) => {
                self.origins.insert(setting.name, origin);
            }
            Err(invalid) => {
                self.refused.insert(setting.name);
                self.errors.push(mistake(setting, raw, origin, invalid));
            }
        }
    }

    fn set_named(&mut self, name: &str, value: &str, origin: &Origin) {
        if let Some(setting) = Setting::named(name) {
            self.set(setting, &Raw::Text(value.to_owned()), origin.clone());
        } else if name == file::TYPES || name.starts_with("events.types.") {
            self.unsettable(name, origin.clone());
        } else {
            let names = SCHEMA.iter().map(|setting| setting.name);
            let nearest = nearest(name, names).map(str::to_owned);
            self.unknown(name, origin.clone(), nearest);
        }
    }

    fn file(&mut self, contents: file::Contents) {
        self.errors.extend(contents.errors);
        for (setting, raw, origin) in contents.values {
            self.set(setting, &raw, origin);
        }
        for (name, entry, origin) in contents.types {
            let parsed = entry
                .ok_or_else(|| (catalogue::EXPECTED.to_owned(), None))
                .and_then(|fields| catalogue::event_type(&name, &fields));
            match parsed {
                Ok(event_type) => {
                    self.settings.events.types.insert(name.clone(), event_type);
                    self.type_origins.insert(name, origin);
                }
                Err((problem, nearest)) => self.errors.push(ConfigError {
                    key: format!("{}.{name}", file::TYPES),
                    value: None,
                    origin,
                    problem,
                    nearest,
                }),
            }
        }
    }

    fn environment(&mut self, variables: &[(String, String)]) {
        // GMFY_URL and GMFY_API_KEY first: a setting's own variable wins over its short name.
        let (own, short): (Vec<_>, Vec<_>) =
            variables.iter().partition(|(name, _)| name.contains("__"));
        for (name, value) in short.into_iter().chain(own) {
            let origin = Origin::Environment(name.clone());
            match variable_named(name) {
                Variable::Sets(setting) => self.set(setting, &Raw::Text(value.clone()), origin),
                Variable::Unknown(nearest) => self.unknown(name, origin, nearest),
                Variable::EventTypes => self.unsettable(file::TYPES, origin),
                Variable::Ignored => {}
            }
        }
    }

    fn flag(&mut self, index: usize, argument: &str) {
        if let Some((name, value)) = argument.split_once('=') {
            self.set_named(name.trim(), value, &Origin::Flag);
            return;
        }
        // Not shown: it may be a key that missed its name.
        self.errors.push(ConfigError {
            key: String::new(),
            value: None,
            origin: Origin::Flag,
            problem: format!(
                "--set number {} has no `=`: expected KEY=VALUE",
                index.saturating_add(1)
            ),
            nearest: None,
        });
    }

    fn unknown(&mut self, name: &str, origin: Origin, nearest: Option<String>) {
        let problem = "unknown setting".to_owned();
        self.errors.push(ConfigError {
            key: name.to_owned(),
            value: None,
            origin,
            problem,
            nearest,
        });
    }

    fn unsettable(&mut self, name: &str, origin: Origin) {
        let problem = "event types are set in the settings file only".to_owned();
        let key = name.to_owned();
        self.errors.push(ConfigError { key, value: None, origin, problem, nearest: None });
    }

    fn finish(self) -> Result<Loaded, ConfigErrors> {
        if !self.errors.is_empty() {
            return Err(ConfigErrors(self.errors));
        }
        let effective = self.effective();
        Ok(Loaded { settings: self.settings, effective })
    }

    fn effective(&self) -> Vec<Effective> {
        let mut effective = Vec::with_capacity(SCHEMA.len());
        for setting in SCHEMA {
            // The catalogue has its place where its table is documented.
            if setting.name == "queue.dir" {
                effective.extend(self.effective_types());
            }
            effective.push(Effective {
                key: setting.name.to_owned(),
                value_text: (setting.show)(&self.settings),
                origin: self.origin(setting.name),
            });
        }
        effective
    }

    fn effective_types(&self) -> Vec<Effective> {
        let types = &self.settings.events.types;
        if types.is_empty() {
            let value_text = "none".to_owned();
            return vec![Effective {
                key: file::TYPES.to_owned(),
                value_text,
                origin: Origin::Default,
            }];
        }
        let entries = types.iter().map(|(name, event_type)| Effective {
            key: format!("{}.{name}", file::TYPES),
            value_text: catalogue::show(event_type),
            origin: self.type_origins.get(name).cloned().unwrap_or(Origin::Default),
        });
        entries.collect()
    }
}

fn mistake(setting: &Setting, raw: &Raw, origin: Origin, invalid: Invalid) -> ConfigError {
    let value = match raw {
        _ if setting.secret || invalid.hide_value => None,
        Raw::Text(text) => Some(text.clone()),
        Raw::List(values) => Some(values.join(", ")),
        Raw::Other(_) => None,
    };
    let mut problem = format!("expected {}", (setting.expected)());
    if let Some(because) = invalid.because {
        problem = format!("{problem}; {because}");
    }
    ConfigError { key: setting.name.to_owned(), value, origin, problem, nearest: None }
}

#[cfg(test)]
mod tests;
