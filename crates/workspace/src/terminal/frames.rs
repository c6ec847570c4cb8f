//! Encoding of what goes to viewers, decoding of what comes from them.

use clarateach_seatproto::terminal::{
    BINARY_INPUT, BINARY_NUMBERED_INPUT, BINARY_OUTPUT, BINARY_SNAPSHOT, ClientFrame, MAX_SIDE, ServerFrame,
};
use tokio_tungstenite::tungstenite::{Bytes, Message, Utf8Bytes};

use crate::json;

/// How a viewer gets its output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// JSON text frames.
    Text,
    /// Exact bytes.
    Binary,
}

/// A frame from a viewer, checked.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Input { data: Vec<u8>, n: Option<u64> },
    Resize { cols: u16, rows: u16 },
}

/// A refused frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Complaint {
    pub(crate) code: &'static str,
    pub(crate) message: String,
}

impl Complaint {
    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> Complaint {
        Complaint { code, message: message.into() }
    }
}

/// Output as one message: `first` and `second` follow each other in the stream and end at `seq`.
pub(crate) fn output(encoding: Encoding, first: &[u8], second: &[u8], seq: u64, snapshot: bool) -> Message {
    match encoding {
        Encoding::Binary => {
            let mut message = Vec::with_capacity(9 + first.len() + second.len());
            message.push(if snapshot { BINARY_SNAPSHOT } else { BINARY_OUTPUT });
            message.extend_from_slice(&seq.to_be_bytes());
            message.extend_from_slice(first);
            message.extend_from_slice(second);
            Message::Binary(message.into())
        }
        Encoding::Text => {
            let mut frame = Vec::with_capacity(64 + (first.len() + second.len()) * 9 / 8);
            frame.extend_from_slice(br#"{"type":"output","data":""#);
            if second.is_empty() {
                lossy_into(&mut frame, first);
            } else {
                lossy_into(&mut frame, &[first, second].concat());
            }
            frame.extend_from_slice(br#"","seq":"#);
            frame.extend_from_slice(seq.to_string().as_bytes());
            frame.extend_from_slice(if snapshot { br#","snapshot":true}"# } else { b"}" });
            text(frame)
        }
    }
}

/// As [`String::from_utf8_lossy`] reads it. Whole stretches are checked at once: `utf8_chunks` would look at byte by byte.
fn lossy_into(frame: &mut Vec<u8>, mut bytes: &[u8]) {
    loop {
        let wrong = match std::str::from_utf8(bytes) {
            Ok(text) => return json::escape_into(frame, text),
            Err(wrong) => wrong,
        };
        let (valid, rest) = bytes.split_at(wrong.valid_up_to());
        if let Ok(text) = std::str::from_utf8(valid) {
            json::escape_into(frame, text);
        }
        frame.extend_from_slice("\u{fffd}".as_bytes());
        bytes = &rest[wrong.error_len().unwrap_or(rest.len())..];
    }
}

fn text(frame: Vec<u8>) -> Message {
    debug_assert!(std::str::from_utf8(&frame).is_ok());
    // SAFETY: the frame was put together from ASCII, checked stretches of UTF-8 and U+FFFD only; looking through every
    // frame again would cost a tenth of a flood.
    Message::Text(unsafe { Utf8Bytes::from_bytes_unchecked(Bytes::from(frame)) })
}

/// Any other frame.
pub(crate) fn control(frame: &ServerFrame) -> Message {
    Message::Text(serde_json::to_string(frame).expect("frames have string keys only").into())
}

/// Reads a text message.
pub(crate) fn parse_text(text: &str) -> Result<Command, Complaint> {
    let frame: ClientFrame = serde_json::from_str(text).map_err(|e| {
        let takes = r#"{"type":"input","data":"…"} or {"type":"resize","cols":80,"rows":24}"#;
        Complaint::new("MALFORMED_FRAME", format!("{e}; a frame is {takes}"))
    })?;
    match frame {
        ClientFrame::Input { data, n } => Ok(Command::Input { data: data.into_bytes(), n }),
        ClientFrame::Resize { cols, rows } => {
            let (cols, rows) = size(cols, rows)?;
            Ok(Command::Resize { cols, rows })
        }
    }
}

/// Reads a binary message of the binary subprotocol.
pub(crate) fn parse_binary(message: &[u8]) -> Result<Command, Complaint> {
    match message {
        [BINARY_INPUT, data @ ..] => Ok(Command::Input { data: data.to_vec(), n: None }),
        [BINARY_NUMBERED_INPUT, rest @ ..] => match rest.split_first_chunk::<8>() {
            Some((n, data)) => Ok(Command::Input { data: data.to_vec(), n: Some(u64::from_be_bytes(*n)) }),
            None => Err(Complaint::new("MALFORMED_FRAME", "a numbered input has eight bytes of number")),
        },
        [] => Err(Complaint::new("MALFORMED_FRAME", "an empty binary message means nothing")),
        [kind, ..] => {
            Err(Complaint::new("MALFORMED_FRAME", format!("binary messages of kind {kind} are unknown")))
        }
    }
}

/// Checks a terminal size.
pub(crate) fn size(cols: u32, rows: u32) -> Result<(u16, u16), Complaint> {
    let side = |value: u32| u16::try_from(value).ok().filter(|v| (1..=MAX_SIDE).contains(v));
    match (side(cols), side(rows)) {
        (Some(cols), Some(rows)) => Ok((cols, rows)),
        _ => Err(Complaint::new(
            "INVALID_SIZE",
            format!("a terminal has 1 to {MAX_SIDE} columns and rows, not {cols} by {rows}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn output_frames_are_what_serde_would_write(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            cut in 0usize..200,
            seq in any::<u64>(),
            snapshot in any::<bool>(),
        ) {
            let (first, second) = bytes.split_at(cut.min(bytes.len()));
            let Message::Text(frame) = output(Encoding::Text, first, second, seq, snapshot) else { panic!() };
            let data = String::from_utf8_lossy(&bytes).into_owned();
            let expected = ServerFrame::Output { data, seq, snapshot };
            prop_assert_eq!(serde_json::from_str::<ServerFrame>(&frame).unwrap(), expected);
        }

        #[test]
        fn nothing_that_arrives_panics(text in ".{0,60}", bytes in proptest::collection::vec(any::<u8>(), 0..20)) {
            let _ = parse_text(&text);
            let _ = parse_binary(&bytes);
        }
    }

    #[test]
    fn bad_frames_are_named() {
        let code = |text| parse_text(text).unwrap_err().code;
        assert_eq!(code("{"), "MALFORMED_FRAME");
        assert_eq!(code(r#"{"type":"launch"}"#), "MALFORMED_FRAME");
        assert_eq!(code(r#"{"type":"input","data":"x","extra":1}"#), "MALFORMED_FRAME");
        assert_eq!(code(r#"{"type":"resize","cols":0,"rows":24}"#), "INVALID_SIZE");
        assert_eq!(code(r#"{"type":"resize","cols":80,"rows":70000}"#), "INVALID_SIZE");
        assert_eq!(code(r#"{"type":"resize","cols":-1,"rows":24}"#), "MALFORMED_FRAME");
        assert!(parse_binary(&[2, 0, 0]).is_err());
        assert_eq!(parse_binary(&[1, 0xff]), Ok(Command::Input { data: vec![0xff], n: None }));
    }
}
