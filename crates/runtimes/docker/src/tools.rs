//! How `workspace` gets into a container of any image: a read-only volume named after the content of the binary.
//!
//! The volume is filled through the Engine's archive API, on a container that is never started, so that it works from
//! wherever the Engine can be reached: there is no path that both have to agree on.

use std::io;
use std::path::{Path, PathBuf};

use bollard::Docker;
use bollard::models::{
    ContainerCreateBody, HostConfig, Mount, MountType, MountVolumeOptions, VolumeCreateRequest,
};
use bollard::query_parameters::{
    ContainerArchiveInfoOptions, ListContainersOptions, ListVolumesOptions, RemoveContainerOptions,
    RemoveVolumeOptions, UploadToContainerOptions,
};
use bytes::Bytes;
use clarateach_runtime::{ImageRef, RuntimeError};
use tokio::sync::Mutex;

use crate::container::TOOLS_DIRECTORY;
use crate::engine::{Engine, status};
use crate::naming::{Naming, Role};

#[derive(Debug, Clone)]
struct Binary {
    bytes: Bytes,
    digest: String,
}

/// The volume and its making.
#[derive(Debug)]
pub(crate) struct Tools {
    binary: PathBuf,
    /// The volume that was made or checked by this process, and the binary's mark on disk at that time.
    ready: Mutex<Option<(String, Mark)>>,
}

/// Tells a rebuilt binary from the one that was read.
type Mark = (u64, Option<std::time::SystemTime>);

impl Tools {
    pub(crate) fn new(binary: PathBuf) -> Self {
        Self { binary, ready: Mutex::new(None) }
    }

    /// The name of the volume, which is there and full when this returns. `image` is any image on the host.
    pub(crate) async fn ensure(
        &self,
        engine: &Engine,
        docker: &Docker,
        naming: &Naming,
        image: &ImageRef,
    ) -> Result<String, RuntimeError> {
        let mut ready = self.ready.lock().await;
        let mark = mark(&self.binary).await.map_err(|error| unreadable(&self.binary, &error))?;
        if let Some((volume, seen)) = &*ready
            && *seen == mark
        {
            return Ok(volume.clone());
        }
        let binary = read(&self.binary).await.map_err(|error| unreadable(&self.binary, &error))?;
        let volume = naming.tools(&binary.digest);
        fill(engine, docker, naming, image, &volume, &binary).await?;
        *ready = Some((volume.clone(), mark));
        Ok(volume)
    }

    /// The next [`Tools::ensure`] looks again.
    pub(crate) async fn doubt(&self) {
        *self.ready.lock().await = None;
    }

    /// Removes what nobody uses: volumes of other binaries, half-done fillings and, when `idle` says that there is no
    /// seat left, the current volume too.
    pub(crate) async fn tidy(
        &self,
        engine: &Engine,
        docker: &Docker,
        naming: &Naming,
        idle: impl Fn() -> bool,
    ) -> Result<(), RuntimeError> {
        // Held throughout: nobody fills a volume meanwhile, so every filler that is there is a leftover.
        let mut ready = self.ready.lock().await;
        let options =
            ListContainersOptions { all: true, filters: Some(naming.all(Role::Tools)), ..Default::default() };
        let fillers = docker
            .list_containers(Some(options))
            .await
            .map_err(|error| engine.failure("list helper containers", &error))?;
        for id in fillers.into_iter().filter_map(|filler| filler.id) {
            discard(docker, &id)
                .await
                .map_err(|error| engine.failure("remove a helper container", &error))?;
        }
        let options = ListVolumesOptions { filters: Some(naming.all(Role::Tools)) };
        let volumes = docker
            .list_volumes(Some(options))
            .await
            .map_err(|error| engine.failure("list tool volumes", &error))?;
        for volume in volumes.volumes.unwrap_or_default() {
            let current = ready.as_ref().is_some_and(|(name, _)| *name == volume.name);
            if current && !idle() {
                continue;
            }
            match docker.remove_volume(&volume.name, None::<RemoveVolumeOptions>).await {
                Ok(()) if current => *ready = None,
                Ok(()) => {}
                // Still mounted by a seat that was made with an older binary.
                Err(error) if matches!(status(&error), Some(404 | 409)) => {}
                Err(error) => return Err(engine.failure(format!("remove volume {}", volume.name), &error)),
            }
        }
        Ok(())
    }
}

fn unreadable(path: &Path, error: &io::Error) -> RuntimeError {
    RuntimeError::Failed {
        operation: format!("read the workspace binary {}", path.display()),
        message: error.to_string(),
    }
}

