//! What the terminal's screen shows, for viewers that come late or can't keep up.
//!
//! The model is fed lazily: from the ring, when a redraw is wanted or before the ring would forget. Long stretches of
//! plain text are not even fed: where lines scroll over the whole screen, only the last screenful and scrollback of
//! such a stretch can still be seen afterwards.

use avt::{Cell, Color, Line, Pen};

use super::{modes::Modes, ring::Ring};

/// Lines above the screen that a redraw brings back.
const SCROLLBACK: usize = 300;
/// A stretch of plain text shorter than this is simply fed.
const WORTH_SKIPPING: usize = 16 << 10;

/// How much of a stretch that is not plain is fed before the budget is looked at again.
const MOST_AT_ONCE: usize = 32 << 10;

/// The screen model of one terminal.
pub(crate) struct Screen {
    model: avt::Terminal,
    modes: Modes,
    fed: u64,
}

impl std::fmt::Debug for Screen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Screen")
            .field("size", &self.model.size())
            .field("fed", &self.fed)
            .finish_non_exhaustive()
    }
}

impl Screen {
    /// A blank screen at position `fed` of the stream. Sides of 0 are taken as 1.
    pub(crate) fn new(cols: u16, rows: u16, fed: u64) -> Screen {
        let (cols, rows) = (usize::from(cols.max(1)), usize::from(rows.max(1)));
        let model =
            avt::Terminal::with_scrollback(cols, rows, Some(SCROLLBACK)).expect("sides are at least 1");
        Screen { model, modes: Modes::new(), fed }
    }

    /// Position up to which the model has seen the stream.
    pub(crate) fn fed(&self) -> u64 {
        self.fed
    }

    /// Feeds what the ring holds beyond [`Screen::fed`], but for an unfinished character at its end. Stops early once
    /// about `budget` bytes have gone through the model, so that a flood of colours can't hold up other terminals.
    pub(crate) fn catch_up(&mut self, ring: &Ring, budget: usize) {
        let mut left = budget;
        while self.fed < ring.head() && left > 0 {
            let (first, second) = ring.read(self.fed, usize::MAX);
            let piece = if first.is_empty() { second } else { first };
            let whole = complete_prefix(piece);
            if whole > 0 {
                self.fed += self.feed(&piece[..whole], &mut left) as u64;
                continue;
            }
            // Unfinished, or a character that lies across the ring's seam.
            let (a, b) = ring.read(self.fed, 4);
            let seam = [a, b].concat();
            let whole = complete_prefix(&seam);
            if whole == 0 {
                return;
            }
            self.feed_some(&seam[..whole], &mut left);
            self.fed += whole as u64;
        }
    }

    /// Where all that the ring holds beyond [`Screen::fed`] is plain text, leaves out what of it can't be seen any more.
    /// The rest is not fed either: most likely it can't be seen any more when somebody looks.
    pub(crate) fn skim(&mut self, ring: &Ring) {
        if !self.modes.is_ground() || self.modes.has_margins() {
            return;
        }
        let (first, second) = ring.read(self.fed, usize::MAX);
        let is_plain = |piece: &[u8]| plain_prefix(piece) == piece.len();
        // The first half of a C1 control may lie before the ring's seam.
        if first.last() != Some(&0xc2) && is_plain(first) && is_plain(second) {
            self.fed += self.invisible(first, second) as u64;
        }
    }

    /// Returns how many of the bytes are done with.
    fn feed(&mut self, bytes: &[u8], left: &mut usize) -> usize {
        let mut at = 0;
        while at < bytes.len() && *left > 0 {
            if self.modes.is_ground() && !self.modes.has_margins() {
                let run = &bytes[at..at + plain_prefix(&bytes[at..])];
                self.feed_some(&run[self.invisible(run, &[])..], left);
                at += run.len();
            }
            if at < bytes.len() {
                // A stretch that is not plain, up to where skipping could begin again.
                let end = at + next_plain_stretch(&bytes[at..]);
                self.feed_some(&bytes[at..end], left);
                at = end;
            }
        }
        at
    }

    fn feed_some(&mut self, bytes: &[u8], left: &mut usize) {
        *left = left.saturating_sub(bytes.len());
        self.modes.feed(bytes);
        for chunk in bytes.utf8_chunks() {
            self.model.feed(chunk.valid());
            if !chunk.invalid().is_empty() {
                self.model.feed('\u{fffd}');
            }
        }
    }

    /// How much of a plain run, in two pieces, can't be seen once all of it has been fed: everything before its last lines, if
    /// the cut lies after a CR LF, where the column is known.
    fn invisible(&self, first: &[u8], second: &[u8]) -> usize {
        if first.len() + second.len() < WORTH_SKIPPING {
            return 0;
        }
        let (_, rows) = self.model.size();
        let needed = rows + SCROLLBACK + 1;
        let at = |n: usize| first.get(n).unwrap_or_else(|| &second[n - first.len()]);
        memchr::memrchr_iter(b'\n', second)
            .map(|end| first.len() + end)
            .chain(memchr::memrchr_iter(b'\n', first))
            .skip(needed)
            .find(|&end| end > 0 && *at(end - 1) == b'\r')
            .map_or(0, |end| end + 1)
    }

