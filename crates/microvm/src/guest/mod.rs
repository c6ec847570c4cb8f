//! What goes into a VM, and the control channel to its first process.
