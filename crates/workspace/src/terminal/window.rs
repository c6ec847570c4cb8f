//! How much output may be under way to one viewer.
//!
//! Socket buffers and gateways hold megabytes, and output that has left can't be overtaken by Ctrl-C. So each viewer
//! is sent WebSocket pings behind its output, which any client answers once it has read that far: what is not yet
//! answered for is under way, and is kept to what the viewer reads in a few milliseconds. A client that never answers
//! pings is left to the socket's own limits.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Never less than this under way, in bytes of output.
const LEAST: u64 = 32 << 10;
/// Never more.
const MOST: u64 = 512 << 10;
/// Output between two pings: so many to a window, and never closer. Each costs a wake-up of everybody on the way.
const PINGS_IN_WINDOW: u64 = 6;
const LEAST_BETWEEN: u64 = 12 << 10;
/// Wanted waiting time of output that is under way, beyond the bare round trip.
const TARGET: Duration = Duration::from_millis(6);
/// How long the first answer may take before the client counts as one that doesn't answer.
const PATIENCE: Duration = Duration::from_millis(500);

/// The window of one viewer. Positions are those of the terminal's stream.
#[derive(Debug)]
pub(crate) struct Window {
    limit: u64,
    sent: u64,
    answered: u64,
    pings: VecDeque<(u64, Instant)>,
    shortest: Option<Duration>,
    opened: Instant,
}

impl Window {
    pub(crate) fn new(position: u64, now: Instant) -> Window {
        Window {
            limit: LEAST * 2,
            sent: position,
            answered: position,
            pings: VecDeque::new(),
            shortest: None,
            opened: now,
        }
    }

    /// How much may be sent now, in bytes.
    pub(crate) fn room(&self, now: Instant) -> u64 {
        if self.shortest.is_none() && now.duration_since(self.opened) > PATIENCE {
            return u64::MAX;
        }
        self.limit.saturating_sub(self.sent.saturating_sub(self.answered))
    }

    /// Less room than this is not worth a frame, unless all that waits fits in: more comes with the next answer.
    pub(crate) fn worthwhile(&self) -> u64 {
        self.between()
    }

    /// When to look again although nothing happened: a first answer is overdue.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        (self.shortest.is_none()).then(|| self.opened + PATIENCE + Duration::from_millis(1))
    }

    /// Output up to this position has been handed to the socket.
    pub(crate) fn sent(&mut self, position: u64) {
        self.sent = position;
    }

    /// Something else of this many bytes has been sent that is not part of the stream, such as a redraw.
    pub(crate) fn jumped(&mut self, position: u64) {
        self.sent = position;
        self.answered = position;
        self.pings.clear();
    }

    /// Whether a ping should follow; notes it as sent and returns its payload.
    pub(crate) fn ping(&mut self, now: Instant) -> Option<u64> {
        let last = self.pings.back().map_or(self.answered, |(position, _)| *position);
        let due = self.sent >= last + self.between() || (self.shortest.is_none() && self.pings.is_empty());
        due.then(|| {
            self.pings.push_back((self.sent, now));
            self.sent
        })
    }

    /// The client has read up to here.
    pub(crate) fn pong(&mut self, position: u64, now: Instant) {
        while let Some(&(pinged, at)) = self.pings.front() {
            if pinged > position {
                break;
            }
            self.pings.pop_front();
            self.answered = self.answered.max(pinged);
            if pinged == position {
                self.measured(now.duration_since(at));
            }
        }
    }

    /// Output between two pings.
    fn between(&self) -> u64 {
        LEAST_BETWEEN.max(self.limit / PINGS_IN_WINDOW)
    }

    fn measured(&mut self, round_trip: Duration) {
        let shortest = self.shortest.map_or(round_trip, |s| s.min(round_trip));
        self.shortest = Some(shortest);
        self.limit =
            if round_trip - shortest > TARGET { self.limit * 7 / 8 } else { self.limit + self.between() / 2 };
        self.limit = self.limit.clamp(LEAST, MOST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reader at `rate` bytes/s behind a link of `delay`; returns the window after a second of flood.
    fn settle(rate: u64, delay: Duration) -> u64 {
        let start = Instant::now();
        let (mut now, mut window, mut position) = (start, Window::new(0, start), 0);
        let mut answers: VecDeque<(Instant, u64)> = VecDeque::new();
        let mut free = start;
        while now < start + Duration::from_secs(1) {
            while window.room(now) > 0 {
                let size = window.room(now).min(4096);
                position += size;
                window.sent(position);
                free = free.max(now + delay) + Duration::from_nanos(size * 1_000_000_000 / rate);
                if let Some(payload) = window.ping(now) {
                    answers.push_back((free, payload));
                }
            }
            let Some((at, payload)) = answers.pop_front() else { panic!("stalled with no answer under way") };
            now = now.max(at);
            window.pong(payload, now);
        }
        window.limit
    }

    #[test]
    fn a_slow_reader_has_little_under_way_and_a_fast_one_enough() {
        let slow = settle(5_000_000, Duration::from_micros(100));
        assert!(slow <= 64 << 10, "{slow} bytes are {} ms at 5 MB/s", slow / 5_000);
        assert_eq!(settle(500_000_000, Duration::from_micros(100)), MOST);
        assert_eq!(settle(500_000_000, Duration::from_millis(20)), MOST);
    }

    #[test]
    fn a_client_that_never_answers_is_not_held_up_for_ever() {
        let start = Instant::now();
        let mut window = Window::new(0, start);
        window.sent(1 << 20);
        assert_eq!(window.room(start), 0);
        assert_eq!(window.room(start + Duration::from_secs(2)), u64::MAX);
    }
}
