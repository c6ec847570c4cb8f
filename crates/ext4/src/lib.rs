//! Writes ext4 images from a stream of entries, in one deterministic pass.
