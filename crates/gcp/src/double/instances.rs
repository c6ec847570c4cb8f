//! Instances: made, started, stopped, deleted, preempted.

use std::sync::Arc;

use serde_json::{Value, json};

use super::answers::No;
use super::attached::{attach, release};
use super::operations::{Change, Failure, Plan, start};
use super::world::{DiskRow, InstanceRow, Key, World, now, short, text, zonal_url};
use super::{PROJECT, Shared};
use crate::machine_type::MachineType;
use crate::model::last_segment;
use crate::names::ResourceName;

type Request<'a> = Option<&'a String>;

pub(super) fn key(zone: &str, name: &str) -> Key {
    (zone.to_owned(), name.to_owned())
}

pub(super) fn nothing() -> Change {
    Box::new(|_| Ok(()))
}

fn set_status(world: &mut World, key: &Key, status: &'static str) {
    if let Some(row) = world.instances.get_mut(key) {
        row.value["status"] = status.into();
    }
}

/// Whether it is still the same instance as when an operation began.
fn is_same(world: &World, key: &Key, id: &Value) -> bool {
    world.instances.get(key).is_some_and(|row| row.value["id"] == *id)
}

fn exhausted(world: &World, zone: &str) -> Result<(), Failure> {
    if !world.exhausted.contains(zone) {
        return Ok(());
    }
    Err(Failure {
        code: "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS",
        message: format!(
            "The zone 'projects/{PROJECT}/zones/{zone}' does not have enough resources available to fulfill the request.  Try a \
             different zone, or try again later."
        ),
        status: 503,
    })
}

fn over_quota(world: &World) -> Result<(), Failure> {
    if world.cpus_used() <= world.cpus {
        return Ok(());
    }
    Err(Failure {
        code: "QUOTA_EXCEEDED",
        message: format!("Quota 'CPUS' exceeded.  Limit: {}.0 in region us-central1.", world.cpus),
        status: 403,
    })
}

/// `instances.insert`.
pub(super) fn insert(
    shared: &Arc<Shared>,
    zone: &str,
    body: &Value,
    request: Request<'_>,
) -> Result<Value, No> {
    let mut guard = shared.world();
    let world = &mut *guard;
    let name = text(body, "name").to_owned();
    if name.parse::<ResourceName>().is_err() {
        return Err(No::invalid("resource.name", format!("'{name}'. Must be a match of regex")));
    }
    let url = zonal_url(zone, "instances", &name);
    let key = key(zone, &name);
    if world.instances.contains_key(&key) {
        return Err(No::exists(short(&url)));
    }
    check_rules(zone, body)?;
    let disk = boot_disk(world, zone, body)?;
    let disk_name = text(&disk.value, "name").to_owned();
    let disk_key = (zone.to_owned(), disk_name.clone());
    if world.disks.contains_key(&disk_key) {
        return Err(No::exists(short(&zonal_url(zone, "disks", &disk_name))));
    }
    let id = world.number();
    let mut value = shown(world, zone, body, id);
    let auto_delete = body["disks"][0]["autoDelete"].as_bool().unwrap_or(false);
    value["disks"] = json!([{
        "kind": "compute#attachedDisk", "type": "PERSISTENT", "mode": "READ_WRITE", "boot": true, "index": 0,
        "autoDelete": auto_delete,
        "deviceName": body["disks"][0].get("deviceName").cloned().unwrap_or_else(|| "persistent-disk-0".into()),
        "source": zonal_url(zone, "disks", &disk_name),
        "diskSizeGb": disk.value["sizeGb"],
        "interface": "SCSI",
    }]);
    let others = attach(world, zone, body, &url, &mut value)?;
    let mut disk = disk;
    disk.value["users"] = json!([url]);
    world.disks.insert(disk_key.clone(), disk);
    world.instances.insert(key.clone(), InstanceRow { value, console: String::new(), console_start: 0 });

    let (begin_key, begin_disk) = (key.clone(), disk_key.clone());
    let (zone_of, id) = (zone.to_owned(), Value::from(id.to_string()));
    let begin: Change = Box::new(move |world| {
        // Its own CPUs are counted already.
        let room = exhausted(world, &zone_of).and_then(|()| over_quota(world));
        if let Err(failure) = room {
            world.instances.remove(&begin_key);
            world.disks.remove(&begin_disk);
            others.iter().for_each(|other| release(world, other));
            return Err(failure);
        }
        set_status(world, &begin_key, "STAGING");
        if let Some(disk) = world.disks.get_mut(&begin_disk) {
            disk.value["status"] = "READY".into();
        }
        Ok(())
    });
    let end: Change = Box::new(move |world| {
        if is_same(world, &key, &id) && text(&world.instances[&key].value, "status") == "STAGING" {
            set_status(world, &key, "RUNNING");
            let row = world.instances.get_mut(&key).expect("just seen");
            row.value["lastStartTimestamp"] = now().into();
            let name = key.1.clone();
            world.print(&key.0, &name, &format!("[    0.000000] Linux version 6.1.0 ({name})\n"));
        }
        Ok(())
    });
    let plan = Plan { operation_type: "insert", target: url, zone: Some(zone.to_owned()), begin, end };
    Ok(start(shared, world, plan, request))
}

