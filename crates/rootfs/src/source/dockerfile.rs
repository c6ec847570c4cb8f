//! Dockerfiles, built by the Docker daemon.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use super::{ImageName, SourceError};
use crate::interrupt::{TemporaryPath, output_of};

/// Builds a Dockerfile, its directory being the context, and says which image came of it. With a name, the image gets it.
///
/// The `docker` command does it, because it is the one that knows how to read `.dockerignore` and which builder is there.
/// What it prints goes to standard error if `verbose`.
///
/// # Errors
/// [`SourceError::Docker`] with the last lines of what the build printed.
pub fn build(dockerfile: &Path, name: Option<&str>, verbose: bool) -> Result<ImageName, SourceError> {
    let failed = |reason: String| SourceError::Docker {
        operation: format!("building {}", dockerfile.display()),
        reason,
    };
    if !dockerfile.is_file() {
        let place = "(there is no such file)".to_owned();
        return Err(SourceError::NotFound { name: dockerfile.display().to_string(), place });
    }
    let context = match dockerfile.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let (scratch, ()) = TemporaryPath::made(|| tempfile::tempdir().map(|made| (made.keep(), ())))
        .map_err(|error| failed(error.to_string()))?;
    let id_file = scratch.path().join("id");
    let mut command = Command::new("docker");
    command.arg("build").arg("--file").arg(dockerfile).arg("--iidfile").arg(&id_file);
    if let Some(name) = name {
        command.args(["--tag", name]);
    }
    command.arg(context).stdin(Stdio::null());
    if verbose {
        // Progress is for people; standard output is for what scripts read.
        command.stdout(std::io::stderr()).stderr(Stdio::inherit());
    } else {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
    }
    let output = output_of(&mut command).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            failed("the docker command is needed for --dockerfile: install it".to_owned())
        }
        _ => failed(error.to_string()),
    })?;
    if !output.status.success() {
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        let tail: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let tail = tail[tail.len().saturating_sub(3)..].join(" | ");
        let hint = if verbose { "see above" } else { "--verbose shows all of it" };
        return Err(failed(format!("docker build failed ({}; {hint}): {tail}", output.status)));
    }
    let id = fs::read_to_string(&id_file)
        .map_err(|error| failed(format!("docker build named no image: {error}")))?;
    Ok(ImageName::Daemon(id.trim().to_owned()))
}
