//! Sizes: `512KiB`, `8MiB`, `64KB`, plain bytes.

use super::{Expected, Invalid, Raw, Syntax};

pub(crate) const KIB: u64 = 1 << 10;
pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const GIB: u64 = 1 << 30;
pub(crate) const TIB: u64 = 1 << 40;

const BINARY: [(&str, u64); 4] = [("TiB", TIB), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB)];
const OTHERS: [(&str, u64); 5] =
    [("TB", 1_000_000_000_000), ("GB", 1_000_000_000), ("MB", 1_000_000), ("KB", 1_000), ("B", 1)];

/// A number of bytes within these bounds, both allowed.
pub(crate) struct Size {
    pub(crate) min: u64,
    pub(crate) max: u64,
}

impl Expected for Size {
    fn expected(&self) -> String {
        let (min, max) = (show(self.min), show(self.max));
        format!("a size such as `64KiB`, `8MiB` or `1GiB`, from {min} to {max}")
    }
}

impl Syntax<u64> for Size {
    fn parse(&self, raw: &Raw) -> Result<u64, Invalid> {
        let bytes = parse_bytes(raw.text()?)?;
        if (self.min..=self.max).contains(&bytes) { Ok(bytes) } else { Err(Invalid::default()) }
    }

    fn show(&self, value: &u64) -> String {
        show(*value)
    }
}

impl Syntax<usize> for Size {
    fn parse(&self, raw: &Raw) -> Result<usize, Invalid> {
        let bytes: u64 = self.parse(raw)?;
        usize::try_from(bytes).map_err(|_| Invalid::because("too large for this machine"))
    }

    fn show(&self, value: &usize) -> String {
        show(u64::try_from(*value).unwrap_or(u64::MAX))
    }
}

fn parse_bytes(text: &str) -> Result<u64, Invalid> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(Invalid::default());
    }
    let unit = unit.trim_start();
    let length = if unit.is_empty() {
        1
    } else {
        let mut units = BINARY.iter().chain(&OTHERS);
        let known = units.find(|(name, _)| name.eq_ignore_ascii_case(unit));
        let Some((_, length)) = known else {
            return Err(Invalid::because(
                "the units are `KiB`, `MiB`, `GiB`, `TiB`, and `KB`, `MB`, `GB`, `TB` of 1000",
            ));
        };
        *length
    };
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(length));
    bytes.ok_or_else(Invalid::default)
}

/// In the largest binary unit that leaves a whole number.
fn show(bytes: u64) -> String {
    let unit = BINARY.iter().find(|(_, length)| bytes >= *length && bytes.is_multiple_of(*length));
    unit.map_or_else(|| bytes.to_string(), |(name, length)| format!("{}{name}", bytes / length))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANY: Size = Size { min: 0, max: u64::MAX };

    fn parse(text: &str) -> Result<u64, Invalid> {
        ANY.parse(&Raw::Text(text.to_owned()))
    }

    #[test]
    fn a_size_is_a_whole_number_with_or_without_a_unit() {
        for (text, bytes) in [
            ("0", 0),
            ("1", 1),
            ("1000", 1000),
            ("7B", 7),
            ("64KB", 64_000),
            ("512KiB", 524_288),
            ("512kib", 524_288),
            ("8 MiB", 8_388_608),
            ("1GiB", 1_073_741_824),
            ("2TB", 2_000_000_000_000),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for text in ["", "KiB", "-1", "1.5MiB", "64K", "1 Mi", "8MiB8", "99999999999TiB", "1e6"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_size_out_of_bounds_is_refused() {
        let bounds = Size { min: KIB, max: MIB };
        for (text, fine) in [("1023", false), ("1KiB", true), ("1MiB", true), ("1048577", false)] {
            let parsed: Result<u64, _> = bounds.parse(&Raw::Text(text.to_owned()));
            assert_eq!(parsed.is_ok(), fine, "{text}");
        }
    }

    #[test]
    fn what_is_shown_reads_well_and_parses_back() {
        for text in ["0", "1", "1000", "1KiB", "1536", "64KiB", "8MiB", "1GiB", "3TiB"] {
            assert_eq!(parse(text).map(show), Ok(text.to_owned()));
        }
    }
}
