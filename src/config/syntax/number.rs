//! Counts, ratios and file modes.

use super::{Expected, Invalid, Raw, Syntax};

/// A whole number within these bounds, both allowed.
pub(crate) struct Count {
    pub(crate) min: usize,
    pub(crate) max: usize,
}

impl Expected for Count {
    fn expected(&self) -> String {
        format!("a whole number from {} to {}", self.min, self.max)
    }
}

impl Syntax<usize> for Count {
    fn parse(&self, raw: &Raw) -> Result<usize, Invalid> {
        let count = raw.text()?.parse().map_err(|_| Invalid::default())?;
        if (self.min..=self.max).contains(&count) { Ok(count) } else { Err(Invalid::default()) }
    }

    fn show(&self, value: &usize) -> String {
        value.to_string()
    }

    fn toml(&self, value: &usize) -> String {
        value.to_string()
    }
}

/// A share, from 0 to 1.
pub(crate) struct Ratio;

impl Expected for Ratio {
    fn expected(&self) -> String {
        "a number from 0 to 1, such as `0.01`".to_owned()
    }
}

impl Syntax<f64> for Ratio {
    fn parse(&self, raw: &Raw) -> Result<f64, Invalid> {
        let ratio = raw.text()?.parse().map_err(|_| Invalid::default())?;
        if (0.0..=1.0).contains(&ratio) { Ok(ratio) } else { Err(Invalid::default()) }
    }

    fn show(&self, value: &f64) -> String {
        value.to_string()
    }

    fn toml(&self, value: &f64) -> String {
        value.to_string()
    }
}

/// The permissions of a file, in octal.
pub(crate) struct FileMode;

impl Expected for FileMode {
    fn expected(&self) -> String {
        "octal permissions, such as `0660`".to_owned()
    }
}

impl Syntax<u32> for FileMode {
    fn parse(&self, raw: &Raw) -> Result<u32, Invalid> {
        let text = raw.text()?;
        let digits = text.strip_prefix("0o").unwrap_or(text);
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(Invalid::default());
        }
        let mode = u32::from_str_radix(digits, 8).map_err(|_| Invalid::default())?;
        if mode <= 0o777 { Ok(mode) } else { Err(Invalid::because("the largest is `0777`")) }
    }

    fn show(&self, value: &u32) -> String {
        format!("{value:04o}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Raw {
        Raw::Text(text.to_owned())
    }

    #[test]
    fn a_count_stays_within_its_bounds() {
        let lanes = Count { min: 1, max: 64 };
        for (written, count) in [
            ("1", Some(1)),
            ("64", Some(64)),
            ("0", None),
            ("65", None),
            ("-1", None),
            ("4.0", None),
        ] {
            assert_eq!(lanes.parse(&text(written)).ok(), count, "{written}");
        }
    }

    #[test]
    fn a_ratio_is_between_nothing_and_all() {
        for (written, ratio) in [("0", Some(0.0)), ("0.01", Some(0.01)), ("1", Some(1.0))] {
            assert_eq!(Ratio.parse(&text(written)).ok(), ratio, "{written}");
        }
        for written in ["-0.1", "1.01", "NaN", "inf", "1%", ""] {
            assert!(Ratio.parse(&text(written)).is_err(), "{written}");
        }
    }

    #[test]
    fn a_file_mode_is_octal_however_it_is_spelled() {
        for written in ["0660", "660", "0o660"] {
            assert_eq!(FileMode.parse(&text(written)), Ok(0o660), "{written}");
        }
        for written in ["", "0o", "0o+660", "rw-rw----", "0888", "1777", "-660"] {
            assert!(FileMode.parse(&text(written)).is_err(), "{written}");
        }
        assert_eq!(FileMode.show(&0o60), "0060");
    }
}