/// An instance as the API shows it, from what was asked for.
fn shown(world: &mut World, zone: &str, body: &Value, id: u64) -> Value {
    let name = text(body, "name");
    let mut value = body.clone();
    value["kind"] = "compute#instance".into();
    value["id"] = id.to_string().into();
    value["status"] = "PROVISIONING".into();
    value["creationTimestamp"] = now().into();
    value["zone"] = format!("https://www.googleapis.com/compute/v1/projects/{PROJECT}/zones/{zone}").into();
    value["machineType"] = zonal_url(zone, "machineTypes", last_segment(text(body, "machineType"))).into();
    value["selfLink"] = zonal_url(zone, "instances", name).into();
    value["labelFingerprint"] = world.fingerprint().into();
    let host = world.number() % 200 + 2;
    if let Some(interfaces) = value["networkInterfaces"].as_array_mut() {
        for interface in interfaces {
            interface["networkIP"] = format!("10.128.0.{host}").into();
            if let Some(configs) = interface.get_mut("accessConfigs").and_then(Value::as_array_mut) {
                for config in configs {
                    config["natIP"] = format!("34.66.0.{host}").into();
                }
            }
        }
    }
    value
}

/// What the documentation says goes together and what not.
fn check_rules(zone: &str, body: &Value) -> Result<(), No> {
    let machine_type = text(body, "machineType");
    if !machine_type.contains(&format!("zones/{zone}/machineTypes/")) {
        return Err(No::invalid("resource.machineType", format!("'{machine_type}'. The URL is malformed.")));
    }
    let family = last_segment(machine_type);
    if body["advancedMachineFeatures"]["enableNestedVirtualization"] == true
        && family.parse::<MachineType>().is_err()
    {
        return Err(No::new(
            400,
            "invalid",
            format!(
                "Invalid resource usage: 'Machine type {family} does not support nested virtualization.'."
            ),
        ));
    }
    let scheduling = &body["scheduling"];
    let spot = scheduling["provisioningModel"] == "SPOT";
    if spot && scheduling["automaticRestart"] != false {
        return Err(No::invalid(
            "resource.scheduling.automaticRestart",
            "'true'. Must be false for Spot VMs.",
        ));
    }
    if spot && scheduling["onHostMaintenance"] == "MIGRATE" {
        return Err(No::invalid(
            "resource.scheduling.onHostMaintenance",
            "'MIGRATE'. Spot VMs must terminate.",
        ));
    }
    if !spot && !scheduling["instanceTerminationAction"].is_null() {
        return Err(No::invalid(
            "resource.scheduling.instanceTerminationAction",
            "'STOP'. You cannot specify a termination action for a VM instance that has the standard provisioning model.",
        ));
    }
    if body["networkInterfaces"].as_array().is_none_or(Vec::is_empty) {
        return Err(No::invalid(
            "resource.networkInterfaces",
            "''. At least one network interface is required.",
        ));
    }
    Ok(())
}

fn boot_disk(world: &mut World, zone: &str, body: &Value) -> Result<DiskRow, No> {
    let disk = &body["disks"][0];
    if disk["boot"] != true {
        return Err(No::invalid("resource.disks", "''. Boot disk must be specified."));
    }
    let params = &disk["initializeParams"];
    let name = params["diskName"].as_str().unwrap_or(text(body, "name")).to_owned();
    super::storage::new_disk(world, zone, &name, params, text(params, "diskSizeGb"))
}

