//! A build from beginning to end.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Instant;

use clarateach_ext4::{Options, Summary, Writer};
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::BuildError;
use crate::inject::{self, Init, Injected};
use crate::layer::cache::Cache;
use crate::layer::unpack::{Fault, LayerError, Unpacking};
use crate::manifest;
use crate::merge::{MOST_LAYERS, Merge};
use crate::progress::Progress;
use crate::publish::{Output, PublishError};
use crate::size::readable;
use crate::source::{self, Found, Image, ImageName};
use crate::stamp;

/// Changes whenever the same input gives other bytes, so that nothing older counts as unchanged.
const FORMAT: u32 = 3;
/// A layer may unpack to four times the size of the filesystem, since higher layers can hide most of it, and this much.
const LAYER_SLACK: u64 = 1 << 30;
/// Bytes of layers after which what was written is sent to the disk.
const SYNC_EVERY: u64 = 16 << 20;

/// What is to be built.
#[derive(Debug)]
pub struct Request {
    /// Where the image comes from.
    pub image: ImageName,
    /// Where the filesystem goes.
    pub output: PathBuf,
    /// Its size in bytes.
    pub size: u64,
    /// What can become its init.
    pub init: Init,
}

/// What was built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The output file.
    pub output: PathBuf,
    /// Where the image came from.
    pub image: String,
    /// Digest of the image's configuration.
    pub digest: String,
    /// Number of its layers.
    pub layers: usize,
    /// Size of the filesystem in bytes.
    pub size: u64,
    /// Bytes of it that are in use.
    pub used: u64,
    /// Inodes in all.
    pub inodes: u64,
    /// Inodes in use.
    pub inodes_used: u64,
    /// What runs as `/sbin/init`; `None` if there is nothing.
    pub init: Option<String>,
    /// Whether nothing had to be done.
    pub unchanged: bool,
    /// Time it took, in milliseconds.
    pub milliseconds: u64,
}

/// Builds, or finds that nothing has changed.
///
/// # Errors
/// [`BuildError`]; the output is as it was before.
pub fn build(
    request: &Request,
    cache: &Cache,
    progress: &Progress,
    interrupted: &AtomicBool,
) -> Result<Report, BuildError> {
    let started = Instant::now();
    let target = Output::resolve(&request.output)?;
    let limit = request.size.saturating_mul(4).saturating_add(LAYER_SLACK);
    let found = source::find(&request.image, cache, limit)?;
    let key = key(request, &found);
    progress.say(|| format!("image {}", found.id));
    if let Some(report) = stamp::unchanged(cache, &target, &key) {
        progress.say(|| "nothing has changed since the last build".to_owned());
        let milliseconds = started.elapsed().as_millis() as u64;
        return Ok(Report { output: request.output.clone(), unchanged: true, milliseconds, ..report });
    }
    let output = Output::create(target.clone())?;
    progress.step("getting the image", None);
    let built = write(request, found.open(cache)?, limit, &output, cache, progress, interrupted);
    let mut report = match built {
        // The damaged layer has been removed from the cache: what it came from is asked again.
        Err(BuildError::Layer(LayerError { fault: Fault::DamagedCache, layer })) => {
            progress
                .say(|| format!("the cached copy of layer {layer} was damaged: starting again without it"));
            let image = source::find(&request.image, cache, limit)?.open(cache)?;
            write(request, image, limit, &output, cache, progress, interrupted)?
        }
        built => built?,
    };
    progress.step("syncing", None);
    output.publish()?;
    report.milliseconds = started.elapsed().as_millis() as u64;
    stamp::write(cache, &target, &key, &report);
    Ok(report)
}

/// A digest of everything that the bytes of the output depend on.
fn key(request: &Request, found: &Found) -> String {
    let part =
        |bytes: &Option<Vec<u8>>| bytes.as_deref().map_or_else(String::new, |bytes| Digest::of(bytes).hex());
    let (script, workspace) = (part(&request.init.script), part(&request.init.workspace));
    let text = format!(
        "{} {FORMAT} {} {} script={script} workspace={workspace}",
        env!("CARGO_PKG_VERSION"),
        found.id,
        request.size
    );
    Digest::of(text.as_bytes()).to_string()
}

