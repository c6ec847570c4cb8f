//! Disks and snapshots.

use std::sync::Arc;

use serde_json::{Value, json};

use super::answers::No;
use super::operations::{Change, Failure, Plan, start};
use super::world::{DiskRow, Key, SnapshotRow, World, now, short, text, zonal_url};
use super::{PROJECT, Shared};
use crate::model::last_segment;
use crate::names::ResourceName;

/// GB of a Debian image.
const IMAGE_GB: u64 = 10;

fn snapshot_url(name: &str) -> String {
    format!("https://www.googleapis.com/compute/v1/projects/{PROJECT}/global/snapshots/{name}")
}

/// A disk as `initializeParams` or `disks.insert` want it; still `CREATING`, and nobody's.
pub(super) fn new_disk(
    world: &mut World,
    zone: &str,
    name: &str,
    params: &Value,
    size: &str,
) -> Result<DiskRow, No> {
    if name.parse::<ResourceName>().is_err() {
        return Err(No::invalid("resource.name", format!("'{name}'. Must be a match of regex")));
    }
    let id = world.number();
    let disk_type = params["diskType"].as_str().map_or("pd-standard", last_segment);
    let mut value = json!({
        "kind": "compute#disk",
        "id": id.to_string(),
        "name": name,
        "zone": format!("https://www.googleapis.com/compute/v1/projects/{PROJECT}/zones/{zone}"),
        "status": "CREATING",
        "creationTimestamp": now(),
        "selfLink": zonal_url(zone, "disks", name),
        "type": zonal_url(zone, "diskTypes", disk_type),
        "users": [],
    });
    if let Some(labels) = params.get("labels") {
        value["labels"] = labels.clone();
    }
    let (content, least) = if let Some(source) = params["sourceSnapshot"].as_str() {
        let snapshot = world
            .snapshots
            .get(last_segment(source))
            .ok_or_else(|| No::not_found(short(&snapshot_url(last_segment(source)))))?;
        if snapshot.value["status"] != "READY" {
            return Err(No::not_ready(short(&snapshot_url(last_segment(source)))));
        }
        value["sourceSnapshot"] = snapshot_url(last_segment(source)).into();
        value["sourceSnapshotId"] = snapshot.value["id"].clone();
        (snapshot.content.clone(), text(&snapshot.value, "diskSizeGb").parse().unwrap_or(IMAGE_GB))
    } else if let Some(source) = params["sourceImage"].as_str() {
        if !source.contains("/global/images/") && !source.contains("/imageFamilyViews/") {
            return Err(No::invalid("resource.sourceImage", format!("'{source}'. The URL is malformed.")));
        }
        value["sourceImage"] = source.into();
        (format!("fresh disk {id}"), IMAGE_GB)
    } else {
        return Err(No::invalid(
            "resource.disks[0].initializeParams",
            "''. A source image or snapshot is required.",
        ));
    };
    let size: u64 = if size.is_empty() { least } else { size.parse().unwrap_or(0) };
    if size < least {
        let why =
            format!("'{size}'. Requested disk size cannot be smaller than the source's size ({least} GB)");
        return Err(No::invalid("resource.disks[0].initializeParams.diskSizeGb", why));
    }
    value["sizeGb"] = size.to_string().into();
    Ok(DiskRow { value, content })
}

/// It is gone, and snapshots of it that were not ready are lost.
pub(super) fn drop_disk(world: &mut World, key: &Key) {
    let Some(disk) = world.disks.remove(key) else { return };
    for snapshot in world.snapshots.values_mut() {
        let unfinished = matches!(text(&snapshot.value, "status"), "CREATING" | "UPLOADING");
        if unfinished && snapshot.value["sourceDiskId"] == disk.value["id"] {
            snapshot.value["status"] = "FAILED".into();
        }
    }
}

/// `disks.insert`.
pub(super) fn insert(
    shared: &Arc<Shared>,
    zone: &str,
    body: &Value,
    request: Option<&String>,
) -> Result<Value, No> {
    let mut guard = shared.world();
    let world = &mut *guard;
    let name = text(body, "name").to_owned();
    let (url, key) = (zonal_url(zone, "disks", &name), (zone.to_owned(), name.clone()));
    if world.disks.contains_key(&key) {
        return Err(No::exists(short(&url)));
    }
    let disk = new_disk(world, zone, &name, body, text(body, "sizeGb"))?;
    world.disks.insert(key.clone(), disk);
    let end: Change = Box::new(move |world| {
        if let Some(disk) = world.disks.get_mut(&key) {
            disk.value["status"] = "READY".into();
        }
        Ok(())
    });
    let plan = Plan {
        operation_type: "insert",
        target: url,
        zone: Some(zone.to_owned()),
        begin: Box::new(|_| Ok(())),
        end,
    };
    Ok(start(shared, world, plan, request))
}