/// `instances.delete`.
pub(super) fn delete(
    shared: &Arc<Shared>,
    zone: &str,
    name: &str,
    request: Request<'_>,
) -> Result<Value, No> {
    let mut guard = shared.world();
    let world = &mut *guard;
    let (url, key) = (zonal_url(zone, "instances", name), key(zone, name));
    let row = world.instances.get_mut(&key).ok_or_else(|| No::not_found(short(&url)))?;
    if row.value["deletionProtection"] == true {
        let message = format!(
            "Invalid resource usage: 'Resource cannot be deleted if it's protected against deletion. {name}'."
        );
        return Err(No::new(400, "invalid", message));
    }
    let id = row.value["id"].clone();
    if text(&row.value, "status") != "TERMINATED" {
        row.value["status"] = "STOPPING".into();
    }
    let end: Change = Box::new(move |world| {
        if !is_same(world, &key, &id) {
            return Ok(());
        }
        let Some(row) = world.instances.remove(&key) else { return Ok(()) };
        for disk in row.value["disks"].as_array().into_iter().flatten() {
            let disk_key = (key.0.clone(), last_segment(text(disk, "source")).to_owned());
            if disk["autoDelete"] == true {
                super::storage::drop_disk(world, &disk_key);
            } else {
                release(world, &disk_key);
            }
        }
        Ok(())
    });
    let plan =
        Plan { operation_type: "delete", target: url, zone: Some(zone.to_owned()), begin: nothing(), end };
    Ok(start(shared, world, plan, request))
}

/// `instances.stop`.
pub(super) fn stop(shared: &Arc<Shared>, zone: &str, name: &str, request: Request<'_>) -> Result<Value, No> {
    halt(shared, zone, name, "stop", request)
}

/// Google stops it.
pub(super) fn preempt(shared: &Arc<Shared>, zone: &str, name: &str) {
    {
        let world = shared.world();
        let row = world.instances.get(&key(zone, name)).expect("the instance is there");
        assert_eq!(row.value["scheduling"]["provisioningModel"], "SPOT", "only Spot instances are preempted");
        assert_eq!(row.value["status"], "RUNNING", "only running instances are preempted");
    }
    halt(shared, zone, name, "compute.instances.preempted", None).expect("it is there");
}

fn halt(
    shared: &Arc<Shared>,
    zone: &str,
    name: &str,
    operation_type: &'static str,
    request: Request<'_>,
) -> Result<Value, No> {
    let mut guard = shared.world();
    let world = &mut *guard;
    let (url, key) = (zonal_url(zone, "instances", name), key(zone, name));
    let row = world.instances.get_mut(&key).ok_or_else(|| No::not_found(short(&url)))?;
    let id = row.value["id"].clone();
    if matches!(text(&row.value, "status"), "PROVISIONING" | "STAGING") {
        return Err(No::not_ready(short(&url)));
    }
    let runs = text(&row.value, "status") == "RUNNING";
    if runs {
        row.value["status"] = "STOPPING".into();
    }
    let end: Change = Box::new(move |world| {
        if is_same(world, &key, &id) && text(&world.instances[&key].value, "status") == "STOPPING" {
            set_status(world, &key, "TERMINATED");
            let row = world.instances.get_mut(&key).expect("just seen");
            row.value["lastStopTimestamp"] = now().into();
        }
        Ok(())
    });
    let plan = Plan { operation_type, target: url, zone: Some(zone.to_owned()), begin: nothing(), end };
    Ok(start(shared, world, plan, request))
}

/// `instances.start`.
pub(super) fn resume(
    shared: &Arc<Shared>,
    zone: &str,
    name: &str,
    request: Request<'_>,
) -> Result<Value, No> {
    let mut guard = shared.world();
    let world = &mut *guard;
    let (url, key) = (zonal_url(zone, "instances", name), key(zone, name));
    let row = world.instances.get_mut(&key).ok_or_else(|| No::not_found(short(&url)))?;
    let (id, was) = (row.value["id"].clone(), text(&row.value, "status").to_owned());
    match was.as_str() {
        "TERMINATED" => row.value["status"] = "PROVISIONING".into(),
        "RUNNING" | "PROVISIONING" | "STAGING" => {}
        _ => return Err(No::not_ready(short(&url))),
    }
    let (zone_of, begin_key, begin_id) = (zone.to_owned(), key.clone(), id.clone());
    let began = was == "TERMINATED";
    let begin: Change = Box::new(move |world| {
        if !began || !is_same(world, &begin_key, &begin_id) {
            return Ok(());
        }
        if let Err(failure) = exhausted(world, &zone_of).and_then(|()| over_quota(world)) {
            set_status(world, &begin_key, "TERMINATED");
            return Err(failure);
        }
        set_status(world, &begin_key, "STAGING");
        Ok(())
    });
    let end: Change = Box::new(move |world| {
        if is_same(world, &key, &id) && text(&world.instances[&key].value, "status") == "STAGING" {
            set_status(world, &key, "RUNNING");
            let row = world.instances.get_mut(&key).expect("just seen");
            row.value["lastStartTimestamp"] = now().into();
        }
        Ok(())
    });
    let plan = Plan { operation_type: "start", target: url, zone: Some(zone.to_owned()), begin, end };
    Ok(start(shared, world, plan, request))
}

