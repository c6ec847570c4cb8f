//! Ethernet addresses.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ParseIdError;

/// A 48-bit Ethernet address, like `02:00:c0:a8:64:0b`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// The locally administered unicast address that stands for an IPv4 address: `02:00:` and its four bytes.
    #[must_use]
    pub const fn of_ipv4(address: std::net::Ipv4Addr) -> Self {
        let [a, b, c, d] = address.octets();
        Self([0x02, 0x00, a, b, c, d])
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for MacAddr {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let wrong = ParseIdError::of("MAC address", "six pairs of hexadecimal digits with ':' between them");
        let mut bytes = [0; 6];
        let mut pairs = text.split(':');
        for byte in &mut bytes {
            let pair =
                pairs.next().filter(|pair| pair.len() == 2 && pair.bytes().all(|b| b.is_ascii_hexdigit()));
            *byte = pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()).ok_or(wrong.clone())?;
        }
        if pairs.next().is_some() { Err(wrong) } else { Ok(Self(bytes)) }
    }
}

impl TryFrom<String> for MacAddr {
    type Error = ParseIdError;
    fn try_from(text: String) -> Result<Self, ParseIdError> {
        text.parse()
    }
}

impl From<MacAddr> for String {
    fn from(mac: MacAddr) -> String {
        mac.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_prints_what_it_parses() {
        let mac = MacAddr::of_ipv4([192, 168, 100, 11].into());
        assert_eq!(mac.to_string(), "02:00:c0:a8:64:0b");
        assert_eq!("02:00:C0:a8:64:0b".parse(), Ok(mac));
        for wrong in [
            "",
            "02",
            "02:00:c0:a8:64",
            "02:00:c0:a8:64:0b:00",
            "02:00:c0:a8:64:+b",
            "2:0:c0:a8:64:b",
            "é2:00:c0:a8:64:0b",
        ] {
            assert!(wrong.parse::<MacAddr>().is_err(), "{wrong}");
        }
    }
}
