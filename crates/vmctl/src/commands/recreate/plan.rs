//! What to do next, from what is there. No I/O.

use clarateach_gcp::{Disk, Instance, InstanceStatus, Snapshot, SnapshotStatus};
use jiff::Timestamp;

/// What is there.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// The VM.
    pub(super) instance: Option<Instance>,
    /// Its boot disk; without a VM, a disk of its name.
    pub(super) disk: Option<Disk>,
    /// Snapshots that recreate has made of this VM's disks.
    pub(super) snapshots: Vec<Snapshot>,
}

/// What is wanted.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    pub(super) machine_type: &'a str,
    pub(super) spot: bool,
    pub(super) force: bool,
}

/// The one thing to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Stop,
    Snapshot,
    Delete { snapshot: String },
    Create { snapshot: String },
    Wait(&'static str),
    NothingThere,
    Done,
}

/// The one thing to do next, or why nothing can be done.
pub(super) fn next(seen: &Seen, wanted: &Wanted<'_>) -> Result<Step, String> {
    match &seen.instance {
        Some(instance) => with_instance(instance, seen, wanted),
        None => Ok(without_instance(&seen.snapshots)),
    }
}

fn with_instance(instance: &Instance, seen: &Seen, wanted: &Wanted<'_>) -> Result<Step, String> {
    let status = instance.status();
    let as_wanted = instance.nested_virtualization()
        && instance.machine_type_name() == wanted.machine_type
        && instance.is_spot() == wanted.spot;
    if as_wanted && !wanted.force {
        return Ok(match status {
            InstanceStatus::Running | InstanceStatus::Terminated | InstanceStatus::Stopped => Step::Done,
            _ => Step::Wait(status.as_str()),
        });
    }
    check(instance)?;
    match status {
        InstanceStatus::Running => Ok(Step::Stop),
        InstanceStatus::Terminated | InstanceStatus::Stopped => Ok(stopped(instance, seen)),
        InstanceStatus::Suspended => Err(format!(
            "{} is suspended: what it has in memory is not on its disk; resume and stop it first",
            instance.name()
        )),
        _ => Ok(Step::Wait(status.as_str())),
    }
}

/// What would be lost without anybody having said so.
fn check(instance: &Instance) -> Result<(), String> {
    let name = instance.name();
    if instance.deletion_protection == Some(true) {
        return Err(format!("{name} is protected against deletion; switch that off first"));
    }
    if instance.disks.iter().flatten().count() != 1 || instance.boot_disk().is_none() {
        return Err(format!(
            "{name} has other disks than the one it boots from; recreate carries over only that one. Detach the others first"
        ));
    }
    Ok(())
}

fn stopped(instance: &Instance, seen: &Seen) -> Step {
    let usable = seen.snapshots.iter().filter(|snapshot| is_of_now(snapshot, instance, seen.disk.as_ref()));
    let mut unfinished = false;
    for snapshot in usable {
        match snapshot.status() {
            SnapshotStatus::Ready => return Step::Delete { snapshot: snapshot.name().to_owned() },
            SnapshotStatus::Creating | SnapshotStatus::Uploading => unfinished = true,
            _ => {}
        }
    }
    if unfinished { Step::Wait("its snapshot") } else { Step::Snapshot }
}

/// Whether a snapshot holds all that is on the disk: it is of this very disk, and was made after the VM was last stopped.
fn is_of_now(snapshot: &Snapshot, instance: &Instance, disk: Option<&Disk>) -> bool {
    let time = |text: &Option<String>| text.as_deref().and_then(|text| text.parse::<Timestamp>().ok());
    let of_this_disk = disk.is_some_and(|disk| disk.id.is_some() && disk.id == snapshot.source_disk_id);
    match (time(&snapshot.creation_timestamp), time(&instance.last_stop_timestamp)) {
        (Some(made), Some(stopped)) => of_this_disk && made >= stopped,
        _ => false,
    }
}

/// The VM is gone: the newest snapshot is what is left of it.
fn without_instance(snapshots: &[Snapshot]) -> Step {
    let alive = snapshots.iter().filter(|snapshot| {
        matches!(
            snapshot.status(),
            SnapshotStatus::Ready | SnapshotStatus::Creating | SnapshotStatus::Uploading
        )
    });
    let made = |snapshot: &Snapshot| {
        snapshot.creation_timestamp.as_deref().and_then(|text| text.parse::<Timestamp>().ok())
    };
    match alive.max_by_key(|snapshot| made(snapshot)) {
        Some(snapshot) if snapshot.status() == SnapshotStatus::Ready => {
            Step::Create { snapshot: snapshot.name().to_owned() }
        }
        Some(_) => Step::Wait("its snapshot"),
        None => Step::NothingThere,
    }
}

#[cfg(test)]
mod tests {
    use clarateach_gcp::{AdvancedMachineFeatures, AttachedDisk, Scheduling};

    use super::*;

    const WANTED: Wanted<'static> = Wanted { machine_type: "n2-standard-8", spot: true, force: false };

