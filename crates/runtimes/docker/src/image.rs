//! Images: whether they are there, what they ask for, and getting them.

use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error;
use bollard::query_parameters::CreateImageOptions;
use clarateach_runtime::{ImageRef, PrepareProgress, ProgressFn, RuntimeError};
use futures_util::StreamExt;

use crate::engine::{Engine, status};

/// The image that ClaraTeach's own script builds. It is never asked of a registry, where anybody could have put one.
pub const DEFAULT_IMAGE: &str = "clarateach-workspace";

/// Where a seat's files are when the image says nothing useful.
const DEFAULT_WORKDIR: &str = "/workspace";

const REGISTRY_PATIENCE: Duration = Duration::from_secs(4);

/// What of an image's configuration matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImageFacts {
    /// Where the learner's files are: the image's WORKDIR, else `/workspace`.
    pub(crate) workdir: String,
}

/// Names come from requests and go into URLs: only what the reference grammar can hold passes.
fn check_name(image: &ImageRef) -> Result<(), RuntimeError> {
    let name = image.0.as_str();
    // An empty part, or one of dots, is another path to the Engine's router, which answers with a redirect.
    let parts_are_fine =
        name.split('/').all(|part| part.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric()));
    let rest_is_fine = name
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/' | b':' | b'@'));
    if parts_are_fine && rest_is_fine && name.len() <= 512 && !name.contains("..") {
        Ok(())
    } else {
        Err(not_found(image, "that is not an image name; one looks like python:3.12-slim"))
    }
}

fn not_found(image: &ImageRef, message: impl Into<String>) -> RuntimeError {
    RuntimeError::ImageNotFound { image: image.clone(), message: message.into() }
}

/// The repository part of a reference, without tag and digest.
fn repository(name: &str) -> &str {
    let name = name.split('@').next().unwrap_or(name);
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => name,
    }
}

fn only_local(image: &ImageRef) -> Result<(), RuntimeError> {
    if repository(&image.0) == DEFAULT_IMAGE {
        let message = "it is not on this machine; build it with scripts/build-workspace-image.sh";
        return Err(not_found(image, message));
    }
    Ok(())
}

/// A missing tag means `latest` to people, and "all of them" to the Engine.
fn with_tag(name: &str) -> String {
    if repository(name) == name { format!("{name}:latest") } else { name.to_owned() }
}

/// What the image on this machine asks for; none if it isn't here.
pub(crate) async fn local(
    engine: &Engine,
    docker: &Docker,
    image: &ImageRef,
) -> Result<Option<ImageFacts>, RuntimeError> {
    check_name(image)?;
    match docker.inspect_image(&image.0).await {
        Ok(found) => {
            let workdir = found.config.and_then(|config| config.working_dir).unwrap_or_default();
            Ok(Some(ImageFacts { workdir: usable_workdir(&workdir) }))
        }
        Err(error) if status(&error) == Some(404) => Ok(None),
        Err(error) if status(&error) == Some(400) => Err(not_found(image, crate::engine::words(&error))),
        Err(error) => Err(engine.failure(format!("inspect image {image}"), &error)),
    }
}

