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
    /// GB; none: as large as it is.
    pub(super) disk_size: Option<u32>,
    pub(super) force: bool,
}

/// The one thing to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Stop,
    Snapshot,
    /// Have a disk outlive the VM; by its device's name.
    Keep {
        device: String,
    },
    Delete {
        snapshot: String,
    },
    Create {
        snapshot: String,
    },
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
    check(instance, wanted)?;
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
fn check(instance: &Instance, wanted: &Wanted<'_>) -> Result<(), String> {
    let name = instance.name();
    if instance.deletion_protection == Some(true) {
        return Err(format!("{name} is protected against deletion; switch that off first"));
    }
    let Some(boot) = instance.boot_disk() else {
        return Err(format!("{name} has no disk that it boots from"));
    };
    if instance.disks.iter().flatten().any(|disk| disk.r#type.as_deref() == Some("SCRATCH")) {
        return Err(format!(
            "{name} has a local SSD, and what is on that is lost when the VM is stopped; recreate can't carry it over"
        ));
    }
    let size = boot.disk_size_gb.as_deref().and_then(|size| size.parse::<u32>().ok());
    match (wanted.disk_size, size) {
        (Some(wanted), Some(is)) if wanted < is => Err(format!(
            "the disk of {name} has {is} GB, and a disk can't be made smaller: give --disk-size {is} or more, or none"
        )),
        _ => Ok(()),
    }
}

fn stopped(instance: &Instance, seen: &Seen) -> Step {
    let usable = seen.snapshots.iter().filter(|snapshot| is_of_now(snapshot, instance, seen.disk.as_ref()));
    let mut unfinished = false;
    for snapshot in usable {
        match snapshot.status() {
            SnapshotStatus::Ready => return keep_or_delete(instance, snapshot.name()),
            SnapshotStatus::Creating | SnapshotStatus::Uploading => unfinished = true,
            _ => {}
        }
    }
    if unfinished { Step::Wait("its snapshot") } else { Step::Snapshot }
}

/// The other disks must not go with the VM.
fn keep_or_delete(instance: &Instance, snapshot: &str) -> Step {
    let mut others = instance.disks.iter().flatten().filter(|disk| disk.boot != Some(true));
    match others.find(|disk| disk.auto_delete == Some(true)) {
        Some(goes) => Step::Keep { device: goes.device_name.clone().unwrap_or_default() },
        None => Step::Delete { snapshot: snapshot.to_owned() },
    }
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

    const WANTED: Wanted<'static> =
        Wanted { machine_type: "n2-standard-8", spot: true, disk_size: None, force: false };

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
    fn other_disks_are_kept_before_the_vm_goes() {
        let mut stopped = instance(InstanceStatus::Terminated);
        let data = AttachedDisk {
            device_name: Some("data".to_owned()),
            auto_delete: Some(true),
            ..AttachedDisk::default()
        };
        stopped.disks.as_mut().unwrap().push(data);
        let ready = || vec![snapshot("s", "2026-11-23T10:01:00Z", SnapshotStatus::Ready, "1")];
        let keep = Step::Keep { device: "data".to_owned() };
        assert_eq!(next(&seen(Some(stopped.clone()), ready()), &WANTED), Ok(keep));
        stopped.disks.as_mut().unwrap()[1].auto_delete = Some(false);
        let delete = Step::Delete { snapshot: "s".to_owned() };
        assert_eq!(next(&seen(Some(stopped), ready()), &WANTED), Ok(delete));
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
        let mut local = instance(InstanceStatus::Running);
        let scratch = AttachedDisk { r#type: Some("SCRATCH".to_owned()), ..AttachedDisk::default() };
        local.disks.as_mut().unwrap().push(scratch);
        assert!(next(&seen(Some(local), vec![]), &WANTED).unwrap_err().contains("local SSD"));
        let mut large = instance(InstanceStatus::Running);
        large.disks.as_mut().unwrap()[0].disk_size_gb = Some("100".to_owned());
        let small = Wanted { disk_size: Some(50), ..WANTED };
        assert!(next(&seen(Some(large.clone()), vec![]), &small).unwrap_err().contains("--disk-size 100"));
        assert_eq!(next(&seen(Some(large), vec![]), &WANTED), Ok(Step::Stop));
        let mut protected = instance(InstanceStatus::Terminated);
        protected.deletion_protection = Some(true);
        assert!(next(&seen(Some(protected), vec![]), &WANTED).unwrap_err().contains("protected"));
        for passing in [InstanceStatus::Stopping, InstanceStatus::Staging, InstanceStatus::Provisioning] {
            assert!(matches!(next(&seen(Some(instance(passing)), vec![]), &WANTED), Ok(Step::Wait(_))));
        }
    }
}