    /// Changes the size; everything that was written at the old size must have been fed.
    pub(crate) fn resize(&mut self, cols: u16, rows: u16) {
        self.model.resize(usize::from(cols), usize::from(rows));
    }

    /// What resets a terminal of the same size and paints scrollback, screen, cursor and modes.
    pub(crate) fn redraw(&self) -> String {
        let mut out = String::with_capacity(16 << 10);
        out.push_str("\x1bc");
        let (cols, rows) = self.model.size();
        let lines: Vec<&Line> = self.model.primary_screen().all_lines().collect();
        let history = &lines[..lines.len().saturating_sub(rows)];
        if !history.is_empty() {
            for line in history {
                paint_line(line, cols, &mut out);
            }
            // Push the history above the screen, then paint the screen from its top.
            out.push_str("\x1b[m");
            out.extend(std::iter::repeat_n('\n', rows - 1));
            out.push_str("\x1b[H");
        }
        out.push_str(&self.model.dump());
        self.modes.restore_into(&mut out);
        out
    }

    /// Whether a full-screen program has the screen.
    #[cfg(test)]
    fn is_alternate(&self) -> bool {
        self.model.active_screen_kind() == avt::ScreenKind::Alternate
    }
}

/// The longest prefix that doesn't end inside a character.
pub(crate) fn complete_prefix(bytes: &[u8]) -> usize {
    for back in 1..=bytes.len().min(3) {
        let byte = bytes[bytes.len() - back];
        if byte & 0xc0 == 0x80 {
            continue;
        }
        let needed = match byte {
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            _ => 1,
        };
        return if needed > back && could_continue(&bytes[bytes.len() - back..]) {
            bytes.len() - back
        } else {
            bytes.len()
        };
    }
    bytes.len()
}

/// Whether an unfinished sequence can still become a character: the second byte's range depends on the first.
fn could_continue(start: &[u8]) -> bool {
    match start {
        [0xe0, second, ..] => *second >= 0xa0,
        [0xed, second, ..] => *second < 0xa0,
        [0xf0, second, ..] => *second >= 0x90,
        [0xf4, second, ..] => *second < 0x90,
        _ => true,
    }
}

/// Leading bytes that are text, tabs and line ends; a C1 control (U+0080 to U+009F) ends them like any other.
fn plain_prefix(bytes: &[u8]) -> usize {
    let is_plain = |byte: u8| byte >= 0x20 || byte == b'\n' || byte == b'\r' || byte == b'\t';
    let mut end = 0;
    for chunk in bytes.chunks(64) {
        if chunk.iter().fold(true, |all, b| all & is_plain(*b) & (*b != 0xc2)) {
            end += chunk.len();
            continue;
        }
        for (at, byte) in chunk.iter().enumerate() {
            let next = bytes.get(end + at + 1).copied().unwrap_or(0);
            if !is_plain(*byte) || (*byte == 0xc2 && (0x80..0xa0).contains(&next)) {
                return end + at;
            }
        }
        end += chunk.len();
    }
    end
}

/// Where, after something that is not plain, it is worth looking for a plain stretch again.
fn next_plain_stretch(bytes: &[u8]) -> usize {
    let mut end = 0;
    for block in bytes.chunks(4 << 10) {
        if end == MOST_AT_ONCE || (end > 0 && plain_prefix(block) == block.len()) {
            // Not inside a character.
            return complete_prefix(&bytes[..end]);
        }
        end += block.len();
    }
    end
}

fn paint_line(line: &Line, cols: usize, out: &mut String) {
    let cells = line.cells();
    let blank = |cell: &Cell| cell.char() == ' ' && cell.pen().is_default();
    let used = if line.is_wrapped() {
        cells.len()
    } else {
        cells.len() - cells.iter().rev().take_while(|c| blank(c)).count()
    };
    let mut pen = Pen::default();
    for cell in &cells[..used] {
        if cell.width() == 0 {
            continue;
        }
        if *cell.pen() != pen {
            pen = *cell.pen();
            paint_pen(&pen, out);
        }
        out.push(cell.char());
    }
    if !pen.is_default() {
        out.push_str("\x1b[m");
    }
    if !(line.is_wrapped() && used == cols) {
        out.push_str("\r\n");
    }
}