/// A volume can't be mounted on the root, and a relative or dotted path is nobody's.
fn usable_workdir(workdir: &str) -> String {
    let trimmed = workdir.trim_end_matches('/');
    let sound = trimmed.starts_with('/') && trimmed.split('/').all(|part| part != "." && part != "..");
    let kernel_s = ["/proc", "/sys", "/dev"]
        .iter()
        .any(|own| trimmed.strip_prefix(own).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')));
    if sound && !kernel_s { trimmed.to_owned() } else { DEFAULT_WORKDIR.to_owned() }
}

pub(crate) async fn resolve(
    engine: &Engine,
    docker: &Docker,
    image: &ImageRef,
) -> Result<ImageRef, RuntimeError> {
    if local(engine, docker, image).await?.is_some() {
        return Ok(image.clone());
    }
    only_local(image)?;
    let asked = docker.inspect_registry_image(&image.0, None);
    match tokio::time::timeout(REGISTRY_PATIENCE, asked).await {
        Ok(Ok(_)) => Ok(image.clone()),
        Ok(Err(Error::DockerResponseServerError { message, .. })) => {
            Err(not_found(image, format!("it is not on this machine, and its registry says: {message}")))
        }
        Ok(Err(error)) => Err(engine.failure(format!("look for image {image}"), &error)),
        Err(_) => {
            let seconds = REGISTRY_PATIENCE.as_secs();
            let message =
                format!("it is not on this machine, and its registry has not answered within {seconds} s");
            Err(not_found(image, message))
        }
    }
}

/// Pulls the image if it isn't here.
pub(crate) async fn prepare(
    engine: &Engine,
    docker: &Docker,
    image: &ImageRef,
    progress: &ProgressFn,
) -> Result<ImageFacts, RuntimeError> {
    if let Some(facts) = local(engine, docker, image).await? {
        return Ok(facts);
    }
    only_local(image)?;
    let options = CreateImageOptions { from_image: Some(with_tag(&image.0)), ..Default::default() };
    let mut steps = docker.create_image(Some(options), None, None);
    let mut layers = Layers::default();
    while let Some(step) = steps.next().await {
        match step {
            Ok(info) => {
                if let Some(error) = info.error_detail.and_then(|detail| detail.message) {
                    return Err(pull_failure(image, error));
                }
                if let (Some(layer), Some(detail)) = (&info.id, &info.progress_detail) {
                    layers.note(layer, detail.current, detail.total);
                }
                let step = info.status.unwrap_or_default();
                progress(PrepareProgress { step, bytes: layers.sum() });
            }
            Err(
                Error::DockerResponseServerError { message, .. }
                | Error::DockerStreamError { error: message },
            ) => {
                return Err(pull_failure(image, message));
            }
            Err(error) => return Err(engine.failure(format!("pull image {image}"), &error)),
        }
    }
    local(engine, docker, image).await?.ok_or_else(|| not_found(image, "it was pulled, and is gone again"))
}

fn pull_failure(image: &ImageRef, message: String) -> RuntimeError {
    let failed = RuntimeError::Failed { operation: format!("pull image {image}"), message: message.clone() };
    if failed.reason().code == "NO_SPACE" { failed } else { not_found(image, message) }
}

/// Bytes done per layer; an Engine tells about one layer at a time.
#[derive(Default)]
struct Layers(std::collections::HashMap<String, (u64, u64)>);

impl Layers {
    fn note(&mut self, layer: &str, current: Option<i64>, total: Option<i64>) {
        if let (Some(current), Some(total)) = (current, total) {
            let bytes = (u64::try_from(current).unwrap_or(0), u64::try_from(total).unwrap_or(0));
            self.0.insert(layer.to_owned(), bytes);
        }
    }

    fn sum(&self) -> Option<(u64, u64)> {
        if self.0.is_empty() {
            return None;
        }
        Some(self.0.values().fold((0, 0), |(done, all), (d, a)| (done + d.min(a), all + a)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_told_from_ports() {
        for (name, tagged) in [
            ("python", "python:latest"),
            ("python:3.12", "python:3.12"),
            ("localhost:5000/a/b", "localhost:5000/a/b:latest"),
            ("localhost:5000/a/b:c", "localhost:5000/a/b:c"),
            ("a@sha256:00", "a@sha256:00"),
        ] {
            assert_eq!(with_tag(name), tagged);
        }
    }

    #[test]
    fn names_that_would_change_the_url_are_refused() {
        for name in [
            "",
            "../containers/json",
            "a?b",
            "a#b",
            "a b",
            "a\nb",
            "-a",
            "a//b",
            "a/",
            "a/.",
            "a/./b",
            "/a",
            "ü",
        ] {
            let refused = check_name(&ImageRef(name.to_owned()));
            assert!(matches!(refused, Err(RuntimeError::ImageNotFound { .. })), "{name}");
        }
        check_name(&ImageRef("ghcr.io/a/b_c:1.0@sha256:0123".to_owned())).unwrap();
    }

    #[test]
    fn odd_workdirs() {
        for (given, used) in [
            ("", "/workspace"),
            ("/", "/workspace"),
            ("app", "/workspace"),
            ("/a/../..", "/workspace"),
            ("/proc/1", "/workspace"),
            ("/opt/app/", "/opt/app"),
            ("/root", "/root"),
            ("/procedures", "/procedures"),
        ] {
            assert_eq!(usable_workdir(given), used);
        }
    }

    #[test]
    fn the_default_image_never_comes_from_a_registry() {
        for name in ["clarateach-workspace", "clarateach-workspace:latest"] {
            assert!(only_local(&ImageRef(name.to_owned())).is_err());
        }
        only_local(&ImageRef("example.org/clarateach-workspace".to_owned())).unwrap();
    }
}
