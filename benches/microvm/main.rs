//! What a worker's own part of a VM costs.
//!
//! Over the double of Firecracker, whose starts take a few milliseconds: the agent's own time per create (the whole of it
//! less what the VMM's driver took), creates per second, disk and memory per VM, the taking over of 200. Over QEMU with an
//! emulated processor: create to ping, create to ready, and the same from a snapshot. In a network namespace of its own;
//! needs root. `run.sh` builds what it needs and starts it.

mod creates;
#[path = "../../crates/microvm/tests/support/doubles.rs"]
mod doubles;
mod guests;
#[allow(dead_code, clippy::unwrap_used)]
#[path = "../../crates/microvm/tests/guest_boot/image.rs"]
mod image;
#[path = "../../crates/microvm/tests/support/machines.rs"]
mod machines;
#[path = "../../crates/microvm/tests/support/mod.rs"]
mod support;
mod timed;

use std::time::Duration;

#[allow(clippy::print_stdout)]
fn print(what: &str, figure: &str) {
    println!("{what:<62} {figure}");
}

/// The figure below which `share` of all lie.
fn quantile(times: &mut [Duration], share: f64) -> Duration {
    times.sort_unstable();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    let index = ((times.len() as f64 * share) as usize).min(times.len().saturating_sub(1));
    times.get(index).copied().unwrap_or_default()
}

fn spread(mut times: Vec<Duration>) -> String {
    let (p50, p99) = (quantile(&mut times, 0.5), quantile(&mut times, 0.99));
    format!("p50 {:.2} ms, p99 {:.2} ms ({} times)", ms(p50), ms(p99), times.len())
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn main() {
    let only = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    let wanted = |name: &str| only.as_deref().is_none_or(|only| only == name);
    if wanted("double") {
        machines::in_own_network(creates::measure);
    }
    if wanted("qemu") {
        machines::in_network_of_guests(guests::measure);
    }
}
