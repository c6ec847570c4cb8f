//! The worker agent's binary.

fn main() {}
