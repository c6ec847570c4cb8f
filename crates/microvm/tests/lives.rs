//! Lives of VMs over plain processes: what goes wrong on the way, and what is left of it.

#![allow(clippy::unwrap_used)]

mod support;

use std::net::Ipv4Addr;
use std::time::Duration;

use clarateach_ids::{Generation, SeatKey, SeatNumber, WorkshopId};
use clarateach_microvm::{
    CreateError, CreateRequest, Created, MicroVmRuntime, OpenError, Readiness, Until, Vm,
};
use clarateach_runtime::conformance::{desired, until_ready};
use clarateach_runtime::probe::ProbePolicy;
use clarateach_runtime::{Egress, EnvironmentState, Runtime, RuntimeError, SharedRuntime};
use clarateach_testkit::wait_for;
use support::{Faults, Installation, instance_of};

const PATIENCE: Duration = Duration::from_secs(20);

fn key(workshop: &str, seat: u32) -> SeatKey {
    SeatKey { workshop: workshop.parse::<WorkshopId>().unwrap(), seat: SeatNumber::new(seat).unwrap() }
}

fn request(installation: &Installation, key: &SeatKey, generation: u64) -> CreateRequest {
    CreateRequest { desired: desired(installation, key, generation), readiness: None }
}

async fn create(
    runtime: &MicroVmRuntime,
    installation: &Installation,
    key: &SeatKey,
) -> Result<Created, CreateError> {
    runtime.create(request(installation, key, 1), Until::Ready).await
}

async fn in_state(runtime: &MicroVmRuntime, key: &SeatKey, state: EnvironmentState) -> Vm {
    let right = || async { runtime.vm(key).filter(|vm| vm.state == state) };
    wait_for(&format!("{key} to be {state:?}"), PATIENCE, right).await
}

