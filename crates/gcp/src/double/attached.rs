//! Disks that are attached to instances beside those they boot from.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::Shared;
use super::answers::No;
use super::instances::{key, nothing};
use super::operations::{Plan, start};
use super::world::{Key, World, short, text, zonal_url};
use crate::model::last_segment;

/// The disks beside the one it boots from: they have to be there, and nobody else's unless all only read.
pub(super) fn attach(
    world: &mut World,
    zone: &str,
    body: &Value,
    url: &str,
    value: &mut Value,
) -> Result<Vec<Key>, No> {
    let mut keys = Vec::new();
    for (index, disk) in body["disks"].as_array().into_iter().flatten().enumerate().skip(1) {
        let disk_key = key(zone, last_segment(text(disk, "source")));
        let its_url = zonal_url(zone, "disks", &disk_key.1);
        let found = world.disks.get(&disk_key).ok_or_else(|| No::not_found(short(&its_url)))?;
        let taken = found.value["users"].as_array().is_some_and(|users| !users.is_empty());
        if taken && text(disk, "mode") != "READ_ONLY" {
            let message = format!("The disk resource '{}' is already being used", short(&its_url));
            return Err(No::new(400, "resourceInUseByAnotherResource", message));
        }
        let mut attached = disk.clone();
        attached["index"] = index.into();
        attached["source"] = its_url.into();
        attached["diskSizeGb"] = found.value["sizeGb"].clone();
        value["disks"].as_array_mut().expect("the boot disk is there").push(attached);
        keys.push(disk_key);
    }
    for disk_key in &keys {
        let users = &mut world.disks.get_mut(disk_key).expect("just seen").value["users"];
        users.as_array_mut().expect("a list").push(url.into());
    }
    Ok(keys)
}

/// A disk is nobody's any more.
pub(super) fn release(world: &mut World, key: &Key) {
    if let Some(disk) = world.disks.get_mut(key) {
        disk.value["users"] = json!([]);
    }
}

/// `instances.setDiskAutoDelete`.
pub(super) fn set_disk_auto_delete(
    shared: &Arc<Shared>,
    zone: &str,
    name: &str,
    query: &BTreeMap<String, String>,
) -> Result<Value, No> {
    let mut guard = shared.world();
    let world = &mut *guard;
    let (url, key) = (zonal_url(zone, "instances", name), key(zone, name));
    let row = world.instances.get_mut(&key).ok_or_else(|| No::not_found(short(&url)))?;
    let device = query.get("deviceName").map(String::as_str).unwrap_or_default();
    let goes = match query.get("autoDelete").map(String::as_str) {
        Some("true") => true,
        Some("false") => false,
        other => return Err(No::invalid("autoDelete", format!("'{}'", other.unwrap_or_default()))),
    };
    let mut disks = row.value["disks"].as_array_mut().into_iter().flatten();
    let disk = disks
        .find(|disk| text(disk, "deviceName") == device)
        .ok_or_else(|| No::invalid("deviceName", format!("'{device}'. No attached disk found")))?;
    disk["autoDelete"] = goes.into();
    let plan = Plan {
        operation_type: "setDiskAutoDelete",
        target: url,
        zone: Some(zone.to_owned()),
        begin: nothing(),
        end: nothing(),
    };
    Ok(start(shared, world, plan, query.get("requestId")))
}

/// Somebody attaches another disk by hand; it goes with the instance.
pub(super) fn put_disk(shared: &Arc<Shared>, zone: &str, name: &str, disk_name: &str, content: &str) {
    let mut world = shared.world();
    let params = json!({"sourceImage": "projects/debian-cloud/global/images/family/debian-12"});
    let mut disk =
        super::storage::new_disk(&mut world, zone, disk_name, &params, "200").expect("an image can be had");
    disk.value["status"] = "READY".into();
    disk.value["users"] = json!([zonal_url(zone, "instances", name)]);
    content.clone_into(&mut disk.content);
    world.disks.insert(key(zone, disk_name), disk);
    let row = world.instances.get_mut(&key(zone, name)).expect("the instance is there");
    let disks = row.value["disks"].as_array_mut().expect("it has a boot disk");
    disks.push(json!({
        "type": "PERSISTENT", "mode": "READ_WRITE", "boot": false, "index": disks.len(), "autoDelete": true,
        "deviceName": disk_name, "source": zonal_url(zone, "disks", disk_name), "diskSizeGb": "200",
    }));
}
