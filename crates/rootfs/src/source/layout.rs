//! What a set of named files says about an image, be they in a directory or in an archive.

use std::collections::HashMap;

use super::{Image, SourceError, in_manifest};
use crate::digest::Digest;
use crate::layer::Layer;
use crate::layer::blob::Bytes;
use crate::manifest::{self, Config, Descriptor, Manifest};
use crate::tar::ReadAt;

/// Indexes in indexes, at most this deep.
const DEEPEST: usize = 4;

/// Files by name.
pub(super) trait Files {
    /// Opens a file; `None` if it is not there.
    fn open(&self, name: &str) -> Result<Option<Bytes>, SourceError>;
    /// Where they are, for errors.
    fn place(&self) -> String;
}

/// The manifest of one image in an OCI layout, found and checked.
#[derive(Debug)]
pub(super) struct OciManifest {
    pub(super) config: Descriptor,
    layers: Vec<Descriptor>,
}

/// Finds the image for this machine in an OCI image layout.
pub(super) fn oci_manifest(files: &dyn Files, tag: Option<&str>) -> Result<OciManifest, SourceError> {
    let Some(index) = files.open("index.json")? else {
        return Err(SourceError::damaged(
            files.place(),
            "there is no index.json, so it is no OCI image layout",
        ));
    };
    let mut json = read(files, "index.json", &index)?;
    for depth in 0..DEEPEST {
        match Manifest::parse(&json).map_err(in_manifest(files.place()))? {
            Manifest::Image { config, layers } => return Ok(OciManifest { config, layers }),
            Manifest::Index(list) => {
                let tag = tag.filter(|_| depth == 0);
                let chosen = manifest::select(&list, tag).map_err(in_manifest(files.place()))?;
                json = checked(files, chosen)?;
            }
        }
    }
    Err(SourceError::damaged(files.place(), format!("more than {DEEPEST} indexes within one another")))
}

/// Opens the layers of an OCI image.
pub(super) fn oci_image(files: &dyn Files, found: &OciManifest) -> Result<Image, SourceError> {
    let config = Config::parse(&checked(files, &found.config)?).map_err(in_manifest(files.place()))?;
    if config.diff_ids.len() != found.layers.len() {
        return Err(SourceError::damaged(
            files.place(),
            "manifest and configuration disagree on the number of layers",
        ));
    }
    let layers = found.layers.iter().zip(&config.diff_ids).map(|(descriptor, diff_id)| {
        let bytes = blob(files, descriptor)?;
        if let Some(len) = bytes.known_len()
            && len != descriptor.size
        {
            let reason =
                format!("it has {len} bytes instead of {}: the layer is cut off or damaged", descriptor.size);
            return Err(SourceError::damaged(format!("layer {}", descriptor.digest), reason));
        }
        Ok(Layer { bytes, digest: Some(descriptor.digest), diff_id: *diff_id, plain: false })
    });
    let layers = layers.collect::<Result<_, _>>()?;
    let Config { created, platform, .. } = config;
    Ok(Image {
        config: found.config.digest,
        created,
        platform,
        layers,
        origin: files.place(),
        fetching: None,
    })
}

/// The configuration of the only image that `docker save` put into an archive.
pub(super) struct SavedConfig {
    pub(super) digest: Digest,
    config: Config,
    layers: Vec<String>,
}

