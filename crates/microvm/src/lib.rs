//! Seats as microVMs on this host.
//!
//! [`MicroVmRuntime`] is the `Runtime` that is made of these parts; docs/microvm.md tells a VM's life.
//!
//! | module | what it does |
//! |---|---|
//! | [`vmm`] | starts, watches, pauses, snapshots and ends virtual machine monitors: Firecracker and QEMU |
//! | [`net`] | the bridge, taps, addresses, firewall and nameserver |
//! | [`guest`] | what goes into a VM: kernel, modules, initramfs; and the control channel to its first process |
//! | `runtime` | the trait's calls, and those that only an agent makes |
//! | `vm` | a VM's life, one task per seat |
//! | `journal` | what is wanted and was made, on disk |
//! | `adopt` | taking over what an earlier process has left |
//! | `sweep` | removing what nobody wants, in the background |
//! | `disk`, `images` | upper drives; images, kernels and who uses them |
//! | `snapshot` | starting VMs from a snapshot of one that is parked |

mod adopt;
mod config;
mod directory;
mod disk;
mod error;
pub mod guest;
mod host;
mod images;
mod instance;
mod journal;
pub mod net;
mod runtime;
mod snapshot;
mod sweep;
mod times;
mod vm;
pub mod vmm;

pub use config::{DEFAULT_DISK_MB, DEFAULT_MEMORY_MB, DEFAULT_VCPUS, MicroVmConfig, Readiness};
pub use error::{CreateError, OpenError};
pub use runtime::{CreateRequest, Created, MicroVmRuntime, Until};
pub use times::PhaseTimes;
pub use vm::Vm;