async fn nothing_left(installation: &Installation) {
    let gone = || async { installation.leftovers().is_empty().then_some(()) };
    wait_for(&format!("nothing to be left of {:?}", installation.leftovers()), PATIENCE, gone).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn seats_have_their_number_s_address_when_it_is_free() {
    let installation = Installation::new();
    let runtime = installation.open().await;
    let one = create(&runtime, &installation, &key("a", 1)).await.unwrap();
    assert!(one.fresh);
    assert_eq!(one.vm.address, Ipv4Addr::new(192, 168, 100, 11));
    assert_eq!((one.vm.state, one.vm.vcpus, one.vm.memory_mb), (EnvironmentState::Ready, 1, 256));
    let again = create(&runtime, &installation, &key("a", 1)).await.unwrap();
    assert!(!again.fresh);
    assert_eq!(again.vm.pid, one.vm.pid);
    let (b, c) = (key("b", 1), key("c", 1));
    let (b, c) = tokio::join!(create(&runtime, &installation, &b), create(&runtime, &installation, &c));
    let (b, c) = (b.unwrap().vm.address, c.unwrap().vm.address);
    assert_ne!(b, c);
    assert!(![b, c].contains(&one.vm.address));
    assert!(matches!(
        create(&runtime, &installation, &key("d", 1)).await,
        Err(CreateError::Refused(RuntimeError::AtCapacity { used: 3, total: 3 }))
    ));
    for workshop in ["a", "b", "c", "d"] {
        runtime.remove(&key(workshop, 1), Generation(1)).await.unwrap();
    }
    assert_eq!(installation.leftovers(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_t_be_made_is_undone_and_says_why() {
    let installation = Installation::new();
    let runtime = installation.open().await;
    for (faults, code) in [
        (Faults { refuse_start: true, ..Faults::default() }, "VMM_REFUSED"),
        (Faults { refuse_taps: true, ..Faults::default() }, "NETWORK_REFUSED"),
    ] {
        installation.world.set(faults);
        let Err(CreateError::Failed { reason, vm }) = create(&runtime, &installation, &key("w", 1)).await
        else {
            panic!("it was made")
        };
        assert_eq!(reason.code, code);
        assert_eq!(vm.state, EnvironmentState::Failed);
        assert_eq!(installation.leftovers(), Vec::<String>::new(), "{code}");
        assert_eq!(runtime.capacity().await.unwrap().used, 1, "its record counts");
        assert!(runtime.logs(&key("w", 1)).await.unwrap().contains("told to refuse"));
    }
    installation.world.set(Faults::default());
    let made = create(&runtime, &installation, &key("w", 1)).await.unwrap();
    assert_eq!(made.vm.state, EnvironmentState::Ready, "tried again, it is made");
    runtime.remove(&key("w", 1), Generation(1)).await.unwrap();
    assert_eq!(installation.leftovers(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_one_is_still_failed_after_a_restart() {
    let installation = Installation::new();
    installation.world.set(Faults { refuse_start: true, ..Faults::default() });
    let runtime = installation.open().await;
    create(&runtime, &installation, &key("w", 1)).await.unwrap_err();
    drop(runtime);
    let runtime = installation.open().await;
    let vm = runtime.vm(&key("w", 1)).unwrap();
    assert_eq!(vm.state, EnvironmentState::Failed);
    assert_eq!(vm.reason.unwrap().code, "VMM_REFUSED");
    runtime.remove(&key("w", 1), Generation(1)).await.unwrap();
    assert!(runtime.vms().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_without_a_sound_kernel_or_image_makes_nothing() {
    let installation = Installation::new();
    let runtime = installation.open().await;
    let images = &installation.config.images_dir;
    let code = async || match create(&runtime, &installation, &key("w", 1)).await {
        Err(CreateError::Unable { reason }) => reason.code,
        Err(CreateError::Refused(error)) => error.reason().code,
        other => panic!("{other:?}"),
    };
    std::fs::write(images.join("vmlinux"), b"MZ").unwrap();
    assert_eq!(code().await, "KERNEL_UNUSABLE");
    std::fs::remove_file(images.join("vmlinux")).unwrap();
    assert_eq!(code().await, "KERNEL_NOT_FOUND");
    std::fs::write(images.join("rootfs.ext4"), b"no image").unwrap();
    assert_eq!(code().await, "ROOTFS_UNUSABLE");
    std::fs::remove_file(images.join("rootfs.ext4")).unwrap();
    assert_eq!(code().await, "IMAGE_NOT_FOUND");
    assert!(runtime.vms().is_empty());
    assert_eq!(installation.leftovers(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guests_switch_off_before_their_host_does_and_keep_their_disks() {
    let installation = Installation::new();
    let runtime = installation.open().await;
    assert_eq!(runtime.shut_down(PATIENCE).await, 0, "nothing runs");
    for seat in 1..=3 {
        create(&runtime, &installation, &key("w", seat)).await.unwrap();
    }
    installation.world.set(Faults { ignores_shutdown: true, ..Faults::default() });
    let began = std::time::Instant::now();
    assert_eq!(runtime.shut_down(Duration::from_millis(300)).await, 3);
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    installation.world.set(Faults::default());
    assert_eq!(runtime.shut_down(PATIENCE).await, 0);
    for seat in 1..=3 {
        let vm = in_state(&runtime, &key("w", seat), EnvironmentState::Stopped).await;
        assert_eq!(vm.pid, None);
    }
    // Wanted again, it starts on its own disk.
    runtime.apply(desired(&installation, &key("w", 1), 1)).await.unwrap();
    until_ready(&runtime, &key("w", 1), 1).await;
    for seat in 1..=3 {
        runtime.remove(&key("w", seat), Generation(1)).await.unwrap();
    }
    nothing_left(&installation).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hung_vmm_blocks_nobody_and_is_removed_at_once() {
    let installation = Installation::new();
    let runtime = installation.open().await;
    installation.world.set(Faults { hang_start: true, ..Faults::default() });
    runtime.apply(desired(&installation, &key("hung", 1), 1)).await.unwrap();
    let spawned = || async { (!installation.world.leftovers().is_empty()).then_some(()) };
    wait_for("the VMM to be there", PATIENCE, spawned).await;
    installation.world.set(Faults::default());
    create(&runtime, &installation, &key("well", 1)).await.unwrap();
    let began = std::time::Instant::now();
    runtime.remove(&key("hung", 1), Generation(1)).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    runtime.remove(&key("well", 1), Generation(1)).await.unwrap();
    assert_eq!(installation.leftovers(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vmm_that_ends_at_once_is_seen_to_have() {
    let installation = Installation::new();
    let runtime = installation.open().await;
    installation.world.set(Faults { exit_at_once: true, ..Faults::default() });
    let Err(CreateError::Failed { reason, vm }) = create(&runtime, &installation, &key("w", 1)).await else {
        panic!("it is ready")
    };
    assert_eq!((reason.code.as_str(), vm.state), ("VMM_EXITED", EnvironmentState::Stopped));
    installation.world.set(Faults::default());
    assert_eq!(
        create(&runtime, &installation, &key("w", 1)).await.unwrap().vm.state,
        EnvironmentState::Ready
    );
    runtime.remove(&key("w", 1), Generation(1)).await.unwrap();
    assert_eq!(installation.leftovers(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_never_gets_ready_is_kept_for_a_look() {
    let mut installation = Installation::new();
    installation.config.probe =
        ProbePolicy { patience: Duration::from_millis(300), ..ProbePolicy::default() };
    let runtime = installation.open().await;
    installation.world.set(Faults { never_parks: true, ..Faults::default() });
    let began = runtime.create(request(&installation, &key("w", 1), 1), Until::Started).await.unwrap();
    assert_eq!(began.vm.state, EnvironmentState::Starting, "a create answers when the guest runs");
    let vm = in_state(&runtime, &key("w", 1), EnvironmentState::Unresponsive).await;
    let reason = vm.reason.unwrap();
    assert_eq!(reason.code, "UNRESPONSIVE");
    assert!(reason.message.contains("booting"), "no console in: {}", reason.message);
    // Another process says the same of it; should it come after all, it is taken.
    drop(runtime);
    let runtime = installation.open().await;
    let same = in_state(&runtime, &key("w", 1), EnvironmentState::Unresponsive).await;
    assert_eq!(same.pid, vm.pid);
    installation.world.set(Faults::default());
    let ready = in_state(&runtime, &key("w", 1), EnvironmentState::Ready).await;
    assert_eq!(ready.pid, vm.pid);
    runtime.remove(&key("w", 1), Generation(1)).await.unwrap();
    assert_eq!(installation.leftovers(), Vec::<String>::new());
}

/// The first of its kind is waited for to park, and then to be told who it is: that is one patience, not two.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_of_its_kind_is_given_up_no_later_than_others() {
    const PROMISED: Duration = Duration::from_secs(4);
    let mut installation = Installation::new();
    installation.config.probe = ProbePolicy { patience: PROMISED, ..ProbePolicy::default() };
    installation.config.snapshots = true;
    let runtime = installation.open().await;
    installation.world.set(Faults { never_parks: true, ..Faults::default() });
    runtime.create(request(&installation, &key("w", 1), 1), Until::Started).await.unwrap();
    let began = std::time::Instant::now();
    in_state(&runtime, &key("w", 1), EnvironmentState::Unresponsive).await;
    assert!(began.elapsed() < PROMISED * 2, "{:?}", began.elapsed());
    runtime.remove(&key("w", 1), Generation(1)).await.unwrap();
    assert_eq!(installation.leftovers(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readiness_by_ping_needs_no_control_channel() {
    let installation = Installation::new();
    let runtime = installation.open().await;
    installation.world.set(Faults { never_parks: true, ..Faults::default() });
    let wish = CreateRequest { readiness: Some(Readiness::Ping), ..request(&installation, &key("w", 3), 1) };
    let made = runtime.create(wish, Until::Ready).await.unwrap();
    assert_eq!(made.vm.state, EnvironmentState::Ready);
    let journal = std::fs::read_to_string(installation.journal()).unwrap();
    let expected = "root=/dev/vda ro ip=192.168.100.13::192.168.100.1:255.255.255.0::eth0:off";
    assert!(journal.contains(expected), "{journal}");
    runtime.remove(&key("w", 3), Generation(1)).await.unwrap();
    assert_eq!(installation.leftovers(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_that_leaves_something_says_so_and_goes_on() {
    let installation = Installation::new();
    let runtime = installation.open().await;
    create(&runtime, &installation, &key("w", 1)).await.unwrap();
    installation.world.set(Faults { stuck_taps: true, ..Faults::default() });
    let outcome = runtime.remove(&key("w", 1), Generation(1)).await;
    assert!(matches!(outcome, Err(RuntimeError::Failed { .. })), "{outcome:?}");
    assert_eq!(runtime.vm(&key("w", 1)).unwrap().state, EnvironmentState::Removing);
    installation.world.set(Faults::default());
    // Nobody asks again: it is tried again by itself.
    let gone = || async { runtime.vm(&key("w", 1)).is_none().then_some(()) };
    wait_for("it to be gone", PATIENCE, gone).await;
    assert_eq!(installation.leftovers(), Vec::<String>::new());
}

/// What a wish begins is begun before it is known whether the wish stands.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_that_comes_with_a_wish_is_what_holds() {
    let installation = Installation::new();
    let runtime = installation.open().await;
    let key = key("a", 1);
    for generation in (1..40).step_by(2) {
        let removal = Generation(generation + 1);
        let apply = runtime.apply(desired(&installation, &key, generation));
        let (applied, removed) = tokio::join!(apply, runtime.remove(&key, removal));
        removed.unwrap();
        assert!(matches!(applied, Ok(()) | Err(RuntimeError::StaleGeneration { .. })), "{applied:?}");
        // The first may have come before there was anything to remove.
        runtime.remove(&key, removal).await.unwrap();
        assert_eq!(installation.leftovers(), Vec::<String>::new());
        assert_eq!(runtime.vms(), Vec::new());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_process_at_a_time_serves_a_state_directory() {
    let installation = Installation::new();
    let runtime = installation.open().await;
    let second = MicroVmRuntime::open(
        installation.config.clone(),
        installation.world.clone(),
        installation.world.clone(),
    )
    .await;
    assert!(matches!(second, Err(OpenError::InUse { .. })), "{second:?}");
    drop(runtime);
    installation.open().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_line_costs_its_vm_and_no_other() {
    let installation = Installation::new();
    let runtime = installation.open().await;
    for seat in [1, 2, 3] {
        create(&runtime, &installation, &key("w", seat)).await.unwrap();
    }
    drop(runtime);
    let victim = instance_of(&installation.config.state_dir, &key("w", 2)).unwrap();
    let journal = std::fs::read_to_string(installation.journal()).unwrap();
    let damaged: Vec<String> = journal
        .lines()
        .map(|line| {
            let its_intent = line.contains(r#""event":"intended""#) && line.contains(&victim);
            if its_intent { line.replace("making", "mak!ng") } else { line.to_owned() }
        })
        .collect();
    // And the last line is torn.
    std::fs::write(installation.journal(), format!("{}\n0123456789abcdef {{\"event\"", damaged.join("\n")))
        .unwrap();

    let runtime = installation.open().await;
    for seat in [1, 3] {
        until_ready(&runtime, &key("w", seat), 1).await;
    }
    assert!(runtime.vm(&key("w", 2)).is_none());
    let removed =
        || async { (!installation.leftovers().iter().any(|left| left.contains(&victim))).then_some(()) };
    wait_for("the VM without a record to be removed", PATIENCE, removed).await;
    let aside = std::fs::read_to_string(installation.config.state_dir.join("journal.damaged")).unwrap();
    assert!(aside.contains(&victim) && aside.contains("0123456789abcdef"));
    for seat in [1, 3] {
        runtime.remove(&key("w", seat), Generation(1)).await.unwrap();
    }
    nothing_left(&installation).await;
}

/// The line that says that a VM is gone was lost, and its address is another's by now: of another seat, or a later make.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_left_of_a_vm_takes_nothing_of_who_has_its_address() {
    let installation = Installation::new();
    let runtime = installation.open().await;
    let (first, second, rebuilt) = (key("a", 1), key("b", 1), key("c", 2));
    let gone = create(&runtime, &installation, &first).await.unwrap().vm;
    runtime.remove(&first, Generation(1)).await.unwrap();
    let before = create(&runtime, &installation, &rebuilt).await.unwrap().vm;
    let mut there = Vec::new();
    for (key, generation) in [(&second, 1), (&rebuilt, 2)] {
        let wish = request(&installation, key, generation);
        there.push(runtime.create(wish, Until::Ready).await.unwrap().vm);
    }
    assert_eq!([there[0].address, there[1].address], [gone.address, before.address]);
    drop(runtime);
    let is_gone = |line: &&str| line.contains(r#""event":"gone""#);
    let journal = std::fs::read_to_string(installation.journal()).unwrap();
    let rest: String =
        journal.lines().filter(|line| !is_gone(line)).map(|line| format!("{line}\n")).collect();
    std::fs::write(installation.journal(), rest).unwrap();

    let runtime = installation.open().await;
    let undone = || async {
        let journal = std::fs::read_to_string(installation.journal()).unwrap();
        (journal.lines().filter(is_gone).count() == 2).then_some(())
    };
    wait_for("both to be gone", PATIENCE, undone).await;
    for vm in &there {
        until_ready(&runtime, &vm.key, vm.generation.0).await;
        assert_eq!(runtime.vm(&vm.key).unwrap().pid, vm.pid, "it is undisturbed");
        let tap = format!("tap {}", clarateach_microvm::net::tap_name("fakes", vm.address));
        assert!(installation.leftovers().contains(&tap), "{tap} in {:?}", installation.leftovers());
    }
    for vm in there {
        runtime.remove(&vm.key, vm.generation).await.unwrap();
    }
    nothing_left(&installation).await;
}

/// Its agent ended when the VMM had been started, and before that was written down.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_being_started_again_is_not_started_beside_itself() {
    let installation = Installation::new();
    let runtime = installation.open().await;
    let one = key("w", 1);
    create(&runtime, &installation, &one).await.unwrap();
    let instance = instance_of(&installation.config.state_dir, &one).unwrap();
    installation.world.kill_from_outside(&instance);
    in_state(&runtime, &one, EnvironmentState::Stopped).await;
    installation.world.set(Faults { hang_start: true, ..Faults::default() });
    runtime.apply(desired(&installation, &one, 1)).await.unwrap();
    let spawned = || async {
        let journal = std::fs::read_to_string(installation.journal()).unwrap();
        (journal.matches(r#""event":"spawned""#).count() == 2).then_some(())
    };
    wait_for("its second VMM", PATIENCE, spawned).await;
    drop(runtime);
    installation.world.set(Faults::default());
    let runtime = installation.open().await;
    until_ready(&runtime, &one, 1).await;
    runtime.remove(&one, Generation(1)).await.unwrap();
    nothing_left(&installation).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_connect_to_nowhere_is_closed_in_before_anything_else() {
    let installation = Installation::new();
    let runtime = installation.open().await;
    let (nowhere, out, stopped) = (key("w", 1), key("w", 2), key("w", 3));
    for (key, egress) in [(&nowhere, Egress::None), (&out, Egress::Internet), (&stopped, Egress::None)] {
        let mut wish = request(&installation, key, 1);
        wish.desired.egress = egress;
        runtime.create(wish, Until::Ready).await.unwrap();
    }
    let instance = instance_of(&installation.config.state_dir, &stopped).unwrap();
    installation.world.kill_from_outside(&instance);
    in_state(&runtime, &stopped, EnvironmentState::Stopped).await;
    let confined = runtime.vm(&nowhere).unwrap().address;
    drop(runtime);
    let runtime = installation.open().await;
    assert_eq!(installation.world.confined(), [confined]);
    for key in [&nowhere, &out, &stopped] {
        runtime.remove(key, Generation(1)).await.unwrap();
    }
    nothing_left(&installation).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn left_overs_are_removed_in_the_background_and_only_ours() {
    let installation = Installation::new();
    let runtime = installation.open().await;
    create(&runtime, &installation, &key("w", 1)).await.unwrap();
    let instance = instance_of(&installation.config.state_dir, &key("w", 1)).unwrap();
    drop(runtime);
    let prefix = &instance[..12];
    for number in 0..10_000 {
        let name = format!("{prefix}{}", letters(number));
        std::fs::create_dir(installation.config.state_dir.join("vms").join(&name)).unwrap();
        std::fs::create_dir(installation.config.socket_dir.join(&name)).unwrap();
    }
    let stray = clarateach_microvm::net::tap_name("fakes", Ipv4Addr::new(192, 168, 100, 12));
    installation.world.plant_tap(&stray, Ipv4Addr::new(192, 168, 100, 12));
    let began = std::time::Instant::now();
    let runtime = installation.open().await;
    let opened = began.elapsed();
    assert!(opened < Duration::from_secs(2), "the start took {opened:?}");
    until_ready(&runtime, &key("w", 1), 1).await;
    // Its seat's own address is that of the left-over tap, and is not used before that is gone.
    let second = create(&runtime, &installation, &key("w", 2)).await.unwrap();
    for seat in [1, 2] {
        runtime.remove(&key("w", seat), Generation(1)).await.unwrap();
    }
    let _ = second;
    let gone = || async { installation.leftovers().is_empty().then_some(()) };
    wait_for("the left-overs to be gone", Duration::from_secs(120), gone).await;
}

fn letters(mut number: usize) -> String {
    let mut text = String::new();
    for _ in 0..12 {
        text.push(char::from(b'a' + (number % 26) as u8));
        number /= 26;
    }
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn draining_takes_no_new_vm_and_keeps_those_that_are_there() {
    let installation = Installation::new();
    let runtime = installation.open().await;
    create(&runtime, &installation, &key("w", 1)).await.unwrap();
    runtime.set_draining(true);
    let refused = create(&runtime, &installation, &key("w", 2)).await;
    assert!(matches!(refused, Err(CreateError::Draining)), "{refused:?}");
    create(&runtime, &installation, &key("w", 1)).await.unwrap();
    runtime.set_draining(false);
    create(&runtime, &installation, &key("w", 2)).await.unwrap();
    for seat in [1, 2] {
        runtime.remove(&key("w", seat), Generation(1)).await.unwrap();
    }
    assert_eq!(installation.leftovers(), Vec::<String>::new());
}

/// Runs a test with `directory` being a file system of its own of 16 MiB, on a thread that alone sees it.
fn on_a_small_disk<F: Future<Output = ()>>(directory: &std::path::Path, test: impl FnOnce() -> F + Send) {
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};
    let run = || {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        mount(Some("tmpfs"), directory, Some("tmpfs"), MsFlags::empty(), Some("size=16m,mode=0700")).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test());
    };
    std::thread::scope(|scope| {
        scope.spawn(run).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

#[test]
fn a_full_disk_refuses_one_vm_and_harms_no_other() {
    if !rustix::process::geteuid().is_root() {
        clarateach_testkit::skip("a full disk refuses one VM", "it takes root for a small file system");
        return;
    }
    let installation = Installation::new();
    let state = installation.config.state_dir.clone();
    std::fs::create_dir(&state).unwrap();
    on_a_small_disk(&state, || async {
        let runtime = installation.open().await;
        create(&runtime, &installation, &key("w", 1)).await.unwrap();
        let filler = state.join("filler");
        let mut file = std::fs::File::create(&filler).unwrap();
        while std::io::Write::write_all(&mut file, &[1; 4096]).is_ok() {}
        for left in [0, 8 << 10, 40 << 10] {
            let length = file.metadata().unwrap().len();
            file.set_len(length.saturating_sub(left)).unwrap();
            let code = match create(&runtime, &installation, &key("w", 2)).await {
                Err(CreateError::Failed { reason, .. } | CreateError::Unable { reason }) => reason.code,
                Err(CreateError::Refused(error)) => error.reason().code,
                other => panic!("with {left} bytes left: {other:?}"),
            };
            assert_eq!(code, "NO_SPACE", "with {left} bytes left");
            assert_eq!(runtime.vm(&key("w", 1)).unwrap().state, EnvironmentState::Ready);
        }
        drop(file);
        std::fs::remove_file(&filler).unwrap();
        create(&runtime, &installation, &key("w", 2)).await.unwrap();
        for seat in [1, 2] {
            runtime.remove(&key("w", seat), Generation(1)).await.unwrap();
        }
        assert_eq!(installation.leftovers(), Vec::<String>::new());
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_make_is_taken_back_unless_it_was_begun() {
    let installation = Installation::new();
    let runtime = installation.open().await;
    let (one, two) = (key("w", 1), key("w", 2));
    create(&runtime, &installation, &one).await.unwrap();
    assert!(!runtime.take_back(&one, Generation(1)).await.unwrap());
    assert_eq!(runtime.vm(&one).unwrap().state, EnvironmentState::Ready);
    // What could not be made has been begun too: its record says why.
    installation.world.set(Faults { refuse_start: true, ..Faults::default() });
    create(&runtime, &installation, &two).await.unwrap_err();
    assert!(!runtime.take_back(&two, Generation(1)).await.unwrap());
    installation.world.set(Faults::default());
    // Of a make that never was, everything before it goes, and it never comes; over a restart too.
    assert!(runtime.take_back(&one, Generation(2)).await.unwrap());
    assert!(runtime.vm(&one).is_none());
    drop(runtime);
    let runtime = installation.open().await;
    let again = runtime.create(request(&installation, &one, 2), Until::Ready).await;
    assert!(matches!(again, Err(CreateError::Refused(RuntimeError::StaleGeneration { .. }))), "{again:?}");
    assert!(runtime.take_back(&one, Generation(2)).await.unwrap());
    assert!(matches!(
        runtime.take_back(&one, Generation(1)).await,
        Err(RuntimeError::StaleGeneration { .. })
    ));
    runtime.remove(&two, Generation(1)).await.unwrap();
    nothing_left(&installation).await;
}

/// Both come at once, again and again: either it is made, or it never is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_make_and_its_taking_back_are_one_after_the_other() {
    let installation = Installation::new();
    let runtime = installation.open().await;
    let one = key("w", 1);
    for generation in 1..=20 {
        let (made, taken_back) = tokio::join!(
            runtime.create(request(&installation, &one, generation), Until::Started),
            runtime.take_back(&one, Generation(generation))
        );
        let is_there = runtime.vm(&one).is_some_and(|vm| vm.generation == Generation(generation));
        assert_eq!((made.is_ok(), is_there), (!taken_back.unwrap(), made.is_ok()), "{generation}: {made:?}");
    }
    runtime.remove(&one, Generation(20)).await.unwrap();
    nothing_left(&installation).await;
}