    fn instance(status: InstanceStatus) -> Instance {
        Instance {
            name: Some("clara2".to_owned()),
            status: Some(status),
            machine_type: Some("…/machineTypes/n2-standard-8".to_owned()),
            last_stop_timestamp: Some("2026-11-23T10:00:00Z".to_owned()),
            disks: Some(vec![AttachedDisk {
                boot: Some(true),
                auto_delete: Some(true),
                ..AttachedDisk::default()
            }]),
            ..Instance::default()
        }
    }

    fn snapshot(name: &str, made: &str, status: SnapshotStatus, disk: &str) -> Snapshot {
        Snapshot {
            name: Some(name.to_owned()),
            creation_timestamp: Some(made.to_owned()),
            status: Some(status),
            source_disk_id: Some(disk.to_owned()),
            ..Snapshot::default()
        }
    }

    fn seen(instance: Option<Instance>, snapshots: Vec<Snapshot>) -> Seen {
        let disk = instance.as_ref().map(|_| Disk { id: Some("1".to_owned()), ..Disk::default() });
        Seen { instance, disk, snapshots }
    }

    #[test]
    fn nothing_is_deleted_before_a_snapshot_of_the_disk_as_it_is_now_is_ready() {
        let stopped = || Some(instance(InstanceStatus::Terminated));
        assert_eq!(next(&seen(Some(instance(InstanceStatus::Running)), vec![]), &WANTED), Ok(Step::Stop));
        assert_eq!(next(&seen(stopped(), vec![]), &WANTED), Ok(Step::Snapshot));
        let ready = SnapshotStatus::Ready;
        for useless in [
            snapshot("before the stop", "2026-11-23T09:59:59Z", ready, "1"),
            snapshot("of another disk", "2026-11-23T10:01:00Z", ready, "2"),
            snapshot("that failed", "2026-11-23T10:01:00Z", SnapshotStatus::Failed, "1"),
            snapshot("without a time", "", ready, "1"),
        ] {
            assert_eq!(next(&seen(stopped(), vec![useless]), &WANTED), Ok(Step::Snapshot));
        }
        for unfinished in [SnapshotStatus::Creating, SnapshotStatus::Uploading] {
            let found = vec![snapshot("s", "2026-11-23T10:01:00Z", unfinished, "1")];
            assert_eq!(next(&seen(stopped(), found), &WANTED), Ok(Step::Wait("its snapshot")));
        }
        let found = vec![snapshot("s", "2026-11-23T10:01:00Z", ready, "1")];
        assert_eq!(next(&seen(stopped(), found), &WANTED), Ok(Step::Delete { snapshot: "s".to_owned() }));
    }

    #[test]
    fn a_deleted_vm_is_made_of_its_newest_snapshot() {
        assert_eq!(next(&seen(None, vec![]), &WANTED), Ok(Step::NothingThere));
        let found = vec![
            snapshot("old", "2026-11-20T10:00:00Z", SnapshotStatus::Ready, "1"),
            snapshot("new", "2026-11-23T11:00:00+00:00", SnapshotStatus::Ready, "1"),
            snapshot("failed", "2026-11-24T11:00:00Z", SnapshotStatus::Failed, "1"),
        ];
        assert_eq!(next(&seen(None, found), &WANTED), Ok(Step::Create { snapshot: "new".to_owned() }));
    }

    #[test]
    fn what_is_as_wanted_is_left_alone_and_what_would_be_lost_is_refused() {
        let mut fine = instance(InstanceStatus::Running);
        fine.advanced_machine_features =
            Some(AdvancedMachineFeatures { enable_nested_virtualization: Some(true) });
        fine.scheduling =
            Some(Scheduling { provisioning_model: Some("SPOT".to_owned()), ..Scheduling::default() });
        assert_eq!(next(&seen(Some(fine.clone()), vec![]), &WANTED), Ok(Step::Done));
        let forced = Wanted { force: true, ..WANTED };
        assert_eq!(next(&seen(Some(fine.clone()), vec![]), &forced), Ok(Step::Stop));
        let other = Wanted { machine_type: "n2-standard-16", ..WANTED };
        assert_eq!(next(&seen(Some(fine), vec![]), &other), Ok(Step::Stop));
        let mut two_disks = instance(InstanceStatus::Running);
        two_disks.disks.as_mut().unwrap().push(AttachedDisk::default());
        assert!(next(&seen(Some(two_disks), vec![]), &WANTED).unwrap_err().contains("other disks"));
        let mut protected = instance(InstanceStatus::Terminated);
        protected.deletion_protection = Some(true);
        assert!(next(&seen(Some(protected), vec![]), &WANTED).unwrap_err().contains("protected"));
        for passing in [InstanceStatus::Stopping, InstanceStatus::Staging, InstanceStatus::Provisioning] {
            assert!(matches!(next(&seen(Some(instance(passing)), vec![]), &WANTED), Ok(Step::Wait(_))));
        }
    }
}