fn write(
    request: &Request,
    image: Image,
    limit: u64,
    output: &Output,
    cache: &Cache,
    progress: &Progress,
    interrupted: &AtomicBool,
) -> Result<Report, BuildError> {
    if image.layers.len() > MOST_LAYERS {
        return Err(BuildError::TooManyLayers(image.layers.len()));
    }
    let mut options = Options::new(request.size, image.config.bytes());
    options.label = b"rootfs".to_vec();
    options.created = u32::try_from(image.created.max(0)).unwrap_or(u32::MAX);
    let writer = Writer::new(output.file()?, options)?;

    let unpacking = Unpacking::plan(&image.layers, cache, limit)?;
    let early = output.file()?;
    let (sealed, synced) = std::thread::scope(|scope| {
        for _ in 0..unpacking.workers() {
            scope.spawn(|| unpacking.work(interrupted));
        }
        // What is written goes to the disk while the rest is still being written, so that little is left for the end.
        let (written, syncs) = mpsc::sync_channel(1);
        let syncer = scope.spawn(move || syncs.into_iter().try_for_each(|()| early.sync_data()));
        let merged = merge(writer, &unpacking, progress, interrupted, &written);
        drop(written);
        let sealed = merged.and_then(|merged| seal(merged, request, image.created, progress));
        progress.step("checking digests", None);
        (sealed, syncer.join())
    });
    // A layer that is not what it should be explains a merge that failed.
    if let Some(error) = unpacking.into_error() {
        return Err(error.into());
    }
    if let Ok(Err(source)) = synced {
        return Err(PublishError::Io { operation: "syncing", path: request.output.clone(), source }.into());
    }
    let Sealed { summary, injected, left_out } = sealed?;
    // Not before it has succeeded: a failure is one line.
    for warning in warnings(&image, &left_out, &injected) {
        progress.warn(&warning);
    }
    progress.say(|| format!("{} of {} used", readable(summary.used), readable(summary.size)));
    drop(image.fetching);
    Ok(Report {
        output: request.output.clone(),
        image: image.origin,
        digest: image.config.to_string(),
        layers: image.layers.len(),
        size: summary.size,
        used: summary.used,
        inodes: summary.inodes,
        inodes_used: summary.inodes_used,
        init: injected.init,
        unchanged: false,
        milliseconds: 0,
    })
}

/// An image that is complete but for the checks of its layers.
struct Sealed {
    summary: Summary,
    injected: Injected,
    left_out: BTreeSet<Vec<u8>>,
}

/// Adds the init and what it needs, and ends the image.
fn seal(merge: Merge, request: &Request, created: i64, progress: &Progress) -> Result<Sealed, BuildError> {
    let merged = merge.finish().map_err(|error| BuildError::Merge { layer: 1, error })?;
    let (mut writer, counts) = (merged.writer, merged.counts);
    progress.say(|| {
        format!(
            "{} entries, {} hidden by higher layers, {} whiteouts, {} contained",
            counts.added, counts.hidden, counts.markers, counts.contained
        )
    });
    let injected = inject::inject(&mut writer, merged.kept, created, &request.init)?;
    for line in &injected.said {
        progress.say(|| line.clone());
    }
    progress.step("writing directories and inodes", None);
    let (_, summary) = writer.finish()?;
    Ok(Sealed { summary, injected, left_out: merged.left_out })
}

/// What is worth knowing of an image although it can be built.
fn warnings(image: &Image, left_out: &BTreeSet<Vec<u8>>, injected: &Injected) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(platform) = image.platform.as_ref().filter(|platform| !platform.is_here()) {
        let here = manifest::architecture();
        warnings.push(format!("the image is for {platform}, and this machine is linux/{here}"));
    }
    if !left_out.is_empty() {
        let names: Vec<_> = left_out.iter().map(|name| String::from_utf8_lossy(name)).collect();
        let names = names.join(", ");
        warnings.push(format!("extended attributes that Linux has no place for were left out: {names}"));
    }
    if injected.init.is_none() {
        warnings.push(
            "the image has no /sbin/init and none was added: it boots only with an initramfs that brings one; set \
             WORKSPACE_BIN to the static workspace binary, put it beside rootfs-builder, or give --init-script"
                .to_owned(),
        );
    }
    warnings
}

fn merge(
    writer: Writer,
    unpacking: &Unpacking,
    progress: &Progress,
    interrupted: &AtomicBool,
    written: &mpsc::SyncSender<()>,
) -> Result<Merge, BuildError> {
    let mut merge = Merge::new(writer);
    let count = unpacking.tars.len();
    for (index, tar) in unpacking.tars.iter().enumerate().rev() {
        progress.step(format!("layer {} of {count}", index + 1), tar.bytes().known_len());
        let (mut entries, mut synced) = (0u32, 0);
        let mut keep_going = |position| {
            if position - synced >= SYNC_EVERY {
                synced = position;
                // If it is still busy with the last piece, this one goes with the next.
                let _ = written.try_send(());
            }
            entries = entries.wrapping_add(1);
            if entries.is_multiple_of(256) {
                progress.at(position);
            }
            !interrupted.load(Ordering::Relaxed)
        };
        merge
            .layer(index as u16 + 1, &tar.reader(), &mut keep_going)
            .map_err(|error| BuildError::Merge { layer: index + 1, error })?;
    }
    Ok(merge)
}
