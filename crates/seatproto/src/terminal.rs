//! The terminal protocol: JSON text frames over a WebSocket at `/terminal`, and a binary subprotocol for speed.
//!
//! A terminal's output is one stream of bytes for as long as the seat lives; **`seq` is a position in it, in bytes**.
//! Every output frame carries the position *after* its data, so a client that reconnects with `since` set to the last
//! `seq` it saw misses nothing. What lies further back than [`REPLAY_BYTES`] is redrawn from the screen model instead:
//! an output frame with `"snapshot":true` whose data resets the terminal and paints it, so that a client which merely
//! writes `data` into its emulator is right in both cases.
//!
//! **Text frames** (no subprotocol, or [`TEXT_PROTOCOL`]): [`ClientFrame`] in, [`ServerFrame`] out. UTF-8 is never
//! split between frames; bytes that are not UTF-8 become U+FFFD.
//!
//! **Binary frames** ([`BINARY_PROTOCOL`]): output comes as binary messages of one byte [`BINARY_OUTPUT`] or
//! [`BINARY_SNAPSHOT`], `seq` as eight bytes big-endian, then the exact bytes. Input may be sent as a binary message
//! [`BINARY_INPUT`] + bytes, or [`BINARY_NUMBERED_INPUT`] + `n` as eight bytes big-endian + bytes. Everything else
//! stays a JSON text frame as above.

//!
//! **Query** of `/terminal`, all optional:
//!
//! | parameter | takes | means |
//! |---|---|---|
//! | `id` | a terminal's number | which one; 1 when missing, which is opened if it isn't there. One whose shell has exited gets a fresh shell, unless `since` asks for the rest of the old one |
//! | `since` | a position | go on after it |
//! | `epoch` | the `epoch` of the last hello | whose positions these are; of another one, the terminal says that its shell is new |
//! | `mode` | `edit`, `view` | `view` never types, sizes or makes the program wait |
//! | `client` | up to 64 characters | names the client over reconnects: input whose `n` was taken from it already is acknowledged and not typed again |
//!
//! **Close codes**: 1000 after `exit`, 1002 a frame against RFC 6455, 1007 text that is no UTF-8, 1008 a thousand bad
//! frames, 1009 a message of more than four times [`MAX_INPUT_BYTES`], 4422 no terminal could be had (an error frame such as
//! `NO_SHELL` comes first).
//!
//! The server pings behind its output and takes the pongs for how far the client has read, so that at most a few
//! milliseconds of output are under way and Ctrl-C is seen at once. Clients that never answer pings are served all the
//! same, limited by their socket only.

use serde::{Deserialize, Serialize};

/// Subprotocol of the JSON frames; the same as offering none.
pub const TEXT_PROTOCOL: &str = "clarateach.terminal.v1";
/// Subprotocol with exact bytes; preferred when both are offered.
pub const BINARY_PROTOCOL: &str = "clarateach.terminal.v1+binary";

/// First byte of a binary output message: `[0x01][seq: u64 BE][bytes]`.
pub const BINARY_OUTPUT: u8 = 0x01;
/// First byte of a binary redraw: `[0x02][seq: u64 BE][bytes]`.
pub const BINARY_SNAPSHOT: u8 = 0x02;
/// First byte of binary input: `[0x01][bytes]`.
pub const BINARY_INPUT: u8 = 0x01;
/// First byte of binary input that wants an ack: `[0x02][n: u64 BE][bytes]`.
pub const BINARY_NUMBERED_INPUT: u8 = 0x02;

/// How many bytes of output can be replayed exactly by `since`.
pub const REPLAY_BYTES: usize = 1 << 20;
/// The largest input message, in bytes of the message.
pub const MAX_INPUT_BYTES: usize = 1 << 20;
/// Input accepted for a program that doesn't read it, in bytes; more is refused with `INPUT_OVERFLOW`.
pub const MAX_PENDING_INPUT_BYTES: usize = 1 << 20;
/// Largest number of columns, and of rows.
pub const MAX_SIDE: u16 = 1000;

/// What a client sends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub enum ClientFrame {
    /// Keys or pasted text for the program in the terminal.
    Input {
        /// The text.
        data: String,
        /// Number for the ack; must grow within one `client`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        n: Option<u64>,
    },
    /// The client's size; the terminal takes it if this client is the writer, now or later.
    Resize {
        /// Columns, 1 to [`MAX_SIDE`].
        cols: u32,
        /// Rows, 1 to [`MAX_SIDE`].
        rows: u32,
    },
}

/// What a client receives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum ServerFrame {
    /// The first frame.
    Hello {
        /// The terminal's number.
        id: u32,
        /// Position after which output follows.
        seq: u64,
        /// Names this run of the workspace: positions of another epoch mean nothing.
        epoch: String,
        /// Columns now.
        cols: u16,
        /// Rows now.
        rows: u16,
        /// Whether this client sets the size and exerts back-pressure.
        writer: bool,
        /// The last input number taken from this `client`, if it gave one and is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        n: Option<u64>,
    },
    /// Output of the terminal.
    Output {
        /// What to write to the emulator.
        data: String,
        /// Position after this data.
        seq: u64,
        /// Whether the data resets and redraws the terminal.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        snapshot: bool,
    },
    /// The numbered input has been taken and will not be lost with the connection.
    Ack {
        /// The input's number.
        n: u64,
    },
    /// The terminal's size or this client's part in it changed.
    Size {
        /// Columns.
        cols: u16,
        /// Rows.
        rows: u16,
        /// Whether this client is now the writer.
        writer: bool,
    },
    /// The shell ended; all of its output has been sent before. The connection closes with 1000.
    Exit {
        /// Exit status, or 128 + the signal's number.
        code: i32,
    },
    /// Something sent was refused; the connection stays open unless a close frame follows.
    Error {
        /// `MALFORMED_FRAME`, `UNEXPECTED_BINARY`, `INVALID_SIZE`, `INPUT_OVERFLOW`, `TOO_LARGE`, `READ_ONLY`.
        code: String,
        /// A sentence for people.
        message: String,
    },
}

/// One entry of `GET /terminals`, and the answer to `POST /terminals` as `{"terminal":{…}}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terminal {
    /// The terminal's number, from 1.
    pub id: u32,
    /// `running` or `exited`.
    pub status: String,
    /// Exit status when exited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    /// Process id of the shell, as seen inside the seat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Columns.
    pub cols: u16,
    /// Rows.
    pub rows: u16,
    /// Connected viewers.
    pub viewers: usize,
    /// Bytes of output so far.
    pub seq: u64,
}

/// Answer to `GET /terminals`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalList {
    /// All of them, by number.
    pub terminals: Vec<Terminal>,
}

/// Body of `POST /terminals`; an empty body is the same as `{}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewTerminal {
    /// Columns; 80 when missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cols: Option<u32>,
    /// Rows; 24 when missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u32>,
    /// Directory to start in, beneath the workspace; the workspace itself when missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
}