/// Finds the image in what `docker save` wrote; `None` if there is no `manifest.json`.
pub(super) fn saved_config(files: &dyn Files) -> Result<Option<SavedConfig>, SourceError> {
    let Some(list) = files.open("manifest.json")? else { return Ok(None) };
    let images =
        manifest::saved_images(&read(files, "manifest.json", &list)?).map_err(in_manifest(files.place()))?;
    let image = match &images[..] {
        [image] => image,
        [] => return Err(SourceError::damaged(files.place(), "it holds no image")),
        several => {
            let names: Vec<_> =
                several.iter().flat_map(|image| image.repo_tags.iter().flatten().cloned()).collect();
            let reason =
                format!("it holds {} images ({}): save one by itself", several.len(), names.join(", "));
            return Err(SourceError::damaged(files.place(), reason));
        }
    };
    let json = read(files, &image.config, &required(files, &image.config)?)?;
    let digest = Digest::of(&json);
    // The file is named after its digest, in the old form and in the new.
    let name = image.config.rsplit('/').next().unwrap_or_default().trim_end_matches(".json");
    if let Ok(stated) = format!("sha256:{name}").parse::<Digest>()
        && stated != digest
    {
        let reason =
            format!("the configuration has the digest {digest}, but should have {stated}: it is damaged");
        return Err(SourceError::damaged(files.place(), reason));
    }
    let config = Config::parse(&json).map_err(in_manifest(files.place()))?;
    if config.diff_ids.len() != image.layers.len() {
        return Err(SourceError::damaged(
            files.place(),
            "manifest and configuration disagree on the number of layers",
        ));
    }
    Ok(Some(SavedConfig { digest, config, layers: image.layers.clone() }))
}

/// Opens the layers of a saved image.
pub(super) fn saved_image(files: &dyn Files, saved: &SavedConfig) -> Result<Image, SourceError> {
    let layers = saved.layers.iter().zip(&saved.config.diff_ids).map(|(name, diff_id)| {
        let bytes = required(files, name)?;
        let digest = name.strip_prefix("blobs/sha256/").and_then(|hex| format!("sha256:{hex}").parse().ok());
        Ok(Layer { bytes, digest, diff_id: *diff_id, plain: false })
    });
    let layers = layers.collect::<Result<_, SourceError>>()?;
    Ok(Image {
        config: saved.digest,
        created: saved.config.created,
        platform: saved.config.platform.clone(),
        layers,
        origin: files.place(),
        fetching: None,
    })
}

fn blob(files: &dyn Files, descriptor: &Descriptor) -> Result<Bytes, SourceError> {
    required(files, &format!("blobs/sha256/{}", descriptor.digest.hex()))
}

fn required(files: &dyn Files, name: &str) -> Result<Bytes, SourceError> {
    let missing = || SourceError::damaged(files.place(), format!("{name} is missing"));
    files.open(name)?.ok_or_else(missing)
}

fn read(files: &dyn Files, name: &str, bytes: &Bytes) -> Result<Vec<u8>, SourceError> {
    bytes
        .read_all(manifest::LARGEST)
        .map_err(|error| SourceError::damaged(files.place(), format!("{name}: {error}")))
}

/// A small blob whose digest has been checked.
fn checked(files: &dyn Files, descriptor: &Descriptor) -> Result<Vec<u8>, SourceError> {
    let bytes = blob(files, descriptor)?;
    let json = read(files, &descriptor.digest.to_string(), &bytes)?;
    let found = Digest::of(&json);
    if found != descriptor.digest {
        let reason =
            format!("a blob has the digest {found}, but should have {}: it is damaged", descriptor.digest);
        return Err(SourceError::damaged(files.place(), reason));
    }
    Ok(json)
}

/// Where the files of an archive are in it.
#[derive(Debug)]
pub(super) struct ArchiveFiles {
    pub(super) bytes: Bytes,
    pub(super) index: HashMap<String, (u64, u64)>,
    pub(super) place: String,
}

impl Files for ArchiveFiles {
    fn open(&self, name: &str) -> Result<Option<Bytes>, SourceError> {
        let Some(&(at, len)) = self.index.get(name) else { return Ok(None) };
        Ok(Some(match &self.bytes {
            Bytes::File { file, offset, .. } => Bytes::File { file: file.clone(), offset: offset + at, len },
            Bytes::Spool(spool) => {
                let file =
                    spool.file().try_clone().map_err(|error| SourceError::damaged(&self.place, error))?;
                Bytes::File { file: file.into(), offset: at, len }
            }
        }))
    }

    fn place(&self) -> String {
        self.place.clone()
    }
}

impl ArchiveFiles {
    /// Whether the archive reaches as far as its headers say.
    pub(super) fn reaches(&self, end: u64) -> bool {
        end == 0 || matches!(self.bytes.read_at(&mut [0], end - 1), Ok(1))
    }
}
