//! Durations: `200ms`, `5s`, `10m`, `1h`, `7d`, and `0`.

use std::time::Duration;

use super::{Expected, Invalid, Raw, Syntax};

/// Each unit's name and length in milliseconds, and from how many milliseconds on it is the
/// natural one to show: a minute reads better as `60s`.
const UNITS: [(&str, u64, u64); 5] = [
    ("d", 86_400_000, 172_800_000),
    ("h", 3_600_000, 3_600_000),
    ("m", 60_000, 120_000),
    ("s", 1_000, 1_000),
    ("ms", 1, 1),
];

/// Keeps every deadline that is computed from a setting within what clocks can represent.
const LONGEST_MILLIS: u64 = 365 * 86_400_000;

/// A length of time, of at least `min`.
pub(crate) struct Period {
    min: Duration,
}

impl Period {
    pub(crate) const OR_ZERO: Self = Self { min: Duration::ZERO };
    pub(crate) const POSITIVE: Self = Self { min: Duration::from_millis(1) };
    pub(crate) const SECONDS: Self = Self { min: Duration::from_secs(1) };
}

impl Expected for Period {
    fn expected(&self) -> String {
        let zero = if self.min.is_zero() { ", or `0`" } else { "" };
        format!("a duration such as `200ms`, `5s`, `10m` or `1h`{zero}")
    }
}

impl Syntax<Duration> for Period {
    fn parse(&self, raw: &Raw) -> Result<Duration, Invalid> {
        let millis = parse_millis(raw.text()?)?;
        if millis > LONGEST_MILLIS {
            return Err(Invalid::because("the longest is `365d`"));
        }
        let duration = Duration::from_millis(millis);
        if duration < self.min {
            return Err(Invalid::because(format!("the shortest is `{}`", self.show(&self.min))));
        }
        Ok(duration)
    }

    fn show(&self, value: &Duration) -> String {
        let millis = u64::try_from(value.as_millis()).unwrap_or(u64::MAX);
        let unit = UNITS
            .iter()
            .find(|(_, length, from)| millis >= *from && millis.is_multiple_of(*length));
        unit.map_or_else(
            || "0".to_owned(),
            |(name, length, _)| format!("{}{name}", millis / length),
        )
    }
}

/// A duration as it is written in the settings; none where it isn't one.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    let millis = parse_millis(text).ok().filter(|millis| *millis <= LONGEST_MILLIS)?;
    Some(Duration::from_millis(millis))
}

fn parse_millis(text: &str) -> Result<u64, Invalid> {
    if text == "0" {
        return Ok(0);
    }
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(Invalid::default());
    }
    let unit = unit.trim_start();
    if unit.is_empty() {
        return Err(Invalid::because(format!("a number needs its unit, as in `{number}s`")));
    }
    let Some((_, length, _)) = UNITS.iter().find(|(name, ..)| *name == unit) else {
        return Err(Invalid::because("the units are `ms`, `s`, `m`, `h` and `d`"));
    };
    let millis = number.parse::<u64>().ok().and_then(|number| number.checked_mul(*length));
    millis.ok_or_else(|| Invalid::because("the longest is `365d`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Duration, Invalid> {
        Period::OR_ZERO.parse(&Raw::Text(text.to_owned()))
    }

    #[test]
    fn a_duration_is_a_whole_number_and_its_unit() {
        for (text, millis) in [
            ("0", 0),
            ("0s", 0),
            ("1ms", 1),
            ("200ms", 200),
            ("5s", 5_000),
            (" 5 s ", 5_000),
            ("10m", 600_000),
            ("1h", 3_600_000),
            ("7d", 604_800_000),
            ("365d", LONGEST_MILLIS),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in
            ["", "s", "5", "1.5s", "-1s", "5S", "5sec", "5 s s", "366d", "99999999999999999999s"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(parse("5").is_err_and(|e| e.because.is_some_and(|why| why.contains("`5s`"))));
    }

    #[test]
    fn zero_is_refused_where_it_makes_no_sense() {
        let zero = Raw::Text("0".to_owned());
        assert!(Period::POSITIVE.parse(&zero).is_err());
        assert!(Period::OR_ZERO.parse(&zero).is_ok());
    }

    #[test]
    fn what_is_shown_reads_well_and_parses_back() {
        for text in ["0", "1ms", "1500ms", "1s", "60s", "90s", "2m", "10m", "1h", "24h", "2d"] {
            assert_eq!(parse(text).map(|d| Period::OR_ZERO.show(&d)), Ok(text.to_owned()));
        }
    }
}
