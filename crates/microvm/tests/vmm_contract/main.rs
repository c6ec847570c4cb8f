//! The contract of `Vmm`, told once and held against every driver: the Firecracker double everywhere, QEMU where it and a
//! kernel for it are installed, and a real Firecracker where there is one, a KVM and a kernel.
//!
//! | variable | what it names |
//! |---|---|
//! | `CLARATEACH_TEST_KERNEL_DIR` | `vmlinux` and `modules/` for QEMU guests, see `clarateach_testkit::guest_kernel` |
//! | `FIRECRACKER_BIN`, `JAILER_BIN` | a real Firecracker and its jailer; else those in PATH |
//! | `CLARATEACH_TEST_FC_KERNEL` | a kernel for it that answers ping at its `ip=` without user space |

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod firecracker;
mod guest;
mod host;
mod qemu;
mod story;
