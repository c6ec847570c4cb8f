//! A tar archive as an ext4 image by the arcbox-ext4 crate: `rootfs-peers TAR[.gz] IMAGE BYTES`.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<_> = std::env::args().collect();
    let [_, tar, image, size] = &arguments[..] else { return Err("TAR IMAGE BYTES".into()) };
    let file = BufReader::with_capacity(1 << 20, File::open(tar)?);
    let source: Box<dyn Read> = if tar.ends_with(".gz") {
        Box::new(flate2::bufread::MultiGzDecoder::new(file))
    } else {
        Box::new(file)
    };
    let mut formatter = arcbox_ext4::Formatter::new(Path::new(image), 4096, size.parse()?)?;
    formatter.unpack_tar(source)?;
    formatter.close()?;
    Ok(())
}
