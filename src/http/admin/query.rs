//! The query of a request: each parameter at most once, and none that isn't known.

use std::borrow::Cow;
use std::time::Duration;

use super::super::problem::Problem;
use crate::config::parse_duration;

/// See the module. Parameters are taken out one by one; what is left at the end is a mistake.
#[derive(Debug)]
pub(super) struct Query<'a> {
    parameters: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    known: Vec<&'static str>,
}

impl<'a> Query<'a> {
    /// Of the text behind `?`.
    pub(super) fn parse(text: Option<&'a str>) -> Self {
        let parsed = url::form_urlencoded::parse(text.unwrap_or_default().as_bytes());
        Self { parameters: parsed.collect(), known: Vec::new() }
    }

    /// The value of a parameter.
    pub(super) fn text(&mut self, name: &'static str) -> Option<Cow<'a, str>> {
        self.known.push(name);
        let at = self.parameters.iter().position(|(given, _)| given == name)?;
        Some(self.parameters.remove(at).1)
    }

    /// A whole number from `least` to `most`.
    pub(super) fn number(
        &mut self,
        name: &'static str,
        least: u64,
        most: u64,
    ) -> Result<Option<u64>, Problem> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let number = text.parse().ok().filter(|number| (least..=most).contains(number));
        let expected = || match most {
            u64::MAX => format!("{name}: expected a whole number"),
            _ => format!("{name}: expected a whole number from {least} to {most}"),
        };
        number.map(Some).ok_or_else(|| Problem::bad_query(expected()))
    }

    /// A duration as in the settings, such as `5s`.
    pub(super) fn duration(
        &mut self,
        name: &'static str,
        most: Duration,
    ) -> Result<Option<Duration>, Problem> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let duration = parse_duration(&text).filter(|duration| *duration <= most);
        duration.map(Some).ok_or_else(|| {
            let most = most.as_secs();
            let expected = "expected a duration such as `500ms` or `5s`";
            Problem::bad_query(format!("{name}: {expected}, at most {most}s"))
        })
    }

    /// Refuses what was not taken out.
    pub(super) fn end(self) -> Result<(), Problem> {
        let Some((name, _)) = self.parameters.into_iter().next() else { return Ok(()) };
        Err(Problem::bad_query(match self.known.as_slice() {
            [] => "This path takes no query.".to_owned(),
            known if known.contains(&&*name) => format!("{name} stands twice."),
            known => format!("The query takes: {}.", known.join(", ")),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_taken_once_and_checked() {
        let mut query = Query::parse(Some("limit=7&user=a%20b%2B+c&wait=250ms"));
        assert_eq!(query.number("limit", 1, 10).unwrap(), Some(7));
        assert_eq!(query.number("after", 0, u64::MAX).unwrap(), None);
        assert_eq!(query.text("user").unwrap(), "a b+ c");
        let wait = query.duration("wait", Duration::from_secs(1)).unwrap();
        assert_eq!(wait, Some(Duration::from_millis(250)));
        query.end().unwrap();
    }

    #[test]
    fn what_is_wrong_is_named() {
        let detail = |problem: Problem| problem.detail().to_owned();
        for text in ["limit=0", "limit=11", "limit=x", "limit=", "limit=-1"] {
            let refused = Query::parse(Some(text)).number("limit", 1, 10).unwrap_err();
            assert_eq!(detail(refused), "limit: expected a whole number from 1 to 10", "{text}");
        }
        let mut query = Query::parse(Some("limit=2&limit=3"));
        query.number("limit", 1, 10).unwrap();
        assert_eq!(detail(query.end().unwrap_err()), "limit stands twice.");
        let mut query = Query::parse(Some("limits=2"));
        query.number("limit", 1, 10).unwrap();
        assert_eq!(detail(query.end().unwrap_err()), "The query takes: limit.");
        let query = Query::parse(Some("a"));
        assert_eq!(detail(query.end().unwrap_err()), "This path takes no query.");
        let minute = Duration::from_secs(60);
        for text in ["wait=5", "wait=61s", "wait=-1s"] {
            Query::parse(Some(text)).duration("wait", minute).unwrap_err();
        }
    }
}
