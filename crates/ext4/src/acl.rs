//! POSIX ACLs, from the form of `getxattr(2)` to the form inside an ext4 inode.
//!
//! Source: Linux, include/uapi/linux/posix_acl_xattr.h (version 2: every entry eight bytes) and fs/ext4/acl.h (version 1:
//! four bytes for the entries that need no id).

const XATTR_VERSION: u32 = 2;
const EXT4_VERSION: u32 = 1;
const USER: u16 = 0x02;
const GROUP: u16 = 0x08;
/// Owner, owning group, mask and others: entries without an id.
const SHORT: [u16; 4] = [0x01, 0x04, 0x10, 0x20];

/// What an access ACL without a mask consists of: nothing that the mode does not say as well.
const IN_MODE: [u16; 3] = [0x01, 0x04, 0x20];

/// Converts an ACL, or says what is wrong with it. `None` for an access ACL that says no more than the mode: the kernel
/// stores none then (`posix_acl_equiv_mode`).
pub(crate) fn to_disk(value: &[u8], is_access: bool) -> Result<Option<Vec<u8>>, &'static str> {
    let (header, entries) = value.split_first_chunk::<4>().ok_or("the ACL is shorter than its header")?;
    if u32::from_le_bytes(*header) != XATTR_VERSION {
        return Err("the ACL is not of version 2");
    }
    let (entries, rest) = entries.as_chunks::<8>();
    if !rest.is_empty() {
        return Err("the ACL ends within an entry");
    }
    if is_access && entries.iter().all(|entry| IN_MODE.contains(&u16::from_le_bytes([entry[0], entry[1]]))) {
        return Ok(None);
    }
    let mut disk = EXT4_VERSION.to_le_bytes().to_vec();
    for entry in entries {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        if SHORT.contains(&tag) {
            disk.extend_from_slice(&entry[..4]);
        } else if tag == USER || tag == GROUP {
            disk.extend_from_slice(entry);
        } else {
            return Err("the ACL has an entry of an unknown kind");
        }
    }
    Ok(Some(disk))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_named_users_and_groups_keep_their_id() {
        let mut value = 2u32.to_le_bytes().to_vec();
        for (tag, perm, id) in [(1u16, 6u16, !0u32), (2, 4, 1000), (4, 4, !0), (0x10, 6, !0), (0x20, 0, !0)] {
            value.extend_from_slice(&tag.to_le_bytes());
            value.extend_from_slice(&perm.to_le_bytes());
            value.extend_from_slice(&id.to_le_bytes());
        }
        let disk = to_disk(&value, true).unwrap().unwrap();
        assert_eq!(disk.len(), 4 + 4 * 4 + 8);
        assert_eq!(disk[..4], [1, 0, 0, 0]);
        assert_eq!(disk[8..16], [2, 0, 4, 0, 0xe8, 3, 0, 0]);
    }

    #[test]
    fn an_access_acl_that_repeats_the_mode_is_none() {
        let value = [&[2, 0, 0, 0][..], &[1, 0, 7, 0, 255, 255, 255, 255], &[4, 0, 5, 0, 255, 255, 255, 255]]
            .concat();
        assert_eq!(to_disk(&value, true), Ok(None));
        assert!(to_disk(&value, false).unwrap().is_some());
    }

    #[test]
    fn broken_lists_are_refused() {
        for broken in
            [&[][..], &[2, 0, 0], &[1, 0, 0, 0], &[2, 0, 0, 0, 1], &[2, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0]]
        {
            assert!(to_disk(broken, false).is_err(), "{broken:?}");
        }
    }
}