/// `instances.setLabels`.
pub(super) fn set_labels(
    shared: &Arc<Shared>,
    zone: &str,
    name: &str,
    body: &Value,
    request: Request<'_>,
) -> Result<Value, No> {
    let mut guard = shared.world();
    let world = &mut *guard;
    let (url, key) = (zonal_url(zone, "instances", name), key(zone, name));
    let fingerprint = world.fingerprint();
    let row = world.instances.get_mut(&key).ok_or_else(|| No::not_found(short(&url)))?;
    if row.value["labelFingerprint"] != body["labelFingerprint"] {
        return Err(No::new(
            412,
            "conditionNotMet",
            "Labels fingerprint either invalid or resource labels have changed",
        ));
    }
    row.value["labels"] = body["labels"].clone();
    row.value["labelFingerprint"] = fingerprint.into();
    let plan = Plan {
        operation_type: "setLabels",
        target: url,
        zone: Some(zone.to_owned()),
        begin: nothing(),
        end: nothing(),
    };
    Ok(start(shared, world, plan, request))
}

/// `instances.getSerialPortOutput`.
pub(super) fn console(
    shared: &Arc<Shared>,
    zone: &str,
    name: &str,
    from: Option<&String>,
) -> Result<Value, No> {
    let world = shared.world();
    let url = zonal_url(zone, "instances", name);
    let row = world.instances.get(&key(zone, name)).ok_or_else(|| No::not_found(short(&url)))?;
    let wanted: usize = match from {
        Some(text) => text.parse().map_err(|_| No::invalid("start", format!("'{text}'")))?,
        None => 0,
    };
    let end = row.console_start + row.console.len();
    let mut begin = wanted.clamp(row.console_start, end) - row.console_start;
    while !row.console.is_char_boundary(begin) {
        begin += 1;
    }
    Ok(json!({
        "kind": "compute#serialPortOutput",
        "contents": row.console[begin..],
        "start": (row.console_start + begin).to_string(),
        "next": end.to_string(),
        "selfLink": format!("{url}/serialPort"),
    }))
}

/// One that somebody made by hand.
pub(super) fn put(shared: &Arc<Shared>, zone: &str, name: &str, content: &str) {
    let mut guard = shared.world();
    let world = &mut *guard;
    let id = world.number();
    let body = json!({
        "name": name,
        "machineType": format!("zones/{zone}/machineTypes/n2-standard-8"),
        "networkInterfaces": [{"network": "global/networks/default", "accessConfigs": [{"type": "ONE_TO_ONE_NAT"}]}],
        "scheduling": {"provisioningModel": "STANDARD", "automaticRestart": true, "onHostMaintenance": "MIGRATE"},
        "labels": {"team": "teaching"},
        "metadata": {"items": [{"key": "agent-token", "value": "token-of-the-old-vm"}]},
    });
    let mut value = shown(world, zone, &body, id);
    value["status"] = "RUNNING".into();
    value["lastStartTimestamp"] = now().into();
    value["disks"] = json!([{
        "type": "PERSISTENT", "mode": "READ_WRITE", "boot": true, "index": 0, "autoDelete": true, "deviceName": name,
        "source": zonal_url(zone, "disks", name), "diskSizeGb": "50",
    }]);
    let params = json!({"sourceImage": "projects/debian-cloud/global/images/family/debian-12"});
    let mut disk = super::storage::new_disk(world, zone, name, &params, "50").expect("an image can be had");
    disk.value["status"] = "READY".into();
    disk.value["users"] = json!([zonal_url(zone, "instances", name)]);
    content.clone_into(&mut disk.content);
    world.disks.insert(key(zone, name), disk);
    world.instances.insert(key(zone, name), InstanceRow { value, console: String::new(), console_start: 0 });
}
