//! What `--image` can say.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::SourceError;

/// An image, by the place it is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageName {
    /// `oci:DIR` or `oci:DIR:TAG`: an OCI image layout.
    OciDir {
        /// The directory.
        path: PathBuf,
        /// Which of several images.
        tag: Option<String>,
    },
    /// `docker-archive:FILE`: what `docker save` writes.
    DockerArchive(PathBuf),
    /// `docker:NAME`: only in the Docker daemon.
    Daemon(String),
    /// `docker://NAME`: only from a registry.
    Registry(String),
    /// A plain name: in the Docker daemon, else from a registry.
    Any(String),
}

impl FromStr for ImageName {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, SourceError> {
        let nothing =
            |reason: &str| SourceError::BadName { name: text.to_owned(), reason: reason.to_owned() };
        let some = |rest: &str| (!rest.is_empty()).then(|| rest.to_owned());
        if let Some(rest) = text.strip_prefix("oci:") {
            let (path, tag) = split_tag(rest);
            return some(path)
                .map(|path| Self::OciDir { path: path.into(), tag: tag.map(str::to_owned) })
                .ok_or_else(|| nothing("a directory follows oci:"));
        }
        if let Some(rest) = text.strip_prefix("docker-archive:") {
            return some(rest)
                .map(|path| Self::DockerArchive(path.into()))
                .ok_or_else(|| nothing("a file follows docker-archive:"));
        }
        if let Some(rest) = text.strip_prefix("docker://") {
            return some(rest).map(Self::Registry).ok_or_else(|| nothing("a name follows docker://"));
        }
        if let Some(rest) =
            text.strip_prefix("docker:").filter(|rest| rest.starts_with(|c: char| c.is_alphabetic()))
        {
            return some(rest).map(Self::Daemon).ok_or_else(|| nothing("a name follows docker:"));
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-/:@[]".contains(c);
        if text.is_empty() || !text.chars().all(plain) {
            return Err(nothing("a name has letters, digits and ._-/:@ only"));
        }
        Ok(Self::Any(text.to_owned()))
    }
}

/// The whole if it exists, else what is before the last colon.
fn split_tag(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((path, tag)) if !Path::new(text).exists() && !tag.contains('/') && !tag.is_empty() => {
            (path, Some(tag))
        }
        _ => (text, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_say_where_an_image_is() {
        let parse = |text: &str| text.parse::<ImageName>().unwrap();
        assert_eq!(parse("oci:/a/b"), ImageName::OciDir { path: "/a/b".into(), tag: None });
        assert_eq!(parse("oci:/a/b:v1"), ImageName::OciDir { path: "/a/b".into(), tag: Some("v1".into()) });
        assert_eq!(parse("docker-archive:x.tar"), ImageName::DockerArchive("x.tar".into()));
        assert_eq!(parse("docker://host:5000/a"), ImageName::Registry("host:5000/a".into()));
        assert_eq!(parse("docker:a:b"), ImageName::Daemon("a:b".into()));
        assert_eq!(parse("clarateach-workspace"), ImageName::Any("clarateach-workspace".into()));
        assert_eq!(
            parse("localhost:5000/a/b@sha256:00"),
            ImageName::Any("localhost:5000/a/b@sha256:00".into())
        );
        for wrong in ["", "oci:", "docker-archive:", "docker://", "a b", "a;b", "ü"] {
            assert!(wrong.parse::<ImageName>().is_err(), "{wrong}");
        }
    }
}
