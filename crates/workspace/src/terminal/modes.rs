//! The part of a terminal's state that the screen model leaves out but a redraw must restore: mouse reporting,
//! bracketed paste, focus events, keypad, cursor shape, title. Also says when the byte stream is between sequences
//! and whether lines scroll over the whole screen. Sequences as in xterm's ctlseqs.

use std::fmt::Write;

/// DEC private modes that are kept, all off in a fresh terminal.
const KEPT: [u16; 10] = [9, 1000, 1002, 1003, 1004, 1005, 1006, 1015, 2004, 12];
/// Longest title and longest parameter list that are kept.
const LONGEST: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ground,
    Escape,
    /// After ESC and an intermediate such as `(`.
    EscapeIntermediate,
    Csi,
    Osc,
    /// DCS, SOS, PM, APC: ignored up to their terminator.
    Text,
    /// ESC inside OSC or the like: `\` ends it.
    TextEscape,
}

/// A small parser beside the model's.
#[derive(Debug)]
pub(crate) struct Modes {
    state: State,
    collected: Vec<u8>,
    private: [bool; KEPT.len()],
    keypad: bool,
    cursor_style: Option<u16>,
    title: Option<String>,
    margins: bool,
}

impl Modes {
    pub(crate) fn new() -> Modes {
        Modes {
            state: State::Ground,
            collected: Vec::new(),
            private: [false; KEPT.len()],
            keypad: false,
            cursor_style: None,
            title: None,
            margins: false,
        }
    }

    /// Whether no sequence is open.
    pub(crate) fn is_ground(&self) -> bool {
        self.state == State::Ground
    }

    /// Whether a scroll region may be set.
    pub(crate) fn has_margins(&self) -> bool {
        self.margins
    }

    /// Looks at the next bytes of the stream.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        let mut at = 0;
        while at < bytes.len() {
            if self.state == State::Ground {
                match memchr::memchr(0x1b, &bytes[at..]) {
                    Some(escape) => at += escape,
                    None => return,
                }
            }
            self.step(bytes[at]);
            at += 1;
        }
    }

    fn step(&mut self, byte: u8) {
        self.state = match (self.state, byte) {
            (State::Osc | State::Text, 0x1b) => State::TextEscape,
            (State::TextEscape, b'\\') => {
                self.end_osc();
                State::Ground
            }
            (_, 0x1b) => {
                self.collected.clear();
                State::Escape
            }
            (_, 0x18 | 0x1a) | (State::Ground, _) => State::Ground,
            (State::TextEscape, _) => {
                self.collected.clear();
                return self.step_escape(byte);
            }
            (State::Escape, _) => return self.step_escape(byte),
            (State::EscapeIntermediate, 0x20..=0x2f) => State::EscapeIntermediate,
            (State::EscapeIntermediate, _) => State::Ground,
            (State::Csi, 0x40..=0x7e) => {
                self.end_csi(byte);
                State::Ground
            }
            (State::Csi, _) => {
                self.collect(byte);
                State::Csi
            }
            (State::Osc, 0x07) => {
                self.end_osc();
                State::Ground
            }
            (State::Osc, _) => {
                self.collect(byte);
                State::Osc
            }
            (State::Text, _) => State::Text,
        };
    }

    fn step_escape(&mut self, byte: u8) {
        self.state = match byte {
            b'[' => State::Csi,
            b']' => State::Osc,
            b'P' | b'X' | b'^' | b'_' => State::Text,
            0x20..=0x2f => State::EscapeIntermediate,
            b'=' | b'>' => {
                self.keypad = byte == b'=';
                State::Ground
            }
            b'c' => {
                *self = Modes { title: self.title.take(), ..Modes::new() };
                State::Ground
            }
            _ => State::Ground,
        };
    }

    fn collect(&mut self, byte: u8) {
        if self.collected.len() < LONGEST {
            self.collected.push(byte);
        }
    }

    fn end_csi(&mut self, last: u8) {
        let collected = std::mem::take(&mut self.collected);
        let text = String::from_utf8_lossy(&collected);
        match (text.as_bytes(), last) {
            ([b'?', ..], b'h' | b'l') => {
                for mode in text[1..].split(';').filter_map(|m| m.parse::<u16>().ok()) {
                    if let Some(kept) = KEPT.iter().position(|k| *k == mode) {
                        self.private[kept] = last == b'h';
                    }
                }
            }
            ([.., b'!'], b'p') => *self = Modes { title: self.title.take(), ..Modes::new() },
            ([.., b' '], b'q') => self.cursor_style = text.trim_end().parse().ok(),
            (_, b'r') if !text.starts_with('?') => self.margins = !text.is_empty(),
            _ => {}
        }
    }

    fn end_osc(&mut self) {
        let collected = std::mem::take(&mut self.collected);
        if let [b'0' | b'2', b';', title @ ..] = &collected[..] {
            let title: String = String::from_utf8_lossy(title).chars().filter(|c| !c.is_control()).collect();
            self.title = Some(title);
        }
    }

    /// Appends what restores these modes in a terminal that was just reset.
    pub(crate) fn restore_into(&self, out: &mut String) {
        for (mode, _) in KEPT.iter().zip(self.private).filter(|(_, on)| *on) {
            let _ = write!(out, "\x1b[?{mode}h");
        }
        if self.keypad {
            out.push_str("\x1b=");
        }
        if let Some(style) = self.cursor_style {
            let _ = write!(out, "\x1b[{style} q");
        }
        if let Some(title) = &self.title {
            let _ = write!(out, "\x1b]2;{title}\x07");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn restored(input: &str) -> String {
        let mut modes = Modes::new();
        modes.feed(input.as_bytes());
        let mut out = String::new();
        modes.restore_into(&mut out);
        out
    }

    #[test]
    fn modes_are_restored() {
        assert_eq!(restored("x\x1b[?2004hy\x1b[?1002;1006h"), "\x1b[?1002h\x1b[?1006h\x1b[?2004h");
        assert_eq!(restored("\x1b[?2004h\x1b[?2004l"), "");
        assert_eq!(restored("\x1b=\x1b[5 q\x1b]0;top\x1b\\"), "\x1b=\x1b[5 q\x1b]2;top\x07");
        assert_eq!(restored("\x1b[?2004h\x1bc"), "");
        assert_eq!(restored("\x1b]2;a\x1b[?1000h"), "\x1b[?1000h");
    }

    #[test]
    fn knows_where_sequences_end() {
        let mut modes = Modes::new();
        modes.feed(b"\x1b[31m");
        assert!(modes.is_ground());
        modes.feed(b"\x1b]0;half");
        assert!(!modes.is_ground());
        modes.feed(b"\x07\x1b[2;5r");
        assert!(modes.is_ground() && modes.has_margins());
        modes.feed(b"\x1b[r");
        assert!(!modes.has_margins());
    }
}
