//! Paths in layers: relative to the root whatever they look like, and never upwards.

/// The components of a path, or why it is refused.
///
/// A leading slash is taken off, as every tar does; `.` and doubled slashes mean nothing; `..` is refused.
pub(super) fn components(path: &[u8]) -> Result<Vec<&[u8]>, &'static str> {
    let parts: Vec<_> =
        path.split(|&byte| byte == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
    if parts.contains(&&b".."[..]) {
        return Err("a path with '..'");
    }
    if path.contains(&0) {
        return Err("a path with a NUL");
    }
    if path.is_empty() {
        return Err("an entry without a path");
    }
    if parts.len() > 2048 {
        return Err("a path of more than 2,048 directories");
    }
    Ok(parts)
}

/// What stands before the last component, in whatever spelling: two paths that have it in common are in one directory.
pub(super) fn before_name(path: &[u8]) -> &[u8] {
    let mut rest = path;
    // Slashes and dots at the end are no components.
    while let Some(shorter) = rest.strip_suffix(b"/").or_else(|| rest.strip_suffix(b"/.")) {
        rest = shorter;
    }
    &rest[..rest.iter().rposition(|&byte| byte == b'/').map_or(0, |at| at + 1)]
}

/// The path in the one form that all its spellings have in common; empty for a path that is refused.
pub(super) fn joined(path: &[u8]) -> Vec<u8> {
    components(path).map(|parts| parts.join(&b'/')).unwrap_or_default()
}

/// Whether a path lies in the bookkeeping of an old storage driver, such as `.wh..wh.plnk/`, where it kept what its hard
/// links point to. It is no part of the image.
pub(super) fn is_bookkeeping(parts: &[&[u8]]) -> bool {
    matches!(parts, [first, _, ..] if first.starts_with(b".wh..wh."))
}

/// What the last component of a path says about the layers below (OCI image-spec, layer.md, "Whiteouts").
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Marker<'a> {
    /// The directory hides everything that lower layers have in it.
    Opaque,
    /// The name is gone.
    Whiteout(&'a [u8]),
    /// Bookkeeping of an old storage driver (`.wh..wh.plnk` and the like): no part of the image.
    Ignored,
}

/// The marker that a name is, if it is one.
pub(super) fn marker(name: &[u8]) -> Option<Result<Marker<'_>, &'static str>> {
    let hidden = name.strip_prefix(b".wh.")?;
    Some(match hidden {
        b".wh..opq" => Ok(Marker::Opaque),
        b"" | b"." | b".." => Err("a whiteout of nothing"),
        _ if hidden.starts_with(b".wh.") => Ok(Marker::Ignored),
        _ => Ok(Marker::Whiteout(hidden)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_the_root() {
        assert_eq!(components(b"/etc//./passwd").unwrap(), [&b"etc"[..], b"passwd"]);
        assert_eq!(components(b"./").unwrap(), Vec::<&[u8]>::new());
        assert_eq!(components(b"...").unwrap(), [&b"..."[..]]);
        for refused in [&b"../etc"[..], b"a/../b", b"/..", b"", b"a\0b"] {
            assert!(components(refused).is_err(), "{refused:?}");
        }
    }

    #[test]
    fn what_stands_before_the_name_leads_to_its_directory() {
        for path in
            ["d", "d/", "d//", "d/.", "d/./", "/d/.//.", "a/d", "a//d/", "./a/./d/.", "a/d.", "a/..d/"]
        {
            let (path, parts) = (path.as_bytes(), components(path.as_bytes()).unwrap());
            let (_, directories) = parts.split_last().unwrap();
            let before = before_name(path);
            assert_eq!(
                before
                    .split(|&byte| byte == b'/')
                    .filter(|part| !matches!(*part, b"" | b"."))
                    .collect::<Vec<_>>(),
                directories
            );
        }
    }

    #[test]
    fn spellings_have_one_form() {
        assert_eq!(joined(b"./etc//hosts/"), b"etc/hosts");
        assert_eq!(joined(b"/.."), b"");
    }

    #[test]
    fn markers() {
        assert_eq!(marker(b".wh.a"), Some(Ok(Marker::Whiteout(b"a"))));
        assert_eq!(marker(b".wh..hidden"), Some(Ok(Marker::Whiteout(b".hidden"))));
        assert_eq!(marker(b".wh..wh..opq"), Some(Ok(Marker::Opaque)));
        assert_eq!(marker(b".wh..wh.plnk"), Some(Ok(Marker::Ignored)));
        assert_eq!(marker(b"wh.a"), None);
        assert!(matches!(marker(b".wh.."), Some(Err(_))));
    }
}
