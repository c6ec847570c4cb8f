//! Getting an image ready, followed line by line.

use std::time::Duration;

use clarateach_api::agent::{ImageBody, PrepareImage, PrepareStep};
use clarateach_runtime::{ImageRef, PrepareProgress, RuntimeError};
use http::{Method, StatusCode};
use reqwest::Response;
use serde::Deserialize;

use crate::calls::Calls;
use crate::refusal::{Refusal, Subject, in_words, incompatible};

/// A step may take this long without a word, as a guest's first boot does where it is emulated.
const QUIET_AT_MOST: Duration = Duration::from_secs(600);
/// No line is longer.
const LINE_LIMIT: usize = 64 * 1024;

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Line {
    Step(PrepareStep),
    Refused(Refusal),
    Done(ImageBody),
}

pub(crate) async fn prepare(
    calls: &Calls,
    image: &ImageRef,
    progress: &(dyn Fn(PrepareProgress) + Send + Sync),
) -> Result<(), RuntimeError> {
    let subject = Subject::image(image);
    let wish = PrepareImage { image: image.0.clone() };
    let away = |why: &str| RuntimeError::Unavailable { message: format!("worker {}: {why}", calls.address) };
    let quiet = |_| away("it does not answer in time");
    let asked = calls.send(Method::POST, "/images", Some(&wish), "application/x-ndjson", None);
    let response = tokio::time::timeout(QUIET_AT_MOST, asked).await.map_err(quiet)??;
    let mut lines = Lines { response: calls.accepted(response, &subject, None).await?, read: Vec::new() };
    loop {
        let line = tokio::time::timeout(QUIET_AT_MOST, lines.next(calls)).await.map_err(quiet)??;
        let Some(line) = line else { return Err(away("its answer broke off")) };
        match serde_json::from_slice(&line) {
            Ok(Line::Step(PrepareStep { step, done, total })) => {
                progress(PrepareProgress { step, bytes: done.zip(total) });
            }
            Ok(Line::Done(ImageBody { image: ready })) => {
                tracing::debug!(%image, ready, "an image is ready on a worker");
                return Ok(());
            }
            Ok(Line::Refused(refusal)) => {
                // The status of a failure that comes late is the code's own.
                return Err(in_words(&calls.address, StatusCode::OK, refusal, &subject, None));
            }
            Err(_) => return Err(incompatible(&calls.address, "images: a line of progress is none")),
        }
    }
}

struct Lines {
    response: Response,
    read: Vec<u8>,
}

impl Lines {
    /// The next line without its end; none after the last.
    async fn next(&mut self, calls: &Calls) -> Result<Option<Vec<u8>>, RuntimeError> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let rest = self.read.split_off(end + 1);
                let mut line = std::mem::replace(&mut self.read, rest);
                line.pop();
                return Ok(Some(line));
            }
            if self.read.len() > LINE_LIMIT {
                return Err(incompatible(&calls.address, "images: a line of progress has no end"));
            }
            match self.response.chunk().await.map_err(|error| calls.away(error))? {
                Some(chunk) => self.read.extend_from_slice(&chunk),
                // A line that was not ended has broken off.
                None => return Ok(None),
            }
        }
    }
}
