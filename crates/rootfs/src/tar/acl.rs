//! ACLs as text, which GNU tar and star write, to the form of `getxattr(2)`.
//!
//! Source: acl(5), "long text form"; GNU tar appends the numeric id as a fourth field.

const VERSION: u32 = 2;
const NO_ID: u32 = u32::MAX;

/// Converts `user::rw-,user:1000:r--,group::r--,mask::r--,other::---`.
pub(super) fn from_text(text: &[u8]) -> Result<Vec<u8>, String> {
    let text = std::str::from_utf8(text).map_err(|_| "an ACL that is not text")?;
    let mut entries = Vec::new();
    for entry in text.split([',', '\n']).map(str::trim).filter(|entry| !entry.is_empty()) {
        entries.push(parse(entry).ok_or_else(|| format!("an ACL entry that can't be used here: {entry}"))?);
    }
    // The kernel wants them by tag, named ones by id.
    entries.sort_unstable();
    let mut value = VERSION.to_le_bytes().to_vec();
    for (tag, id, permissions) in entries {
        value.extend_from_slice(&tag.to_le_bytes());
        value.extend_from_slice(&permissions.to_le_bytes());
        value.extend_from_slice(&id.to_le_bytes());
    }
    Ok(value)
}

fn parse(entry: &str) -> Option<(u16, u32, u16)> {
    let entry = entry.split('#').next()?.trim();
    let fields: Vec<_> = entry.split(':').collect();
    // "mask:r--" and "other:r--" may leave out the empty qualifier.
    let (kind, qualifier, permissions, id) = match fields[..] {
        [kind, permissions] => (kind, "", permissions, None),
        [kind, qualifier, permissions] => (kind, qualifier, permissions, None),
        [kind, qualifier, permissions, id] => (kind, qualifier, permissions, Some(id)),
        _ => return None,
    };
    let named = || match (id, qualifier) {
        (Some(id), _) => id.parse().ok(),
        (None, "root") => Some(0),
        (None, qualifier) => qualifier.parse().ok(),
    };
    let (tag, id) = match (kind, qualifier.is_empty()) {
        ("user" | "u", true) => (0x01, NO_ID),
        ("user" | "u", false) => (0x02, named()?),
        ("group" | "g", true) => (0x04, NO_ID),
        ("group" | "g", false) => (0x08, named()?),
        ("mask" | "m", true) => (0x10, NO_ID),
        ("other" | "o", true) => (0x20, NO_ID),
        _ => return None,
    };
    let bits = permissions.chars().try_fold(0, |bits, letter| match letter {
        'r' => Some(bits | 4),
        'w' => Some(bits | 2),
        'x' => Some(bits | 1),
        '-' => Some(bits),
        _ => None,
    })?;
    Some((tag, id, bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_put_in_the_order_the_kernel_wants() {
        let value =
            from_text(b"user::rw-,other::---,mask::rw-,user:1000:r--,user:alice:rwx:7,group::r--\n").unwrap();
        let tags: Vec<_> = value[4..].chunks(8).map(|entry| (entry[0], entry[2], entry[4])).collect();
        assert_eq!(tags, [(1, 6, 255), (2, 7, 7), (2, 4, 232), (4, 4, 255), (16, 6, 255), (32, 0, 255)]);
    }

    #[test]
    fn names_without_a_number_are_refused() {
        assert!(from_text(b"user:alice:rwx").is_err());
        assert!(from_text(b"user::q").is_err());
        assert!(from_text(b"nonsense").is_err());
    }
}
