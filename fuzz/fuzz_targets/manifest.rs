//! Any bytes as manifests and configurations.
#![no_main]

use clarateach_rootfs::manifest::{Config, Manifest, saved_images, select};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(Manifest::Index(list)) = Manifest::parse(data) {
        let _ = select(&list, None);
        let _ = select(&list, Some("latest"));
    }
    let _ = Config::parse(data);
    let _ = saved_images(data);
});
