//! Any bytes as a tar archive: read to the end or refused, never a panic and never more content than there is.
#![no_main]

use std::io::Read;

use clarateach_rootfs::tar::{Entries, EntryKind};
use libfuzzer_sys::fuzz_target;

#[path = "../mend.rs"]
mod mend;

fuzz_target!(|data: &[u8]| {
    let data = mend::checksums(data);
    let mut entries = Entries::new(&data[..]);
    while let Ok(Some(entry)) = entries.next() {
        if let EntryKind::File(map) = &entry.kind {
            let read = std::io::copy(&mut entries.by_ref().take(1 << 20), &mut std::io::sink()).unwrap_or(0);
            assert!(read <= map.data_len() && read <= data.len() as u64);
        }
    }
});
