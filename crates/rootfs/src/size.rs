//! Sizes as people write them.

use std::str::FromStr;

/// A size in bytes, written as a number with an optional K, M, G or T (powers of 1024).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text:?} is not a size: it is a number with K, M, G or T, for example 2G or 512M");
        let (digits, shift) = match text.as_bytes().last().map(u8::to_ascii_uppercase) {
            Some(b'K') => (&text[..text.len() - 1], 10),
            Some(b'M') => (&text[..text.len() - 1], 20),
            Some(b'G') => (&text[..text.len() - 1], 30),
            Some(b'T') => (&text[..text.len() - 1], 40),
            _ => (text, 0),
        };
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(wrong());
        }
        let number: u64 = digits.parse().map_err(|_| wrong())?;
        let bytes = number.checked_mul(1 << shift).ok_or_else(wrong)?;
        const SMALLEST: u64 = 1 << 20;
        const LARGEST: u64 = 64 << 40;
        if !(SMALLEST..=LARGEST).contains(&bytes) {
            return Err(format!("a root filesystem has 1M to 64T, not {text}"));
        }
        Ok(Self(bytes))
    }
}

/// The size in the largest unit in which it is a whole number: what can be given to `--size`.
pub fn exact(bytes: u64) -> String {
    for (shift, unit) in [(40, "T"), (30, "G"), (20, "M"), (10, "K")] {
        if bytes >= 1 << shift && bytes.is_multiple_of(1 << shift) {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    bytes.to_string()
}

/// The size with one digit after the point, for reading.
pub fn readable(bytes: u64) -> String {
    for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes >= 1 << shift {
            return format!("{:.1} {unit}", bytes as f64 / (1u64 << shift) as f64);
        }
    }
    format!("{bytes} B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units_of_1024() {
        assert_eq!("2G".parse(), Ok(Size(2 << 30)));
        assert_eq!("1536m".parse(), Ok(Size(1536 << 20)));
        assert_eq!("2048K".parse(), Ok(Size(2 << 20)));
        assert_eq!("1T".parse(), Ok(Size(1 << 40)));
        assert_eq!("1048576".parse(), Ok(Size(1 << 20)));
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for wrong in [
            "",
            "G",
            "-1G",
            "1.5G",
            "2GB",
            "0",
            "1K",
            "99999999999999999999",
            "65T",
            "16777216T",
            "2 G",
            "+2G",
        ] {
            assert!(wrong.parse::<Size>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_said_can_be_given_again() {
        assert_eq!(exact(3 << 30), "3G");
        assert_eq!(exact(1537 << 20), "1537M");
        assert_eq!(readable(1537 << 20), "1.5 GiB");
    }
}