fn paint_pen(pen: &Pen, out: &mut String) {
    use std::fmt::Write;
    out.push_str("\x1b[0");
    for (on, code) in [
        (pen.is_bold(), 1),
        (pen.is_faint(), 2),
        (pen.is_italic(), 3),
        (pen.is_underline(), 4),
        (pen.is_blink(), 5),
        (pen.is_inverse(), 7),
        (pen.is_strikethrough(), 9),
    ] {
        if on {
            let _ = write!(out, ";{code}");
        }
    }
    for (color, code) in [(pen.foreground(), 38), (pen.background(), 48)] {
        let _ = match color {
            Some(Color::Indexed(index)) => write!(out, ";{code};5;{index}"),
            Some(Color::RGB(rgb)) => write!(out, ";{code};2;{};{};{}", rgb.r, rgb.g, rgb.b),
            None => Ok(()),
        };
    }
    out.push('m');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The whole stream through the model, and the redraw of it through another.
    fn ring_of(bytes: &[u8], limit: usize, skims: bool) -> (Ring, Screen) {
        let mut ring = Ring::new(limit);
        let mut screen = Screen::new(40, 10, 0);
        for piece in bytes.chunks(limit / 4) {
            if skims {
                screen.skim(&ring);
            }
            if ring.tail_after(piece.len()) > screen.fed() {
                screen.catch_up(&ring, usize::MAX);
            }
            ring.push(piece);
        }
        screen.catch_up(&ring, usize::MAX);
        (ring, screen)
    }

    fn shown(model: &avt::Terminal) -> (Vec<String>, usize, usize) {
        let lines = model.primary_screen().all_lines().map(|l| l.text().trim_end().to_owned()).collect();
        (lines, model.cursor().col, model.cursor().row)
    }

    fn straight(bytes: &[u8]) -> avt::Terminal {
        let mut model = avt::Terminal::with_scrollback(40, 10, Some(SCROLLBACK)).unwrap();
        model.feed(&*String::from_utf8_lossy(bytes));
        model
    }

    #[test]
    fn skipped_text_leaves_the_same_screen() {
        let mut text = String::new();
        for line in 0..40_000 {
            text.push_str(&format!("{line} ünïcödé with 漢字 {}\r\n", "x".repeat(line % 70)));
            if line % 9_001 == 0 {
                text.push_str("\x1b[31mred\x1b[2J\x1b[3;3Hthere");
            }
        }
        text.push_str("the end");
        for skims in [false, true] {
            let (_, screen) = ring_of(text.as_bytes(), 256 << 10, skims);
            assert_eq!(shown(&screen.model), shown(&straight(text.as_bytes())), "skims: {skims}");
        }
    }

    #[test]
    fn a_flood_of_text_costs_the_model_nothing() {
        let mut ring = Ring::new(256 << 10);
        let mut screen = Screen::new(40, 10, 0);
        for line in 0..100_000 {
            ring.push(format!("{line} – {}\r\n", "x".repeat(line % 70)).as_bytes());
            if ring.head() - screen.fed() > 128 << 10 {
                screen.skim(&ring);
                assert!(ring.head() - screen.fed() < 32 << 10, "at line {line}");
            }
        }
        assert_eq!(shown(&screen.model), shown(&straight(b"")));
    }

    #[test]
    fn a_redraw_shows_the_same() {
        let mut text = String::new();
        for line in 0..100 {
            text.push_str(&format!("\x1b[3{}m{line}\x1b[m {}\r\n", line % 8, "y".repeat(line % 90)));
        }
        text.push_str("prompt$ \x1b[?2004h");
        let (_, screen) = ring_of(text.as_bytes(), 64 << 10, true);
        let redraw = screen.redraw();
        assert_eq!(shown(&straight(redraw.as_bytes())), shown(&screen.model));
        assert!(redraw.ends_with("\x1b[?2004h"));
    }

    #[test]
    fn a_full_screen_program_and_what_is_below_it_come_back() {
        let text = "shell line\r\n$ vim\x1b[?1049h\x1b[2J\x1b[Htext in vim\x1b[5;5H";
        let (_, screen) = ring_of(text.as_bytes(), 64 << 10, true);
        assert!(screen.is_alternate());
        let mut again = straight(screen.redraw().as_bytes());
        assert_eq!(again.active_screen_kind(), avt::ScreenKind::Alternate);
        assert_eq!(again.screen().line(0).unwrap().text().trim_end(), "text in vim");
        assert_eq!((again.cursor().col, again.cursor().row), (4, 4));
        again.feed("\x1b[?1049l");
        assert_eq!(again.screen().line(0).unwrap().text().trim_end(), "shell line");
    }

    proptest! {
        #[test]
        fn prefixes_end_between_characters(text in "\\PC{0,20}", cut in 0usize..80) {
            let bytes = &text.as_bytes()[..cut.min(text.len())];
            let whole = complete_prefix(bytes);
            prop_assert!(std::str::from_utf8(&bytes[..whole]).is_ok());
            prop_assert!(bytes.len() - whole < 4);
        }

        #[test]
        fn lossy_reading_does_not_depend_on_the_cuts(
            bytes in proptest::collection::vec(prop_oneof![any::<u8>(), 0xc0u8..=0xff, 0x80u8..0xc0], 0..60),
            cut in 0usize..60,
        ) {
            let cut = complete_prefix(&bytes[..cut.min(bytes.len())]);
            let (a, b) = bytes.split_at(cut);
            let joined = String::from_utf8_lossy(a).into_owned() + &String::from_utf8_lossy(b);
            prop_assert_eq!(joined, String::from_utf8_lossy(&bytes).into_owned());
        }
    }
}
