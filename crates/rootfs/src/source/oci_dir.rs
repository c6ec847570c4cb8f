//! OCI image layouts in a directory.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::layout::{self, Files};
use super::{Found, SourceError};
use crate::layer::blob::Bytes;

struct Directory(PathBuf);

impl Files for Directory {
    fn open(&self, name: &str) -> Result<Option<Bytes>, SourceError> {
        let path = self.0.join(name);
        match File::open(&path).and_then(Bytes::whole) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(SourceError::File { path, source }),
        }
    }

    fn place(&self) -> String {
        format!("oci:{}", self.0.display())
    }
}

/// Finds an image in a layout; only manifests are read.
pub(super) fn find(path: &Path, tag: Option<&str>) -> Result<Found, SourceError> {
    if !path.is_dir() {
        let place = "(there is no such directory)".to_owned();
        return Err(SourceError::NotFound { name: format!("oci:{}", path.display()), place });
    }
    let files = Directory(path.to_owned());
    let manifest = layout::oci_manifest(&files, tag)?;
    Ok(Found::new(manifest.config.digest, move |_| layout::oci_image(&files, &manifest)))
}
