//! Any bytes as layers: merged and written, or refused, never a panic.
#![no_main]

use clarateach_ext4::{Options, Writer};
use clarateach_rootfs::merge::Merge;
use clarateach_rootfs::tar::ReadAt;
use libfuzzer_sys::fuzz_target;

#[path = "../mend.rs"]
mod mend;

fuzz_target!(|data: &[u8]| {
    let data = mend::checksums(data);
    let Ok(file) = tempfile::tempfile_in("/dev/shm") else { return };
    let Ok(writer) = Writer::new(file, Options::new(1 << 20, b"fuzz")) else { return };
    let mut merge = Merge::new(writer);
    let half = data.len() / 2 / 512 * 512;
    for (rank, layer) in [(2, &data[..half]), (1, &data[half..])] {
        if merge.layer(rank, &layer as &dyn ReadAt, &mut |_| true).is_err() {
            return;
        }
    }
    if let Ok(merged) = merge.finish() {
        let _ = merged.writer.finish();
    }
});
