//! Builds the server again when the web pages have been built again: they are embedded.

fn main() {
    println!("cargo::rerun-if-changed=../../web/dist");
}