async fn mark(path: &Path) -> io::Result<Mark> {
    let metadata = tokio::fs::metadata(path).await?;
    Ok((metadata.len(), metadata.modified().ok()))
}

async fn read(path: &Path) -> io::Result<Binary> {
    let bytes = Bytes::from(tokio::fs::read(path).await?);
    if asks_for_an_interpreter(&bytes) {
        let message =
            "it is not static, so it can't run in every image; scripts/build-workspace.sh makes one that is";
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    let digest = blake3::hash(&bytes).to_hex()[..16].to_owned();
    Ok(Binary { bytes, digest })
}

/// Whether a 64-bit little-endian ELF file has a PT_INTERP program header, see elf(5).
fn asks_for_an_interpreter(elf: &[u8]) -> bool {
    const PT_INTERP: [u8; 4] = [3, 0, 0, 0];
    let number = |at: usize, length: usize| {
        let bytes = elf.get(at..at + length)?;
        Some(bytes.iter().rev().fold(0usize, |number, byte| (number << 8) | usize::from(*byte)))
    };
    let (Some(table), Some(size), Some(count)) = (number(32, 8), number(54, 2), number(56, 2)) else {
        return false;
    };
    (0..count).any(|n| {
        elf.get(table.saturating_add(n * size)..).is_some_and(|header| header.starts_with(&PT_INTERP))
    })
}

async fn fill(
    engine: &Engine,
    docker: &Docker,
    naming: &Naming,
    image: &ImageRef,
    volume: &str,
    binary: &Binary,
) -> Result<(), RuntimeError> {
    let labels = naming.tools_labels();
    let request = VolumeCreateRequest {
        name: Some(volume.to_owned()),
        labels: Some(labels.clone()),
        ..Default::default()
    };
    docker
        .create_volume(request)
        .await
        .map_err(|error| engine.failure(format!("create volume {volume}"), &error))?;
    let mount = Mount {
        typ: Some(MountType::VOLUME),
        source: Some(volume.to_owned()),
        target: Some(TOOLS_DIRECTORY.to_owned()),
        volume_options: Some(MountVolumeOptions { no_copy: Some(true), ..Default::default() }),
        ..Default::default()
    };
    let filler = ContainerCreateBody {
        image: Some(image.0.clone()),
        entrypoint: Some(vec!["never-started".to_owned()]),
        labels: Some(labels),
        network_disabled: Some(true),
        host_config: Some(HostConfig { mounts: Some(vec![mount]), ..Default::default() }),
        ..Default::default()
    };
    let filler = docker
        .create_container(None, filler)
        .await
        .map_err(|error| engine.failure("create a container to fill the tools volume", &error))?;
    let outcome = upload(docker, &filler.id, binary).await;
    let discarded = discard(docker, &filler.id).await;
    outcome.map_err(|error| engine.failure("put workspace into its volume", &error))?;
    discarded.map_err(|error| engine.failure("remove the container that filled the tools volume", &error))
}

async fn upload(docker: &Docker, filler: &str, binary: &Binary) -> Result<(), bollard::errors::Error> {
    let path = format!("{TOOLS_DIRECTORY}/workspace");
    let options = ContainerArchiveInfoOptions { path };
    let there = docker.get_container_archive_info(filler, Some(options)).await;
    let whole = there.is_ok_and(|file| u64::try_from(file.size) == Ok(binary.bytes.len() as u64));
    if whole {
        return Ok(());
    }
    let options = UploadToContainerOptions { path: TOOLS_DIRECTORY.to_owned(), ..Default::default() };
    let archive = archive(&binary.bytes)?;
    docker.upload_to_container(filler, Some(options), bollard::body_full(archive.into())).await
}

fn archive(binary: &[u8]) -> io::Result<Vec<u8>> {
    let mut header = tar::Header::new_gnu();
    header.set_size(binary.len() as u64);
    header.set_mode(0o755);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    let mut archive = tar::Builder::new(Vec::with_capacity(binary.len() + 4096));
    archive.append_data(&mut header, "workspace", binary)?;
    archive.into_inner()
}

async fn discard(docker: &Docker, container: &str) -> Result<(), bollard::errors::Error> {
    let options = RemoveContainerOptions { force: true, v: true, link: false };
    match docker.remove_container(container, Some(options)).await {
        Err(error) if status(&error) != Some(404) => Err(error),
        _ => Ok(()),
    }
}
