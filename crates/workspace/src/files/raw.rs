//! Files as they are: download with ranges, upload.

use std::{fs::File, os::unix::fs::FileExt, sync::Arc};

use bytes::Bytes;
use clarateach_seatproto::files::MAX_RAW_BYTES;
use http::{HeaderValue, Method, Response, StatusCode, header};
use http_body_util::BodyExt;
use rustix::io::Errno;

use super::{Files, content::Replacement, http::expected_version, version};
use crate::http::{Answer, Body, Refusal, Request, json};

/// Piece of a download that is read in one go.
const PIECE: u64 = 256 << 10;

/// Sends a file, or the range of it that is asked for (RFC 9110 §14), never to be run by a browser as a page.
pub(super) async fn download(files: &Files, path: String, request: Request) -> Answer {
    let named = path.clone();
    let (file, stat) = files.run(move |root| root.open_file(&named)).await?;
    let size = stat.st_size.unsigned_abs();
    let etag = format!("\"{}\"", version::etag(&stat));
    let header_text = |name| request.headers().get(name).and_then(|v: &HeaderValue| v.to_str().ok());

    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    let value = |text: &str| HeaderValue::from_str(text).map_err(|e| Refusal::internal(&e));
    headers.insert(header::ETAG, value(&etag)?);
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    inert(headers, path.rsplit('/').next().unwrap_or(&path))?;

    if header_text(header::IF_NONE_MATCH).is_some_and(|known| known.split(',').any(|k| k.trim() == etag)) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return Ok(response);
    }
    let range = header_text(header::RANGE)
        .filter(|_| header_text(header::IF_RANGE).is_none_or(|known| known == etag))
        .and_then(|text| parse_range(text, size));
    let (start, end) = match range {
        None => (0, size),
        Some(Ok((start, end))) => {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            let shown = value(&format!("bytes {start}-{}/{size}", end - 1))?;
            response.headers_mut().insert(header::CONTENT_RANGE, shown);
            (start, end)
        }
        Some(Err(())) => {
            let message = format!("the range lies outside the file's {size} bytes");
            let mut refused =
                Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, "INVALID_RANGE", message).into_response();
            refused.headers_mut().insert(header::CONTENT_RANGE, value(&format!("bytes */{size}"))?);
            return Ok(refused);
        }
    };
    let length = end - start;
    response.headers_mut().insert(header::CONTENT_LENGTH, value(&length.to_string())?);
    if *request.method() == Method::HEAD {
        return Ok(response);
    }

    let file = Arc::new(File::from(file));
    let first = read_piece(files, &file, start, length.min(PIECE), &path).await?;
    if first.len() as u64 == length {
        *response.body_mut() = Body::full(first);
        return Ok(response);
    }
    let (sender, body) = Body::stream(Some(length));
    *response.body_mut() = body;
    let files = files.clone();
    tokio::task::spawn_local(async move {
        let mut at = start + first.len() as u64;
        let mut piece = Ok(first);
        loop {
            let broken = matches!(&piece, Ok(bytes) if bytes.is_empty());
            let sent = piece.map_err(|e: Refusal| std::io::Error::other(e));
            let failed = sent.is_err();
            // A file that has become shorter ends the connection, so that nobody takes it for complete.
            let sent = if broken { Err(std::io::ErrorKind::UnexpectedEof.into()) } else { sent };
            if sender.send(sent).await.is_err() || failed || broken || at == end {
                return;
            }
            piece = read_piece(&files, &file, at, (end - at).min(PIECE), &path).await;
            at += piece.as_ref().map_or(0, |p| p.len() as u64);
        }
    });
    Ok(response)
}

async fn read_piece(
    files: &Files,
    file: &Arc<File>,
    at: u64,
    length: u64,
    path: &str,
) -> Result<Bytes, Refusal> {
    let (file, path) = (file.clone(), path.to_owned());
    files
        .run(move |_| {
            let mut piece = vec![0; usize::try_from(length).unwrap_or(0)];
            let mut filled = 0;
            while filled < piece.len() {
                match file.read_at(&mut piece[filled..], at + filled as u64) {
                    Ok(0) => break,
                    Ok(read) => filled += read,
                    Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(e) => {
                        return Err(Refusal::from_errno(
                            Errno::from_io_error(&e).unwrap_or(Errno::IO),
                            &path,
                        ));
                    }
                }
            }
            piece.truncate(filled);
            Ok(piece.into())
        })
        .await
}

/// Headers that keep a learner's file from acting as a page of the site it comes from.
pub(super) fn inert(headers: &mut http::HeaderMap, name: &str) -> Result<(), Refusal> {
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox; default-src 'none'"));
    // RFC 6266 with the encoding of RFC 8187.
    let encoded = percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC);
    let disposition = format!("attachment; filename*=UTF-8''{encoded}");
    let disposition = HeaderValue::from_str(&disposition).map_err(|e| Refusal::internal(&e))?;
    headers.insert(header::CONTENT_DISPOSITION, disposition);
    Ok(())
}

/// One range of bytes as `[start, end)`; none if the header is to be ignored, an error if it lies outside.
fn parse_range(text: &str, size: u64) -> Option<Result<(u64, u64), ()>> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let (first, last) = (first.trim(), last.trim());
    let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u64>().ok())?;
    let (start, end) = match (first, last) {
        ("", last) => (size.saturating_sub(number(last)?), size),
        (first, "") => (number(first)?, size),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return None;
            }
            (first, last.saturating_add(1).min(size))
        }
    };
    Some(if start < end { Ok((start, end)) } else { Err(()) })
}

/// Takes a file as it comes; it replaces the old one once it is complete.
pub(super) async fn upload(files: &Files, path: String, request: Request) -> Answer {
    let expected = expected_version(request.headers())?;
    let declared =
        request.headers().get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|length| length > MAX_RAW_BYTES) {
        return Err(Refusal::too_large(MAX_RAW_BYTES));
    }
    let mut replacement = files.run(move |root| Replacement::begin(root, &path, expected.as_deref())).await?;
    let mut body = request.into_body();
    let mut taken = 0;
    while let Some(frame) = body.frame().await {
        let early = |_| Refusal::new(StatusCode::BAD_REQUEST, "INVALID_BODY", "the body ended early");
        let Ok(piece) = frame.map_err(early)?.into_data() else { continue };
        taken += piece.len() as u64;
        if taken > MAX_RAW_BYTES {
            return Err(Refusal::too_large(MAX_RAW_BYTES));
        }
        replacement = files
            .run(move |_| {
                replacement.append(&piece)?;
                Ok(replacement)
            })
            .await?;
    }
    let (written, is_new) = files.run(move |_| replacement.finish()).await?;
    json(if is_new { StatusCode::CREATED } else { StatusCode::OK }, &written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        assert_eq!(parse_range("bytes=0-3", 10), Some(Ok((0, 4))));
        assert_eq!(parse_range("bytes=4-", 10), Some(Ok((4, 10))));
        assert_eq!(parse_range("bytes=-3", 10), Some(Ok((7, 10))));
        assert_eq!(parse_range("bytes=-30", 10), Some(Ok((0, 10))));
        assert_eq!(parse_range("bytes=8-99", 10), Some(Ok((8, 10))));
        assert_eq!(parse_range("bytes=10-", 10), Some(Err(())));
        assert_eq!(parse_range("bytes=-0", 10), Some(Err(())));
        for ignored in ["bytes=3-2", "lines=1-2", "bytes=a-b", "bytes=0-1,4-5", "bytes=+1-2"] {
            assert_eq!(parse_range(ignored, 10), None, "{ignored}");
        }
    }
}
