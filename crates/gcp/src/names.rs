//! Names and labels, checked before they become part of a URL.

use std::fmt;
use std::str::FromStr;

/// Longest name or label, in bytes.
const LONGEST: usize = 63;

/// Name of an instance, disk, snapshot, zone, network or tag: RFC 1035, `[a-z]([-a-z0-9]*[a-z0-9])?`, at most 63 characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceName(String);

/// Why a name can't be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// Not a resource's name.
    #[error(
        "{0:?} can't be a name: 1 to 63 of a-z, 0-9 and -, beginning with a letter and not ending with -"
    )]
    Resource(String),
    /// Not a project's id.
    #[error("{0:?} can't be a project: its id has 6 to 30 of a-z, 0-9 and -, beginning with a letter")]
    Project(String),
    /// Not a label.
    #[error(
        "{0:?} can't be a label: KEY=VALUE, each at most 63 of a-z, 0-9, - and _, the key beginning with a letter"
    )]
    Label(String),
}

impl ResourceName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for ResourceName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let bytes = text.as_bytes();
        let fits = (1..=LONGEST).contains(&bytes.len())
            && bytes[0].is_ascii_lowercase()
            && !text.ends_with('-')
            && bytes.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-');
        if fits { Ok(Self(text.to_owned())) } else { Err(BadName::Resource(text.to_owned())) }
    }
}

/// A project's id; old ones belong to a domain (`example.com:project`).
pub(crate) fn check_project(text: &str) -> Result<(), BadName> {
    let own = text.rsplit(':').next().unwrap_or(text);
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.:".contains(&byte);
    let fits = (6..=30).contains(&own.len())
        && own.as_bytes()[0].is_ascii_lowercase()
        && !own.ends_with('-')
        && text.len() <= 100
        && text.bytes().all(allowed)
        && !text.contains("..");
    if fits { Ok(()) } else { Err(BadName::Project(text.to_owned())) }
}

/// One label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// Begins with a letter.
    pub key: String,
    /// May be empty.
    pub value: String,
}

impl FromStr for Label {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let bad = || BadName::Label(text.to_owned());
        let (key, value) = text.split_once('=').ok_or_else(bad)?;
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
        let fits = (1..=LONGEST).contains(&key.len())
            && value.len() <= LONGEST
            && key.as_bytes()[0].is_ascii_lowercase()
            && key.bytes().chain(value.bytes()).all(allowed);
        if fits { Ok(Self { key: key.to_owned(), value: value.to_owned() }) } else { Err(bad()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_follow_rfc_1035() {
        for good in ["a", "clara-worker", "clara2", "us-central1-b", &"a".repeat(63)] {
            good.parse::<ResourceName>().unwrap();
        }
        for bad in ["", "-a", "a-", "2clara", "Clara", "a_b", "a/b", "../x", "a b", "ä", &"a".repeat(64)] {
            bad.parse::<ResourceName>().unwrap_err();
        }
        for good in ["clarateach", "example.com:clarateach", "my-project-123"] {
            check_project(good).unwrap();
        }
        for bad in ["", "short", "Upper-case", "a/../../b", "1project", "project-", "../../secret"] {
            check_project(bad).unwrap_err();
        }
        assert_eq!("a=".parse::<Label>().unwrap(), Label { key: "a".to_owned(), value: String::new() });
        for bad in ["", "a", "=b", "A=b", "a=B", "a=b c", "1a=b"] {
            bad.parse::<Label>().unwrap_err();
        }
    }

    proptest! {
        #[test]
        fn what_is_taken_for_a_name_stays_one_path_segment(text in ".*") {
            if let Ok(name) = text.parse::<ResourceName>() {
                prop_assert!(name.as_str().bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'));
            }
            if check_project(&text).is_ok() {
                prop_assert!(!text.contains('/') && !text.contains('%') && !text.contains(".."));
            }
        }
    }
}
