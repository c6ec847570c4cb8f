//! Container images to bootable ext4 root filesystems.
