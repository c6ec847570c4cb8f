//! The command line.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::{Parser, ValueEnum};

use crate::build::{self, Report, Request};
use crate::error::BuildError;
use crate::inject::Init;
use crate::layer::cache::Cache;
use crate::progress::Progress;
use crate::size::{Size, readable};
use crate::source::{self, ImageName};

/// Turns a container image into an ext4 root filesystem for a microVM.
///
/// Needs no root, no loop device, no mount and no e2fsprogs. Equal images give equal bytes.
#[derive(Debug, Parser)]
#[command(name = "rootfs-builder", version)]
pub struct Arguments {
    /// Image: a name in the Docker daemon or else in a registry, oci:DIR[:TAG], docker-archive:FILE, docker:NAME (daemon
    /// only) or docker://NAME (registry only). With --dockerfile: the name that the built image gets
    #[arg(long, value_name = "NAME", required_unless_present = "dockerfile")]
    pub image: Option<String>,

    /// Dockerfile that the Docker daemon builds first; its directory is the context
    #[arg(long, value_name = "PATH")]
    pub dockerfile: Option<PathBuf>,

    /// Output file; what is there is replaced in one step when everything has succeeded
    #[arg(long, value_name = "FILE")]
    pub output: PathBuf,

    /// Size of the filesystem, with K, M, G or T
    #[arg(long, value_name = "SIZE", default_value = "2G")]
    pub size: Size,

    /// File that becomes /sbin/init
    #[arg(long, value_name = "PATH")]
    pub init_script: Option<PathBuf>,

    /// Say what is being done
    #[arg(long)]
    pub verbose: bool,

    /// How the result is printed to standard output
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// How the result is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A line for people.
    Text,
    /// One JSON object.
    Json,
}

/// Does what the command line says; returns what to print.
///
/// # Errors
/// [`BuildError`].
pub fn run(arguments: &Arguments, interrupted: &Arc<AtomicBool>) -> Result<String, BuildError> {
    let progress = Progress::new(arguments.verbose);
    let result = run_with(arguments, &progress, interrupted);
    progress.done();
    result.map(|report| match arguments.format {
        Format::Json => serde_json::to_string(&report).unwrap_or_default(),
        Format::Text => text(&report),
    })
}

fn run_with(
    arguments: &Arguments,
    progress: &Progress,
    interrupted: &AtomicBool,
) -> Result<Report, BuildError> {
    let init = Init::load(arguments.init_script.as_deref())?;
    // What would be refused at the end is refused before a build of minutes.
    crate::publish::Output::resolve(&arguments.output)?;
    let image: ImageName = match (&arguments.dockerfile, &arguments.image) {
        (Some(dockerfile), name) => {
            progress.step("building the Dockerfile", None);
            source::build_dockerfile(dockerfile, name.as_deref(), arguments.verbose)?
        }
        (None, name) => name.as_deref().unwrap_or_default().parse()?,
    };
    let request = Request { image, output: arguments.output.clone(), size: arguments.size.0, init };
    build::build(&request, &Cache::from_environment(), progress, interrupted)
}

fn text(report: &Report) -> String {
    let state = if report.unchanged { "unchanged" } else { "built" };
    format!(
        "{}: {state}, {} used of {}, {} of {} inodes, init: {}, {:.2} s",
        report.output.display(),
        readable(report.used),
        readable(report.size),
        report.inodes_used,
        report.inodes,
        report.init.as_deref().unwrap_or("none"),
        report.milliseconds as f64 / 1000.0
    )
}
