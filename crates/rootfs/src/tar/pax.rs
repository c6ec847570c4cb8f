//! PAX extended headers: what overrides or adds to the next header.

use clarateach_ext4::{Timestamp, Xattr};

use super::acl;

/// Records of a PAX header that matter here. A record with an empty value takes an earlier one away.
#[derive(Debug, Clone, Default)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link_path: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<Timestamp>,
    pub(super) device: (Option<u64>, Option<u64>),
    pub(super) xattrs: Vec<Xattr>,
    pub(super) sparse: PaxSparse,
}

/// `GNU.sparse.*` in its three versions.
#[derive(Debug, Clone, Default)]
pub(super) struct PaxSparse {
    pub(super) major: Option<u64>,
    pub(super) minor: Option<u64>,
    pub(super) name: Option<Vec<u8>>,
    pub(super) real_size: Option<u64>,
    /// Offsets and lengths, alternating (versions 0.0 and 0.1).
    pub(super) map: Option<Vec<u64>>,
}

impl Pax {
    /// Adds the records of a header to what is known.
    pub(super) fn parse(&mut self, mut body: &[u8]) -> Result<(), String> {
        while !body.is_empty() {
            // Some writers pad with NULs.
            if body.iter().all(|&byte| byte == 0) {
                break;
            }
            let (record, rest) = split_record(body).ok_or("a PAX record with a wrong length")?;
            let equals = record.iter().position(|&byte| byte == b'=').ok_or("a PAX record without '='")?;
            self.apply(&record[..equals], &record[equals + 1..])?;
            body = rest;
        }
        Ok(())
    }

    fn apply(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            return self.xattr(name, value);
        }
        match key {
            b"path" => self.path = bytes(value),
            b"linkpath" => self.link_path = bytes(value),
            b"size" => self.size = decimal(value)?,
            b"uid" => self.uid = decimal(value)?,
            b"gid" => self.gid = decimal(value)?,
            b"mtime" => self.mtime = time(value)?,
            b"SCHILY.devmajor" => self.device.0 = decimal(value)?,
            b"SCHILY.devminor" => self.device.1 = decimal(value)?,
            b"SCHILY.acl.access" if !value.is_empty() => {
                self.xattr(b"system.posix_acl_access", &acl::from_text(value)?)?;
            }
            b"SCHILY.acl.default" if !value.is_empty() => {
                self.xattr(b"system.posix_acl_default", &acl::from_text(value)?)?;
            }
            b"GNU.sparse.major" => self.sparse.major = decimal(value)?,
            b"GNU.sparse.minor" => self.sparse.minor = decimal(value)?,
            b"GNU.sparse.name" => self.sparse.name = bytes(value),
            b"GNU.sparse.realsize" | b"GNU.sparse.size" => self.sparse.real_size = decimal(value)?,
            b"GNU.sparse.map" => {
                let numbers =
                    value.split(|&byte| byte == b',').map(|part| decimal(part).map(|n| n.unwrap_or(0)));
                self.sparse.map = Some(numbers.collect::<Result<_, _>>()?);
            }
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                let number = decimal(value)?.unwrap_or(0);
                self.sparse.map.get_or_insert_default().push(number);
            }
            _ => {}
        }
        Ok(())
    }

    fn xattr(&mut self, name: &[u8], value: &[u8]) -> Result<(), String> {
        self.xattrs.retain(|xattr| xattr.name != name);
        if name.is_empty() || name.contains(&0) {
            return Err("an extended attribute without a name".to_owned());
        }
        self.xattrs.push(Xattr { name: name.to_vec(), value: value.to_vec() });
        Ok(())
    }
}

/// `"LEN key=value\n"`, where LEN counts the whole record.
fn split_record(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = body.iter().take(20).position(|&byte| byte == b' ')?;
    let len = usize::try_from(decimal(&body[..space]).ok()??).ok()?;
    if len <= space + 1 || len > body.len() || body[len - 1] != b'\n' {
        return None;
    }
    Some((&body[space + 1..len - 1], &body[len..]))
}

fn bytes(value: &[u8]) -> Option<Vec<u8>> {
    (!value.is_empty()).then(|| value.to_vec())
}

/// A decimal number; `None` for an empty value.
pub(super) fn decimal(value: &[u8]) -> Result<Option<u64>, String> {
    if value.is_empty() {
        return Ok(None);
    }
    let number = value.iter().try_fold(0u64, |number, &digit| {
        digit.is_ascii_digit().then_some(())?;
        number.checked_mul(10)?.checked_add(u64::from(digit - b'0'))
    });
    number.map(Some).ok_or_else(|| format!("not a number: {}", String::from_utf8_lossy(value)))
}

/// Seconds with an optional sign and fraction; digits beyond nanoseconds are cut off.
fn time(value: &[u8]) -> Result<Option<Timestamp>, String> {
    if value.is_empty() {
        return Ok(None);
    }
    let wrong = || format!("not a time: {}", String::from_utf8_lossy(value));
    let (negative, digits) = value.strip_prefix(b"-").map_or((false, value), |rest| (true, rest));
    let (whole, fraction) = match digits.iter().position(|&byte| byte == b'.') {
        Some(dot) => (&digits[..dot], &digits[dot + 1..]),
        None => (digits, &[][..]),
    };
    let whole = i64::try_from(decimal(whole)?.unwrap_or(0)).map_err(|_| wrong())?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err(wrong());
    }
    let nanoseconds =
        (0..9).fold(0, |sum, i| sum * 10 + fraction.get(i).map_or(0, |digit| u32::from(digit - b'0')));
    let time = match (negative, nanoseconds) {
        (false, _) => Timestamp { seconds: whole, nanoseconds },
        (true, 0) => Timestamp { seconds: -whole, nanoseconds },
        (true, _) => Timestamp { seconds: -whole - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    };
    Ok(Some(time))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(body: &[u8]) -> Result<Pax, String> {
        let mut pax = Pax::default();
        pax.parse(body).map(|()| pax)
    }

    #[test]
    fn records_are_taken_apart_by_their_length() {
        let pax = parse(b"11 path=ab\n23 mtime=1700000000.25\n26 SCHILY.xattr.user.a=\0\n\n").unwrap();
        assert_eq!(pax.path.as_deref(), Some(&b"ab"[..]));
        assert_eq!(pax.mtime, Some(Timestamp { seconds: 1_700_000_000, nanoseconds: 250_000_000 }));
        assert_eq!(pax.xattrs[0].value, b"\0\n");
    }

    #[test]
    fn wrong_lengths_are_refused() {
        for body in [
            &b"3 a"[..],
            b"99 path=a\n",
            b"0 \n",
            b"10 path=ab\n",
            b"8 path\n",
            b"18446744073709551616 a=b\n",
        ] {
            assert!(parse(body).is_err(), "{body:?}");
        }
    }

    #[test]
    fn times_before_1970_round_towards_the_past() {
        let time = |text: &str| super::time(text.as_bytes()).unwrap().unwrap();
        assert_eq!(time("-1"), Timestamp { seconds: -1, nanoseconds: 0 });
        assert_eq!(time("-0.5"), Timestamp { seconds: -1, nanoseconds: 500_000_000 });
        assert_eq!(time("1.0000000019"), Timestamp { seconds: 1, nanoseconds: 1 });
        assert!(super::time(b"1.x").is_err());
        assert!(super::time(b"99999999999999999999").is_err());
    }
}