/// `disks.delete`.
pub(super) fn delete(
    shared: &Arc<Shared>,
    zone: &str,
    name: &str,
    request: Option<&String>,
) -> Result<Value, No> {
    let mut guard = shared.world();
    let world = &mut *guard;
    let (url, key) = (zonal_url(zone, "disks", name), (zone.to_owned(), name.to_owned()));
    let disk = world.disks.get(&key).ok_or_else(|| No::not_found(short(&url)))?;
    if let Some(user) = disk.value["users"][0].as_str() {
        return Err(No::in_use(short(&url), short(user)));
    }
    let end: Change = Box::new(move |world| {
        drop_disk(world, &key);
        Ok(())
    });
    let plan = Plan {
        operation_type: "delete",
        target: url,
        zone: Some(zone.to_owned()),
        begin: Box::new(|_| Ok(())),
        end,
    };
    Ok(start(shared, world, plan, request))
}

/// `disks.createSnapshot`.
pub(super) fn create_snapshot(
    shared: &Arc<Shared>,
    zone: &str,
    disk: &str,
    body: &Value,
    request: Option<&String>,
) -> Result<Value, No> {
    let mut guard = shared.world();
    let world = &mut *guard;
    let (url, key) = (zonal_url(zone, "disks", disk), (zone.to_owned(), disk.to_owned()));
    let name = text(body, "name").to_owned();
    if name.parse::<ResourceName>().is_err() {
        return Err(No::invalid("resource.name", format!("'{name}'. Must be a match of regex")));
    }
    if !world.disks.contains_key(&key) {
        return Err(No::not_found(short(&url)));
    }
    if world.snapshots.contains_key(&name) {
        return Err(No::exists(short(&snapshot_url(&name))));
    }
    let (id, fingerprint) = (world.number(), world.fingerprint());
    let source = &world.disks[&key];
    let mut value = json!({
        "kind": "compute#snapshot",
        "id": id.to_string(),
        "name": name,
        "status": "CREATING",
        "creationTimestamp": now(),
        "sourceDisk": url,
        "sourceDiskId": source.value["id"],
        "diskSizeGb": source.value["sizeGb"],
        "selfLink": snapshot_url(&name),
        "labelFingerprint": fingerprint,
    });
    for given in ["labels", "description"] {
        if let Some(what) = body.get(given) {
            value[given] = what.clone();
        }
    }
    let content = source.content.clone();
    world.snapshots.insert(name.clone(), SnapshotRow { value, content });
    let began = name.clone();
    let begin: Change = Box::new(move |world| {
        if let Some(snapshot) =
            world.snapshots.get_mut(&began).filter(|row| row.value["status"] == "CREATING")
        {
            snapshot.value["status"] = "UPLOADING".into();
        }
        Ok(())
    });
    let end: Change = Box::new(move |world| match world.snapshots.get_mut(&name) {
        Some(snapshot) if snapshot.value["status"] == "FAILED" => Err(Failure {
            code: "RESOURCE_NOT_FOUND",
            message: "The disk went away while its snapshot was made".to_owned(),
            status: 404,
        }),
        Some(snapshot) => {
            snapshot.value["status"] = "READY".into();
            snapshot.value["storageBytes"] = "1073741824".into();
            Ok(())
        }
        None => Ok(()),
    });
    let plan =
        Plan { operation_type: "createSnapshot", target: url, zone: Some(zone.to_owned()), begin, end };
    Ok(start(shared, world, plan, request))
}

/// `snapshots.delete`.
pub(super) fn delete_snapshot(
    shared: &Arc<Shared>,
    name: &str,
    request: Option<&String>,
) -> Result<Value, No> {
    let mut guard = shared.world();
    let world = &mut *guard;
    let url = snapshot_url(name);
    if !world.snapshots.contains_key(name) {
        return Err(No::not_found(short(&url)));
    }
    let name = name.to_owned();
    let end: Change = Box::new(move |world| {
        world.snapshots.remove(&name);
        Ok(())
    });
    let plan = Plan { operation_type: "delete", target: url, zone: None, begin: Box::new(|_| Ok(())), end };
    Ok(start(shared, world, plan, request))
}
