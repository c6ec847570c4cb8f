//! The last stretch of a terminal's output, addressed by its position in the stream.

/// First capacity; grows by doubling up to the limit, so that a quiet terminal costs little.
const FIRST_CAPACITY: usize = 16 << 10;

/// A ring over a stream of bytes: `[tail, head)` can be read, `head` counts every byte ever written.
#[derive(Debug)]
pub(crate) struct Ring {
    bytes: Vec<u8>,
    limit: usize,
    tail: u64,
    head: u64,
}

impl Ring {
    /// An empty ring that holds at most `limit` bytes, a power of two.
    pub(crate) fn new(limit: usize) -> Ring {
        debug_assert!(limit.is_power_of_two());
        Ring { bytes: Vec::new(), limit, tail: 0, head: 0 }
    }

    /// Position after the last byte.
    pub(crate) fn head(&self) -> u64 {
        self.head
    }

    /// Position of the oldest byte still here.
    pub(crate) fn tail(&self) -> u64 {
        self.tail
    }

    /// The oldest position that will still be here after `more` bytes.
    pub(crate) fn tail_after(&self, more: usize) -> u64 {
        self.tail.max((self.head + more as u64).saturating_sub(self.limit as u64))
    }

    /// Appends; the oldest bytes give way. `new` must not be longer than the limit.
    pub(crate) fn push(&mut self, new: &[u8]) {
        debug_assert!(new.len() <= self.limit);
        let held = (self.head - self.tail) as usize;
        if held + new.len() > self.bytes.len() && self.bytes.len() < self.limit {
            self.grow(held + new.len());
        }
        let capacity = self.bytes.len();
        let at = self.head as usize & (capacity - 1);
        let first = new.len().min(capacity - at);
        self.bytes[at..at + first].copy_from_slice(&new[..first]);
        self.bytes[..new.len() - first].copy_from_slice(&new[first..]);
        self.head += new.len() as u64;
        self.tail = self.tail.max(self.head.saturating_sub(capacity as u64));
    }

    /// The bytes from `from` on, at most `most` of them, in up to two pieces. `from` must lie in `[tail, head]`.
    pub(crate) fn read(&self, from: u64, most: usize) -> (&[u8], &[u8]) {
        debug_assert!(from >= self.tail && from <= self.head);
        let length = ((self.head - from) as usize).min(most);
        if length == 0 {
            return (&[], &[]);
        }
        let capacity = self.bytes.len();
        let at = from as usize & (capacity - 1);
        let first = length.min(capacity - at);
        (&self.bytes[at..at + first], &self.bytes[..length - first])
    }

    fn grow(&mut self, needed: usize) {
        let capacity = needed.next_power_of_two().clamp(FIRST_CAPACITY, self.limit);
        let mut grown = vec![0; capacity];
        let (first, second) = self.read(self.tail, usize::MAX);
        let mut at = self.tail as usize;
        for piece in [first, second] {
            for part in piece.chunks(capacity) {
                let start = at & (capacity - 1);
                let fits = part.len().min(capacity - start);
                grown[start..start + fits].copy_from_slice(&part[..fits]);
                grown[..part.len() - fits].copy_from_slice(&part[fits..]);
                at += part.len();
            }
        }
        self.bytes = grown;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn reads_what_was_written_last(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..9000), 0..24)) {
            let mut ring = Ring::new(64 << 10);
            let mut all = Vec::new();
            for piece in pieces {
                ring.push(&piece);
                all.extend_from_slice(&piece);
                prop_assert_eq!(ring.head() as usize, all.len());
                prop_assert!(ring.head() - ring.tail() <= 64 << 10);
                prop_assert!(ring.tail() == 0 || ring.head() - ring.tail() == 64 << 10);
                let (a, b) = ring.read(ring.tail(), usize::MAX);
                prop_assert_eq!([a, b].concat(), &all[ring.tail() as usize..]);
            }
        }
    }
}
