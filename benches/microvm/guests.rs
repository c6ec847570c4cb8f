//! Guests on QEMU with an emulated processor.

use std::sync::Arc;
use std::time::{Duration, Instant};

use clarateach_ids::WorkshopId;
use clarateach_microvm::net::Network;
use clarateach_microvm::{MicroVmRuntime, Readiness, Until};
use clarateach_runtime::{EnvironmentState, Runtime};

use crate::creates::request;
use crate::machines::Machines;
use crate::timed::Timed;
use crate::{machines, ms, print, spread};

const TIMES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(5);

/// Times of one create: to the answer, to ping, to ready; and what the VMM took of it.
struct Times {
    vmm: Duration,
    ping: Duration,
    ready: Duration,
}

async fn create(runtime: &MicroVmRuntime, machines: &Machines, timed: &Timed, seat: u32) -> Times {
    let workshop = WorkshopId::random();
    let began = Instant::now();
    let request = request(&workshop, seat, Readiness::Health);
    let key = request.desired.key.clone();
    let vm = runtime.create(request, Until::Started).await.expect("a VM").vm;
    let ping = async {
        while !machines.network.ping(vm.address).await.unwrap_or(false) {
            tokio::time::sleep(PAUSE).await;
        }
        began.elapsed()
    };
    let ready = async {
        while runtime.vm(&key).is_none_or(|vm| vm.state != EnvironmentState::Ready) {
            tokio::time::sleep(PAUSE).await;
        }
        began.elapsed()
    };
    let (ping, ready) = tokio::join!(ping, ready);
    let times = Times { vmm: timed.took(&vm.instance), ping, ready };
    runtime.remove(&key, vm.generation).await.expect("removed");
    times
}

async fn series(machines: &Machines, timed: &Arc<Timed>, snapshots: bool) {
    let runtime = machines.open().await;
    let how = if snapshots { "restored" } else { "booted" };
    if snapshots {
        let first = create(&runtime, machines, timed, 1).await;
        print(
            "QEMU: the first of a kind, with the snapshot, to ready",
            &format!("{:.0} ms", ms(first.ready)),
        );
    }
    let (mut vmm, mut ping, mut ready) = (Vec::new(), Vec::new(), Vec::new());
    for seat in 1..=TIMES {
        let times = create(&runtime, machines, timed, seat).await;
        vmm.push(times.vmm);
        ping.push(times.ping);
        ready.push(times.ready);
    }
    print(&format!("QEMU, {how}: the VMM's part"), &spread(vmm));
    print(&format!("QEMU, {how}: create to ping"), &spread(ping));
    print(&format!("QEMU, {how}: create to ready"), &spread(ready));
}

pub(crate) async fn measure() {
    let Some(mut machines) = machines::qemu("benches/microvm").await else { return };
    let timed = Timed::new(machines.vmm.clone());
    machines.vmm = timed.clone();
    series(&machines, &timed, false).await;
    machines.config.snapshots = true;
    series(&machines, &timed, true).await;
}
