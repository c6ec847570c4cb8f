//! Images of a Docker daemon, through the Engine API.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error as DockerError;
use futures_util::StreamExt;

use super::{Found, Image, SourceError, archive, graph, not_a_digest};
use crate::layer::cache::Cache;
use crate::layer::spool::Spool;

/// For the daemon to answer a question; sending an image has no limit as long as something comes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Looks an image up.
pub(super) fn find(name: &str) -> Result<Found, SourceError> {
    let runtime = runtime()?;
    let docker = connect()?;
    let inspected =
        runtime.block_on(async { tokio::time::timeout(PATIENCE, docker.inspect_image(name)).await });
    let inspected = inspected.map_err(|_| no_daemon("it does not answer".to_owned()))?;
    let image =
        inspected.map_err(|error| failed(&format!("looking up {name} in the Docker daemon"), name, error))?;
    let text = image.id.unwrap_or_default();
    let id = text.parse().map_err(not_a_digest("the Docker daemon's id of the image"))?;
    let place = format!("docker:{name}");
    // By id from here on: the name may mean something else in a moment.
    Ok(Found::new(id, move |cache| open(&runtime, &docker, &text, place, cache)))
}

fn open(
    runtime: &tokio::runtime::Runtime,
    docker: &Docker,
    id: &str,
    place: String,
    cache: &Cache,
) -> Result<Image, SourceError> {
    if let Some(image) = store(runtime, docker).and_then(|root| {
        let id = id.parse().ok()?;
        graph::open(&root, &id, &place, cache)
    }) {
        return Ok(image);
    }
    let file = cache.nameless_file().map_err(SourceError::NoRoom)?;
    let spool = Arc::new(Spool::new(file));
    runtime.block_on(async {
        let mut stream = docker.export_image(id);
        while let Some(piece) = stream.next().await {
            let piece = piece.map_err(|error| failed(&format!("getting {place}"), id, error))?;
            spool.append(&piece).map_err(SourceError::NoRoom)?;
        }
        Ok(())
    })?;
    spool.finish(Ok(()));
    archive::open_spool(spool, place)
}

/// The directory of the daemon's overlay2 store, if it is a daemon of this machine and has one.
fn store(runtime: &tokio::runtime::Runtime, docker: &Docker) -> Option<PathBuf> {
    let address = std::env::var("DOCKER_HOST").unwrap_or_default();
    if !address.is_empty() && !address.starts_with("unix://") {
        return None;
    }
    let info = runtime.block_on(async { tokio::time::timeout(PATIENCE, docker.info()).await }).ok()?.ok()?;
    (info.driver.as_deref() == Some("overlay2")).then_some(info.docker_root_dir?.into())
}

fn connect() -> Result<Docker, SourceError> {
    Docker::connect_with_defaults().map_err(|error| no_daemon(error.to_string()))
}

fn runtime() -> Result<tokio::runtime::Runtime, SourceError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| SourceError::Docker {
        operation: "preparing to talk to the Docker daemon".to_owned(),
        reason: error.to_string(),
    })
}

fn no_daemon(reason: String) -> SourceError {
    let address = std::env::var("DOCKER_HOST").ok().filter(|address| !address.is_empty());
    SourceError::NoDaemon {
        address: address.unwrap_or_else(|| "unix:///var/run/docker.sock".to_owned()),
        reason,
    }
}

fn failed(operation: &str, name: &str, error: DockerError) -> SourceError {
    match error {
        DockerError::DockerResponseServerError { status_code: 404, .. } => SourceError::NotFound {
            name: name.to_owned(),
            place: "in the Docker daemon (`docker images` lists what it has)".to_owned(),
        },
        DockerError::DockerResponseServerError { message, .. } => {
            SourceError::Docker { operation: operation.to_owned(), reason: message }
        }
        other => no_daemon(chain(&other)),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut at = error.source();
    while let Some(source) = at {
        let reason = source.to_string();
        if !text.contains(&reason) {
            text = format!("{text}: {reason}");
        }
        at = source.source();
    }
    text
}
