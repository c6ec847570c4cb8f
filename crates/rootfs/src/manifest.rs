//! Manifests: what an image consists of, parsed and checked, without any input or output.
//!
//! Source: OCI image-spec (image-index, manifest, config) and Docker's image specification v1.2 (`manifest.json` of
//! `docker save`).

use std::collections::HashMap;
use std::fmt;

use serde::Deserialize;

use crate::digest::Digest;
use crate::merge::MOST_LAYERS;

/// The largest manifest, index or configuration that is read, in bytes.
pub const LARGEST: u64 = 8 << 20;

/// The annotation with the name of an image in a layout.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Why a manifest can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not the JSON that it should be.
    #[error("{what} can't be read: {source}")]
    Json {
        /// Which document.
        what: &'static str,
        /// What the parser says.
        source: serde_json::Error,
    },
    /// Readable, and wrong.
    #[error("{0}")]
    Invalid(String),
}

/// A blob and its length, as manifests refer to them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the blob is; empty in some hand-made layouts.
    #[serde(default)]
    pub media_type: String,
    /// Digest of the blob as it is stored.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// For which machine, in an index.
    pub platform: Option<Platform>,
    /// Names and notes.
    #[serde(default)]
    pub annotations: HashMap<String, String>,
}

/// Machine that an image is for.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Platform {
    /// `linux` and so on.
    pub os: String,
    /// In Go's words: `amd64`, `arm64`.
    pub architecture: String,
    /// Which generation of it, where there are several: `v3` of amd64.
    #[serde(default)]
    pub variant: Option<String>,
}

impl Platform {
    /// Whether it is Linux on a machine like this one.
    pub fn is_here(&self) -> bool {
        self.os == "linux" && self.architecture == architecture()
    }

    /// Whether every machine of the architecture can run it.
    fn is_baseline(&self) -> bool {
        let first = if self.architecture == "arm64" { "v8" } else { "v1" };
        self.variant.as_deref().is_none_or(|variant| variant.is_empty() || variant == first)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) if !variant.is_empty() => write!(f, "/{variant}"),
            _ => Ok(()),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    schema_version: Option<u32>,
    manifests: Option<Vec<Descriptor>>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
}

/// An index or a manifest; registries and layouts can have either in the same place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Manifest {
    /// One image for several machines, or several images.
    Index(Vec<Descriptor>),
    /// An image.
    Image {
        /// Its configuration.
        config: Descriptor,
        /// Its layers, the lowest first.
        layers: Vec<Descriptor>,
    },
}

impl Manifest {
    /// Parses either kind.
    ///
    /// # Errors
    /// [`ManifestError`].
    pub fn parse(json: &[u8]) -> Result<Self, ManifestError> {
        let document: Document = serde_json::from_slice(json)
            .map_err(|source| ManifestError::Json { what: "the manifest", source })?;
        if document.schema_version == Some(1) {
            return Err(ManifestError::Invalid(
                "the manifest is of schema 1, which is no longer in use".to_owned(),
            ));
        }
        match document {
            // What one program takes for an index and another for an image can't be trusted (CVE-2021-41190).
            Document { manifests: Some(_), config, layers, .. } if config.is_some() || layers.is_some() => {
                Err(ManifestError::Invalid(
                    "the manifest names layers and further manifests at once".to_owned(),
                ))
            }
            Document { manifests: Some(list), .. } => Ok(Self::Index(list)),
            Document { config: Some(config), layers: Some(layers), .. } if layers.len() <= MOST_LAYERS => {
                Ok(Self::Image { config, layers })
            }
            _ => Err(ManifestError::Invalid(
                "the manifest names neither layers nor further manifests".to_owned(),
            )),
        }
    }
}

/// The architecture of this machine in Go's words.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Picks the image for this machine from an index, if it has one; `tag` narrows it down by name first.
///
/// # Errors
/// [`ManifestError::Invalid`] if nothing fits or it is not clear which.
pub fn select<'a>(list: &'a [Descriptor], tag: Option<&str>) -> Result<&'a Descriptor, ManifestError> {
    let named = |descriptor: &&Descriptor| {
        tag.is_none_or(|tag| {
            let name = descriptor.annotations.get(REF_NAME);
            name.is_some_and(|name| name == tag || name.rsplit_once(':').is_some_and(|(_, last)| last == tag))
        })
    };
    let candidates: Vec<&Descriptor> = list.iter().filter(named).collect();
    // Attestations stand in an index as images for the machine "unknown".
    let images: Vec<&Descriptor> = candidates
        .iter()
        .copied()
        .filter(|descriptor| descriptor.platform.as_ref().is_none_or(Platform::is_here))
        .collect();
    let (exact, open): (Vec<&Descriptor>, Vec<&Descriptor>) =
        images.iter().partition(|descriptor| descriptor.platform.is_some());
    // An image that says what it is for is preferred; among those, one that runs on the oldest such machine.
    let (baseline, newer): (Vec<&Descriptor>, Vec<&Descriptor>) = exact
        .into_iter()
        .partition(|descriptor| descriptor.platform.as_ref().is_some_and(Platform::is_baseline));
    let fitting = [baseline, newer, open].into_iter().find(|list| !list.is_empty()).unwrap_or_default();
    let name_of = |descriptor: &Descriptor| descriptor.annotations.get(REF_NAME).cloned();
    match &fitting[..] {
        [first, rest @ ..]
            if rest.iter().all(|other| {
                other.digest == first.digest
                    // Several for one machine under one name: a runtime takes the first as well.
                    || first.platform.is_some() && name_of(other) == name_of(first)
            }) =>
        {
            Ok(first)
        }
        [] => {
            let machines: Vec<_> = candidates
                .iter()
                .filter_map(|descriptor| descriptor.platform.as_ref())
                .map(Platform::to_string)
                .collect();
            let others = if machines.is_empty() { "nothing".to_owned() } else { machines.join(", ") };
            Err(ManifestError::Invalid(format!(
                "there is no image for linux/{} in it, but {others}",
                architecture()
            )))
        }
        several => {
            let names: Vec<_> = several.iter().filter_map(|descriptor| name_of(descriptor)).collect();
            Err(ManifestError::Invalid(format!(
                "it holds several images: name one of them ({})",
                names.join(", ")
            )))
        }
    }
}

