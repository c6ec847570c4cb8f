//! Creates over the double.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clarateach_ids::{Generation, SeatKey, SeatNumber, WorkshopId};
use clarateach_microvm::{CreateRequest, MicroVmRuntime, PhaseTimes, Readiness, Until};
use clarateach_runtime::{DesiredSeat, Egress, EnvironmentState, ImageRef, Runtime};

use crate::timed::Timed;
use crate::{doubles, ms, print, spread};

const MOST: u32 = 200;

pub(crate) fn request(workshop: &WorkshopId, seat: u32, readiness: Readiness) -> CreateRequest {
    let desired = DesiredSeat {
        key: SeatKey { workshop: workshop.clone(), seat: SeatNumber::new(seat).expect("a seat's number") },
        generation: Generation(1),
        image: ImageRef("default".to_owned()),
        vcpus: 1,
        memory_mb: 256,
        disk_mb: 10 << 10,
        env: BTreeMap::new(),
        secret: "bench".to_owned().into(),
        egress: Egress::Internet,
        not_after: None,
    };
    CreateRequest { desired, readiness: Some(readiness) }
}

/// Creates `count` VMs, `parallel` at a time: the whole and the agent's own time of each.
async fn creates(
    runtime: &Arc<MicroVmRuntime>,
    timed: &Arc<Timed>,
    count: u32,
    parallel: u32,
) -> (WorkshopId, Vec<Duration>, Duration) {
    let workshop = WorkshopId::random();
    let began = Instant::now();
    let mut own = Vec::new();
    for batch in 0..count.div_ceil(parallel) {
        let seats = batch * parallel + 1..=((batch + 1) * parallel).min(count);
        let tasks: Vec<_> = seats
            .map(|seat| {
                let (runtime, timed) = (runtime.clone(), timed.clone());
                let request = request(&workshop, seat, Readiness::Ping);
                tokio::spawn(async move {
                    let began = Instant::now();
                    let vm = runtime.create(request, Until::Started).await.expect("a VM").vm;
                    began.elapsed().saturating_sub(timed.took(&vm.instance))
                })
            })
            .collect();
        for task in tasks {
            own.push(task.await.expect("no panic"));
        }
    }
    (workshop, own, began.elapsed())
}

/// Where the time went since `before`.
fn phases(what: &str, runtime: &MicroVmRuntime, before: &[PhaseTimes]) {
    for (now, then) in runtime.times().iter().zip(before) {
        let count = u32::try_from(now.count - then.count).unwrap_or(u32::MAX);
        if count > 0 {
            let mean = (now.sum - then.sum) / count;
            print(&format!("  {what}: {} on average", now.phase), &format!("{:.2} ms", ms(mean)));
        }
    }
}

async fn removes(runtime: &Arc<MicroVmRuntime>) {
    let all = runtime.vms();
    let removals = all.iter().map(|vm| runtime.remove(&vm.key, vm.generation));
    for removal in futures_util::future::join_all(removals).await {
        removal.expect("removed");
    }
}

fn allocated(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.blocks() * 512).sum()
}

/// `VmRSS` of this process in KiB, proc_pid_status(5).
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().split(' ').next()?.parse().ok()).unwrap_or_default()
}

pub(crate) async fn measure() {
    let Some(mut machines) = doubles::doubles("benches/microvm").await else { return };
    machines.config.capacity = MOST;
    let timed = Timed::new(machines.vmm.clone());
    machines.vmm = timed.clone();
    let runtime = Arc::new(machines.open().await);
    creates(&runtime, &timed, 10, 1).await;
    removes(&runtime).await;

    let before = runtime.times();
    let (_, own, _) = creates(&runtime, &timed, 100, 1).await;
    print("agent's own time per create, one at a time", &spread(own));
    phases("one at a time", &runtime, &before);
    removes(&runtime).await;
    let before = runtime.times();
    let mut own = Vec::new();
    let mut took = Duration::ZERO;
    for _ in 0..4 {
        let (_, some, time) = creates(&runtime, &timed, 50, 50).await;
        own.extend(some);
        took += time;
        removes(&runtime).await;
    }
    print("agent's own time per create, 50 at a time", &spread(own));
    phases("50 at a time", &runtime, &before);
    print("creates per second, 50 at a time", &format!("{:.0}", 200.0 / took.as_secs_f64()));

    let before = resident_kib();
    creates(&runtime, &timed, MOST, 50).await;
    let settled = |vm: &clarateach_microvm::Vm| vm.state != EnvironmentState::Starting;
    while !runtime.vms().iter().all(settled) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let per_vm = resident_kib().saturating_sub(before) / u64::from(MOST);
    print("agent's memory per VM", &format!("{per_vm} KiB (of {MOST})"));
    let disks: Vec<u64> = runtime
        .vms()
        .iter()
        .map(|vm| allocated(&machines.config.state_dir.join("vms").join(&vm.instance)))
        .collect();
    let largest = disks.iter().max().copied().unwrap_or_default() / 1024;
    print("disk per VM, with a drive of 10 GiB", &format!("{largest} KiB at most"));

    drop(runtime);
    let began = Instant::now();
    let runtime = Arc::new(machines.open().await);
    let opened = began.elapsed();
    let count = runtime.vms().len();
    while !runtime.vms().iter().all(settled) {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    print(
        &format!("taking over {count} VMs"),
        &format!("{:.0} ms; all have answered after {:.0} ms", ms(opened), ms(began.elapsed())),
    );
    removes(&runtime).await;
}
