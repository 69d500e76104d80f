//! The texts in which faults are written: `20ms`, `100/s`, `0.1`.

use std::time::Duration;

/// The longest time that a fault may take.
const LONGEST: Duration = Duration::from_secs(3600);

/// Parses `20ms`, `1.5s`, `2m` or `0`; at most an hour.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let expected =
        || format!("{text:?} is not a time: write it like 20ms, 1.5s or 2m (at most 1h)");
    let text = text.trim();
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let unit_at = text.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(expected)?;
    let (number, unit) = text.split_at_checked(unit_at).ok_or_else(expected)?;
    let second_parts = match unit {
        "us" => 1e6,
        "ms" => 1e3,
        "s" => 1.0,
        "m" => 1.0 / 60.0,
        "h" => 1.0 / 3600.0,
        _ => return Err(expected()),
    };
    let number: f64 = plain_number(number.trim()).ok_or_else(expected)?;
    Duration::try_from_secs_f64(number / second_parts)
        .ok()
        .filter(|duration| *duration <= LONGEST)
        .ok_or_else(expected)
}

/// The opposite of [`parse_duration`], in the largest unit that needs no fraction.
pub(super) fn format_duration(duration: Duration) -> String {
    let micros = duration.as_micros();
    if micros == 0 {
        "0ms".to_owned()
    } else if micros.is_multiple_of(1_000_000) {
        format!("{}s", micros / 1_000_000)
    } else if micros.is_multiple_of(1000) {
        format!("{}ms", micros / 1000)
    } else {
        format!("{micros}us")
    }
}

/// Parses requests a second: `100/s`, `600/m`, or `100` alone; more than 0.
pub(super) fn parse_rate(text: &str) -> Result<f64, String> {
    let expected = || format!("{text:?} is not a rate: write it like 100/s or 30/m");
    let (number, per) = match text.trim().split_once('/') {
        None => (text.trim(), 1.0),
        Some((number, "s")) => (number, 1.0),
        Some((number, "m")) => (number, 60.0),
        Some(_) => return Err(expected()),
    };
    let rate = plain_number(number.trim()).ok_or_else(expected)? / per;
    if rate > 0.0 { Ok(rate) } else { Err(expected()) }
}

/// Parses a share of requests, from 0 to 1.
pub(super) fn parse_share(text: &str) -> Result<f64, String> {
    let expected = || format!("{text:?} is not a share of requests: write a number from 0 to 1");
    share(plain_number(text.trim()).ok_or_else(expected)?).ok_or_else(expected)
}

/// The number, if it is a share.
pub(super) fn share(number: f64) -> Option<f64> {
    (0.0..=1.0).contains(&number).then_some(number)
}

/// A finite number without sign or exponent.
fn plain_number(text: &str) -> Option<f64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if plain { text.parse().ok().filter(|number: &f64| number.is_finite()) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_every_unit() {
        for (text, micros) in [
            ("0", 0),
            ("20ms", 20_000),
            ("1.5s", 1_500_000),
            ("250us", 250),
            ("2m", 120_000_000),
            ("1h", 3_600_000_000),
            (" 5 ms ", 5000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_micros(micros)), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_time_is_refused_with_an_example() {
        for text in ["", "20", "ms", "-5ms", "1e3s", "5 weeks", "2h", "1.2.3s", "NaNs", "µs"] {
            let message = parse_duration(text).unwrap_err();
            assert!(message.contains("20ms"), "{message}");
        }
    }

    #[test]
    fn a_time_reads_back_as_it_was_written() {
        for text in ["0ms", "20ms", "250us", "3s", "1500ms"] {
            assert_eq!(format_duration(parse_duration(text).unwrap()), text);
        }
    }

    #[test]
    fn rates_and_shares_have_their_bounds() {
        assert_eq!(parse_rate("100/s"), Ok(100.0));
        assert_eq!(parse_rate("30/m"), Ok(0.5));
        assert_eq!(parse_rate("7"), Ok(7.0));
        assert_eq!(parse_share("0.1"), Ok(0.1));
        assert_eq!(parse_share("1"), Ok(1.0));
        for text in ["", "0/s", "100/h", "x/s", "-1/s", "inf"] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
        for text in ["", "1.1", "-0.1", "10%", "NaN"] {
            assert!(parse_share(text).is_err(), "{text}");
        }
    }
}
