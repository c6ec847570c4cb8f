//! The codes that people read aloud and type: join codes and session codes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ParseIdError;

/// No 0/O, 1/I/L, 2/Z, 5/S, 8/B or U/V: whatever is read from a projector at the back of the room is unambiguous.
const ALPHABET: &[u8; 23] = b"34679ACDEFGHJKMNPQRTWXY";

/// Uniform over the alphabet: bytes that would favour its first letters are thrown away.
fn random_symbols<const N: usize>() -> [u8; N] {
    drawn_symbols(|bytes| getrandom::fill(bytes).expect("the operating system gives random bytes"))
}

/// As [`random_symbols`], from a stream of uniform bytes.
fn drawn_symbols<const N: usize>(mut fill: impl FnMut(&mut [u8])) -> [u8; N] {
    const LIMIT: u8 = (256 / ALPHABET.len() * ALPHABET.len()) as u8;
    let mut symbols = [0u8; N];
    let mut filled = 0;
    while filled < N {
        let mut bytes = [0u8; 32];
        fill(&mut bytes);
        for byte in bytes {
            if byte < LIMIT && filled < N {
                symbols[filled] = ALPHABET[usize::from(byte) % ALPHABET.len()];
                filled += 1;
            }
        }
    }
    symbols
}

/// Uppercases, drops white space and hyphens, also those that slides and mails make of them, and checks length and
/// alphabet.
fn normalise<const N: usize>(text: &str) -> Option<[u8; N]> {
    let is_dash = |c: char| matches!(c, '-' | '\u{2010}'..='\u{2015}' | '\u{2212}');
    let mut symbols = [0u8; N];
    let mut filled = 0;
    for c in text.chars().filter(|c| !is_dash(*c) && !c.is_whitespace()) {
        let symbol = u8::try_from(c).ok()?.to_ascii_uppercase();
        if filled == N || !ALPHABET.contains(&symbol) {
            return None;
        }
        symbols[filled] = symbol;
        filled += 1;
    }
    (filled == N).then_some(symbols)
}

fn grouped(symbols: &[u8], group: usize) -> String {
    let mut text = String::with_capacity(symbols.len() + symbols.len() / group);
    for (i, symbol) in symbols.iter().enumerate() {
        if i > 0 && i % group == 0 {
            text.push('-');
        }
        text.push(char::from(*symbol));
    }
    text
}

/// What learners type to join a workshop, like `K7QM-4XTP`; about 36 bits, compared without case or hyphen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct JoinCode([u8; 8]);

impl JoinCode {
    /// A new random code.
    #[must_use]
    pub fn random() -> Self {
        Self(random_symbols())
    }
}

impl fmt::Display for JoinCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&grouped(&self.0, 4))
    }
}

impl fmt::Debug for JoinCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinCode({self})")
    }
}

impl FromStr for JoinCode {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        normalise(text).map(Self).ok_or_else(|| ParseIdError::of("join code", "8 characters like K7QM-4XTP"))
    }
}

impl TryFrom<String> for JoinCode {
    type Error = ParseIdError;
    fn try_from(text: String) -> Result<Self, ParseIdError> {
        text.parse()
    }
}

impl From<JoinCode> for String {
    fn from(code: JoinCode) -> String {
        code.to_string()
    }
}

/// With which a learner comes back from any device: 20 symbols, 90 bits. A secret: it prints as `[session code]` in
/// logs, and only [`SessionCode::expose`] gives it away.
#[derive(Clone, PartialEq, Eq)]
pub struct SessionCode([u8; 20]);

impl SessionCode {
    /// A new random code.
    #[must_use]
    pub fn random() -> Self {
        Self(random_symbols())
    }

    /// A code from a stream of uniform bytes, such as a keyed hash: the same stream gives the same code.
    #[must_use]
    pub fn drawn(fill: impl FnMut(&mut [u8])) -> Self {
        Self(drawn_symbols(fill))
    }

    /// The code as the learner sees it, in five groups of four.
    #[must_use]
    pub fn expose(&self) -> String {
        grouped(&self.0, 4)
    }

    /// The symbols to hash: the same for every spelling of one code.
    #[must_use]
    pub fn canonical(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SessionCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[session code]")
    }
}

impl FromStr for SessionCode {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        normalise(text)
            .map(Self)
            .ok_or_else(|| ParseIdError::of("session code", "20 characters in five groups of four"))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_alphabet_has_no_look_alikes() {
        for pair in ["0O", "1I", "1L", "2Z", "5S", "8B", "UV"] {
            assert!(!pair.bytes().all(|b| ALPHABET.contains(&b)), "{pair}");
            assert!(!pair.bytes().any(|b| ALPHABET.contains(&b)), "{pair}");
        }
    }

    #[test]
    fn every_symbol_turns_up() {
        let seen: HashSet<u8> = (0..500).flat_map(|_| JoinCode::random().0).collect();
        assert_eq!(seen.len(), ALPHABET.len());
    }

    #[test]
    fn spelling_does_not_matter() {
        let code: JoinCode = "K7QM-4XTP".parse().unwrap();
        assert_eq!("k7qm4xtp".parse::<JoinCode>().unwrap(), code);
        for pasted in
            [" K7 QM-4xTP ", "K7QM\u{2011}4XTP\n", "K7QM\u{a0}\u{2013}\u{a0}4XTP", "\tK7QM\u{2212}4XTP"]
        {
            assert_eq!(pasted.parse::<JoinCode>().unwrap(), code, "{pasted:?}");
        }
        for other in ["К7QM-4XTP", "K7QM-4XTP!", "K7QM_4XTP", "K7QM-4XTPA", "K7QM-4XT"] {
            assert!(other.parse::<JoinCode>().is_err(), "{other:?}");
        }
        assert_eq!(code.to_string(), "K7QM-4XTP");
    }

    #[test]
    fn a_session_code_hides_itself() {
        let code = SessionCode::random();
        assert_eq!(format!("{code:?}"), "[session code]");
        assert_eq!(code.expose().to_lowercase().parse::<SessionCode>().unwrap(), code);
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in "\\PC*") {
            let _ = text.parse::<JoinCode>();
            let _ = text.parse::<SessionCode>();
        }
    }
}
