//! Seats as microVMs on this host.
//!
//! | module | what it does |
//! |---|---|
//! | [`vmm`] | starts, watches, pauses, snapshots and ends virtual machine monitors: Firecracker and QEMU |
//! | [`net`] | the bridge, taps, addresses, firewall and nameserver |
//! | [`guest`] | what goes into a VM: kernel, modules, initramfs; and the control channel to its first process |

pub mod guest;
pub mod net;
pub mod vmm;
