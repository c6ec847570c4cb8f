//! The registry of id kinds.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a string is not an id of the kind asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a {kind}: {rule}")]
pub struct ParseIdError {
    kind: &'static str,
    rule: &'static str,
}

impl ParseIdError {
    pub(crate) const fn of(kind: &'static str, rule: &'static str) -> Self {
        Self { kind, rule }
    }
}

const TEXT_RULE: &str = "1 to 63 characters from a-z, A-Z, 0-9, '-' and '_', the first a letter or digit";

fn is_text_id(text: &str) -> bool {
    let bytes = text.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes[0].is_ascii_alphanumeric()
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

/// Lowercase letters and digits that are safe in DNS labels and hard to misread.
const RANDOM_ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

fn random_text(prefix: &str, characters: usize) -> String {
    let mut bytes = vec![0u8; characters];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    let mut text = String::with_capacity(prefix.len() + characters);
    text.push_str(prefix);
    text.extend(bytes.iter().map(|b| char::from(RANDOM_ALPHABET[usize::from(b & 31)])));
    text
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// A new random id with 80 bits from the operating system.
            #[must_use]
            pub fn random() -> Self {
                Self(random_text($prefix, 16))
            }

            /// The id as it travels.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                if is_text_id(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(ParseIdError { kind: $kind, rule: TEXT_RULE })
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = ParseIdError;
            fn try_from(text: String) -> Result<Self, ParseIdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }
    };
}

text_id!(
    /// A workshop; part of URLs, container labels and host names.
    WorkshopId, "workshop id", "w"
);
text_id!(
    /// A learner's hold on a seat. Not a secret: the session code is.
    SessionId, "session id", "s"
);
text_id!(
    /// Somebody who owns workshops.
    UserId, "user id", "u"
);
text_id!(
    /// One control plane with its store; marks everything that it makes.
    InstallationId, "installation id", "i"
);
text_id!(
    /// A signing key, named in a token's `kid` header.
    KeyId, "key id", "k"
);
text_id!(
    /// A host that an agent serves.
    WorkerId, "worker id", "n"
);

impl UserId {
    /// The owner of workshops made with the admin token, or on loopback without one.
    #[must_use]
    pub fn admin() -> Self {
        Self("admin".to_owned())
    }
}

/// Place n of a workshop, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct SeatNumber(u32);

impl SeatNumber {
    /// The highest seat number any part of the system accepts.
    pub const MAX: u32 = 65_535;

    /// Seat `n`, for n from 1 to [`SeatNumber::MAX`].
    ///
    /// # Errors
    /// When `n` is 0 or above the maximum.
    pub const fn new(n: u32) -> Result<Self, ParseIdError> {
        if n == 0 || n > Self::MAX {
            return Err(ParseIdError { kind: "seat number", rule: "a whole number from 1 to 65535" });
        }
        Ok(Self(n))
    }

    /// The number itself.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for SeatNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for SeatNumber {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let canonical = !text.starts_with(['+', '0']);
        Self::new(if canonical { text.parse().unwrap_or(0) } else { 0 })
    }
}

impl TryFrom<u32> for SeatNumber {
    type Error = ParseIdError;
    fn try_from(n: u32) -> Result<Self, ParseIdError> {
        Self::new(n)
    }
}

impl From<SeatNumber> for u32 {
    fn from(seat: SeatNumber) -> u32 {
        seat.0
    }
}

/// Which make of a seat's environment: each rebuild is one higher. 0 is "nothing was ever made".
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl Generation {
    /// The generation after this one; there is none after the last.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Position of an event in its workshop's history, counted from 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EventSeq(pub u64);

impl fmt::Display for EventSeq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A seat of a workshop: what a runtime makes environments for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SeatKey {
    /// The workshop that the seat belongs to.
    pub workshop: WorkshopId,
    /// Its number there.
    pub seat: SeatNumber,
}

impl fmt::Display for SeatKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.workshop, self.seat)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_ids_refuse_what_could_escape_a_path_or_label() {
        for bad in ["", "-a", "_a", "a/b", "a.b", "..", "a b", "é", "a\0", &"a".repeat(64)] {
            assert!(bad.parse::<WorkshopId>().is_err(), "{bad:?}");
        }
        assert!("test".parse::<WorkshopId>().is_ok());
        assert!("a".repeat(63).parse::<WorkshopId>().is_ok());
    }

    #[test]
    fn seat_numbers_have_one_spelling() {
        for bad in ["0", "-1", "+1", "01", "1.0", "65536", "", " 1", "99999999999"] {
            assert!(bad.parse::<SeatNumber>().is_err(), "{bad:?}");
        }
        assert_eq!("65535".parse::<SeatNumber>().unwrap().get(), 65_535);
    }

    #[test]
    fn the_last_generation_is_followed_by_none() {
        assert_eq!(Generation(1).next(), Generation(2));
        assert_eq!(Generation(u64::MAX).next(), Generation(u64::MAX));
    }

    #[test]
    fn json_refuses_a_bad_id() {
        assert!(serde_json::from_str::<WorkshopId>("\"../x\"").is_err());
        assert!(serde_json::from_str::<SeatNumber>("0").is_err());
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in "\\PC*") {
            let _ = text.parse::<WorkshopId>();
            let _ = text.parse::<SeatNumber>();
        }

        #[test]
        fn random_ids_parse_back(_n in 0..64u8) {
            let id = WorkshopId::random();
            prop_assert_eq!(id.as_str().parse::<WorkshopId>().unwrap(), id);
        }
    }
}
