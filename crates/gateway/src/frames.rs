//! Where WebSocket frames end (RFC 6455 §5.2), counted along a stream of bytes without looking at payloads.

/// Longest frame header: 2 bytes, 8 of length, 4 of mask.
const MAX_HEADER: usize = 14;
const OPCODE: u8 = 0x0f;
const CLOSE: u8 = 0x08;
const MASKED: u8 = 0x80;

/// Follows one direction of a WebSocket.
#[derive(Debug, Default)]
pub(crate) struct FrameTracker {
    header: [u8; MAX_HEADER],
    seen: usize,
    payload_left: u64,
    closed: bool,
}

impl FrameTracker {
    /// Takes note of the next bytes of the stream.
    pub(crate) fn advance(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.payload_left > 0 {
                let step = usize::try_from(self.payload_left).unwrap_or(usize::MAX).min(bytes.len());
                self.payload_left -= step as u64;
                bytes = &bytes[step..];
                continue;
            }
            self.header[self.seen] = bytes[0];
            self.seen += 1;
            bytes = &bytes[1..];
            if self.seen == self.header_length() {
                self.payload_left = self.payload_length();
                self.closed |= self.header[0] & OPCODE == CLOSE;
                self.seen = 0;
            }
        }
    }

    fn header_length(&self) -> usize {
        if self.seen < 2 {
            return MAX_HEADER + 1;
        }
        let extended = match self.header[1] & !MASKED {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask = if self.header[1] & MASKED != 0 { 4 } else { 0 };
        2 + extended + mask
    }

    fn payload_length(&self) -> u64 {
        let big_endian = |bytes: &[u8]| bytes.iter().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
        match self.header[1] & !MASKED {
            126 => big_endian(&self.header[2..4]),
            127 => big_endian(&self.header[2..10]),
            short => u64::from(short),
        }
    }

    /// How many of the next bytes surely belong to the frame that has begun; 0 between frames.
    pub(crate) const fn inside(&self) -> u64 {
        if self.payload_left > 0 {
            self.payload_left
        } else if self.seen > 0 {
            1
        } else {
            0
        }
    }

    /// Whether a close frame has begun: nothing may be said after it.
    pub(crate) const fn has_closed(&self) -> bool {
        self.closed
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(opcode: u8, length: usize, masked: bool) -> Vec<u8> {
        let mut frame = vec![0x80 | opcode];
        let mask = if masked { MASKED } else { 0 };
        if let Ok(short @ 0..=125) = u8::try_from(length) {
            frame.push(short | mask);
        } else if let Ok(medium) = u16::try_from(length) {
            frame.push(126 | mask);
            frame.extend(medium.to_be_bytes());
        } else {
            frame.push(127 | mask);
            frame.extend((length as u64).to_be_bytes());
        }
        frame.resize(frame.len() + length + if masked { 4 } else { 0 }, 0x88);
        frame
    }

    proptest! {
        #[test]
        fn boundaries_are_where_frames_end_however_the_stream_is_cut(
            frames in prop::collection::vec((0u8..3, prop_oneof![0usize..300, 60_000usize..70_000], any::<bool>()), 1..5),
            cut in 1usize..200,
        ) {
            let mut bytes = Vec::new();
            let mut ends = vec![0];
            for (opcode, length, masked) in frames {
                bytes.extend(frame(opcode, length, masked));
                ends.push(bytes.len());
            }
            let mut tracker = FrameTracker::default();
            let mut at = 0;
            for chunk in bytes.chunks(cut) {
                prop_assert_eq!(tracker.inside() == 0, ends.contains(&at));
                let next_end = ends.iter().find(|end| **end >= at).copied().unwrap_or(at);
                prop_assert!(at as u64 + tracker.inside() <= next_end as u64);
                tracker.advance(chunk);
                at += chunk.len();
            }
            prop_assert_eq!(tracker.inside(), 0);
            prop_assert!(!tracker.has_closed());
            tracker.advance(&frame(CLOSE, 2, false)[..2]);
            prop_assert!(tracker.has_closed());
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
            FrameTracker::default().advance(&bytes);
        }
    }
}