/// What is needed of an image's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Digests of the layers as plain tar, the lowest first.
    pub diff_ids: Vec<Digest>,
    /// When the image was made, in seconds since 1970; 0 if it does not say.
    pub created: i64,
    /// The machine it is for, if it says.
    pub platform: Option<Platform>,
}

#[derive(Debug, Deserialize)]
struct ConfigDocument {
    #[serde(default)]
    created: Option<String>,
    #[serde(flatten)]
    platform: Option<Platform>,
    rootfs: RootFs,
}

#[derive(Debug, Deserialize)]
struct RootFs {
    diff_ids: Vec<Digest>,
}

impl Config {
    /// Parses a configuration.
    ///
    /// # Errors
    /// [`ManifestError`].
    pub fn parse(json: &[u8]) -> Result<Self, ManifestError> {
        let document: ConfigDocument = serde_json::from_slice(json)
            .map_err(|source| ManifestError::Json { what: "the image configuration", source })?;
        if document.rootfs.diff_ids.len() > MOST_LAYERS {
            return Err(ManifestError::Invalid(format!("the image has more than {MOST_LAYERS} layers")));
        }
        let created = document.created.and_then(|text| text.parse::<jiff::Timestamp>().ok());
        let created = created.map_or(0, |time| time.as_second());
        Ok(Self { diff_ids: document.rootfs.diff_ids, created, platform: document.platform })
    }
}

/// One image of `docker save`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct SavedImage {
    /// Path of the configuration in the archive.
    pub config: String,
    /// Names, possibly none.
    pub repo_tags: Option<Vec<String>>,
    /// Paths of the layers in the archive, the lowest first.
    pub layers: Vec<String>,
}

/// Parses `manifest.json`.
///
/// # Errors
/// [`ManifestError`].
pub fn saved_images(json: &[u8]) -> Result<Vec<SavedImage>, ManifestError> {
    serde_json::from_slice(json).map_err(|source| ManifestError::Json { what: "manifest.json", source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(byte: u8, platform: Option<(&str, &str)>, name: Option<&str>) -> Descriptor {
        Descriptor {
            media_type: String::new(),
            digest: Digest::of(&[byte]),
            size: 1,
            platform: platform.map(|(os, arch)| Platform {
                os: os.into(),
                architecture: arch.split('/').next().unwrap().into(),
                variant: arch.split_once('/').map(|(_, variant)| variant.into()),
            }),
            annotations: name
                .map(|name| ("org.opencontainers.image.ref.name".to_owned(), name.to_owned()))
                .into_iter()
                .collect(),
        }
    }

    #[test]
    fn the_image_for_this_machine_is_taken() {
        let list = [
            descriptor(1, Some(("windows", architecture())), None),
            descriptor(2, Some(("linux", "riscv64")), None),
            descriptor(3, Some(("linux", architecture())), None),
            descriptor(4, Some(("unknown", "unknown")), None),
        ];
        assert_eq!(select(&list, None).unwrap().digest, Digest::of(&[3]));
        let error = select(&list[..2], None).unwrap_err().to_string();
        assert!(error.contains("linux/riscv64"), "{error}");
        assert!(select(&[], None).is_err());
    }

    #[test]
    fn of_several_generations_the_one_for_all_machines_is_taken() {
        let here = |variant: &str| format!("{}{variant}", architecture());
        let (newest, newer, plain) = (here("/v9"), here("/v3"), here(""));
        let list = [
            descriptor(1, Some(("linux", &newest)), None),
            descriptor(2, Some(("linux", &newer)), None),
            descriptor(3, Some(("linux", &plain)), None),
        ];
        assert_eq!(select(&list, None).unwrap().digest, Digest::of(&[3]));
        assert_eq!(select(&list[..2], None).unwrap().digest, Digest::of(&[1]), "better than none");
    }

    #[test]
    fn images_of_different_names_are_not_confused_because_they_are_for_the_same_machine() {
        let machine = Some(("linux", architecture()));
        let list = [descriptor(1, machine, Some("one")), descriptor(2, machine, Some("two"))];
        let error = select(&list, None).unwrap_err().to_string();
        assert!(error.contains("one, two"), "{error}");
        assert_eq!(select(&list, Some("two")).unwrap().digest, Digest::of(&[2]));
    }

    #[test]
    fn a_document_that_can_be_read_in_two_ways_is_refused() {
        let json = format!(
            r#"{{"schemaVersion":2,"manifests":[],"config":{{"digest":"{0}","size":1}},"layers":[]}}"#,
            Digest::of(b"")
        );
        let error = Manifest::parse(json.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("at once"), "{error}");
    }

    #[test]
    fn several_images_need_a_name() {
        let list = [descriptor(1, None, Some("one")), descriptor(2, None, Some("registry/two:v2"))];
        let error = select(&list, None).unwrap_err().to_string();
        assert!(error.contains("one, registry/two:v2"), "{error}");
        assert_eq!(select(&list, Some("one")).unwrap().digest, Digest::of(&[1]));
        assert_eq!(select(&list, Some("v2")).unwrap().digest, Digest::of(&[2]));
        assert!(select(&list, Some("three")).is_err());
    }
}
