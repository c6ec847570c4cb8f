//! Names of fields, paths and parameters: ours and the discovery document's.

use std::collections::BTreeMap;
use std::fmt::Debug;

use clarateach_gcp::double::schema::{Method, document, misfits};
use clarateach_gcp::{Boot, Call, Disk, Instance, Operation, SerialPortOutput, Snapshot, StartupFrom};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::{name, place, spec};

/// A value in which every field that the schema has is there.
fn sample(schema: &Value, depth: usize) -> Value {
    if let Some(reference) = schema["$ref"].as_str() {
        let target = &document()["schemas"][reference];
        return if target.is_null() || depth > 6 { json!({}) } else { sample(target, depth + 1) };
    }
    match schema["type"].as_str() {
        Some("object") => match schema["properties"].as_object() {
            Some(properties) => Value::Object(
                properties.iter().map(|(name, of)| (name.clone(), sample(of, depth))).collect::<Map<_, _>>(),
            ),
            None => json!({"key": "value"}),
        },
        Some("array") => json!([sample(&schema["items"], depth)]),
        Some("boolean") => json!(true),
        Some("integer" | "number") => json!(7),
        _ => match schema["enum"].as_array() {
            Some(allowed) => allowed[0].clone(),
            None if schema["format"].is_string() => json!("7"),
            None => json!("text"),
        },
    }
}

/// Every field that we read is there under that name and with that type: none stays empty.
fn reads<T: DeserializeOwned + Debug>(schema: &str) {
    let value = sample(&document()["schemas"][schema], 0);
    let ours: T = serde_json::from_value(value).unwrap_or_else(|error| panic!("{schema}: {error}"));
    let text = format!("{ours:#?}");
    assert!(!text.contains("None"), "{schema} has no such field: {text}");
}

#[test]
fn what_we_read_is_called_so() {
    reads::<Instance>("Instance");
    reads::<Disk>("Disk");
    reads::<Snapshot>("Snapshot");
    reads::<Operation>("Operation");
    reads::<SerialPortOutput>("SerialPortOutput");
}

fn every_call() -> Vec<(&'static str, Call)> {
    let (place, worker) = (place(), name("clara-worker"));
    let labels = BTreeMap::from([("installation".to_owned(), "abc".to_owned())]);
    let mut full = spec("clara-worker");
    full.labels = labels.clone();
    full.tags = vec!["worker".to_owned()];
    full.subnetwork = Some(name("workers"));
    full.service_account = Some("worker@clarateach.iam.gserviceaccount.com".to_owned());
    full.agent_token = Some("secret".to_owned().into());
    full.startup =
        Some(StartupFrom { url: "gs://bucket/release.tar.gz".to_owned(), sha256: Some("00".to_owned()) });
    let mut from_snapshot = spec("clara2");
    from_snapshot.boot = Boot::Snapshot(name("clara2-snapshot"));
    from_snapshot.spot = false;
    from_snapshot.external_ip = false;
    vec![
        ("instances.insert", place.insert_instance(&spec("clara-worker"))),
        ("instances.insert", place.insert_instance(&full)),
        ("instances.insert", place.insert_instance(&from_snapshot)),
        ("instances.get", place.get_instance(&worker)),
        ("instances.list", place.list_instances(Some("labels.installation=abc"))),
        ("instances.aggregatedList", place.list_instances_everywhere(Some("labels.a=b"))),
        ("instances.setDiskAutoDelete", place.set_disk_auto_delete(&worker, "data", false)),
        ("instances.start", place.start_instance(&worker)),
        ("instances.stop", place.stop_instance(&worker)),
        ("instances.delete", place.delete_instance(&worker)),
        ("instances.setLabels", place.set_labels(&worker, &labels, "Zm9v")),
        ("instances.getSerialPortOutput", place.serial_port_output(&worker, 17)),
        ("disks.get", place.get_disk(&worker)),
        ("disks.list", place.list_disks(None)),
        ("disks.insert", place.insert_disk_from_snapshot(&worker, &name("snap"), Some(50))),
        ("disks.delete", place.delete_disk(&worker)),
        ("disks.createSnapshot", place.create_snapshot(&worker, &name("snap"), &labels)),
        ("snapshots.get", place.get_snapshot(&worker)),
        ("snapshots.list", place.list_snapshots(Some("labels.a=b"))),
        ("snapshots.delete", place.delete_snapshot(&worker)),
        ("zoneOperations.list", place.list_operations(Some("operationType=\"compute.instances.preempted\""))),
    ]
}

#[test]
fn what_we_send_is_taken() {
    for (wanted, call) in every_call() {
        let method =
            Method::find(call.method.as_str(), &call.path).unwrap_or_else(|| panic!("no method for {call}"));
        assert_eq!(method.name, wanted);
        for (parameter, _) in &call.query {
            assert!(method.takes(parameter), "{wanted} takes no {parameter}");
        }
        match (method.definition["request"]["$ref"].as_str(), &call.body) {
            (Some(schema), Some(body)) => assert_eq!(misfits(schema, body), Vec::<String>::new(), "{wanted}"),
            (None, None) => {}
            (schema, body) => panic!("{wanted}: schema {schema:?}, body {body:?}"),
        }
        let is_change = call.method != "GET";
        assert_eq!(call.query.iter().any(|(name, _)| *name == "requestId"), is_change, "{wanted}");
    }
}

/// The checks above can fail.
#[test]
fn what_is_not_in_the_document_is_noticed() {
    let bad =
        json!({"name": "w", "nestedVirtualization": true, "disks": [{"boot": "yes"}], "status": "SLEEPING"});
    let found = misfits("Instance", &bad).join("\n");
    for part in ["\"nestedVirtualization\"", "disks[0].boot", "SLEEPING"] {
        assert!(found.contains(part), "{part} in {found}");
    }
    assert!(Method::find("PUT", "projects/clarateach/zones/us-central1-b/instances").is_none());
}

/// The create of the handbook, field by field.
#[test]
fn the_documented_worker() {
    let body = place().insert_instance(&spec("clara-worker")).body.unwrap();
    assert_eq!(body["machineType"], "zones/us-central1-b/machineTypes/n2-standard-8");
    assert_eq!(body["advancedMachineFeatures"], json!({"enableNestedVirtualization": true}));
    assert_eq!(
        body["scheduling"],
        json!({"provisioningModel": "SPOT", "instanceTerminationAction": "STOP", "automaticRestart": false,
               "onHostMaintenance": "TERMINATE"})
    );
    let disk = &body["disks"][0];
    assert_eq!((&disk["boot"], &disk["autoDelete"]), (&json!(true), &json!(true)));
    assert_eq!(
        disk["initializeParams"],
        json!({"diskSizeGb": "50", "sourceImage": "projects/debian-cloud/global/images/family/debian-12"})
    );
    assert!(body.get("metadata").is_none() && body.get("labels").is_none());
}

/// What `gcloud` 528.0.0 sends for the documented command, as recorded; and what we do.
#[test]
fn gcloud_sends_the_same() {
    let recorded = json!({
        "advancedMachineFeatures": {"enableNestedVirtualization": true}, "canIpForward": false, "deletionProtection": false,
        "disks": [{"autoDelete": true, "boot": true, "mode": "READ_WRITE", "type": "PERSISTENT", "initializeParams": {
            "diskSizeGb": "50",
            "sourceImage": "https://compute.googleapis.com/compute/v1/projects/debian-cloud/zones/-/imageFamilyViews/debian-12"}}],
        "machineType": "https://compute.googleapis.com/compute/v1/projects/clarateach/zones/us-central1-b/machineTypes/n2-standard-8",
        "metadata": {}, "name": "clara-worker",
        "networkInterfaces": [{"accessConfigs": [{"name": "external-nat", "type": "ONE_TO_ONE_NAT"}],
            "network": "https://compute.googleapis.com/compute/v1/projects/clarateach/global/networks/default"}],
        "scheduling": {"automaticRestart": false, "instanceTerminationAction": "STOP", "preemptible": true,
            "provisioningModel": "SPOT"},
        "serviceAccounts": [{"email": "default", "scopes": [
            "https://www.googleapis.com/auth/devstorage.read_only", "https://www.googleapis.com/auth/logging.write",
            "https://www.googleapis.com/auth/monitoring.write", "https://www.googleapis.com/auth/pubsub",
            "https://www.googleapis.com/auth/service.management.readonly", "https://www.googleapis.com/auth/servicecontrol",
            "https://www.googleapis.com/auth/trace.append"]}],
    });
    assert_eq!(misfits("Instance", &recorded), Vec::<String>::new());
    let ours = place().insert_instance(&spec("clara-worker")).body.unwrap();
    for same in [
        "/advancedMachineFeatures",
        "/name",
        "/serviceAccounts",
        "/networkInterfaces/0/accessConfigs",
        "/disks/0/autoDelete",
        "/disks/0/boot",
        "/disks/0/mode",
        "/disks/0/type",
        "/disks/0/initializeParams/diskSizeGb",
        "/scheduling/automaticRestart",
        "/scheduling/instanceTerminationAction",
        "/scheduling/provisioningModel",
    ] {
        assert_eq!(ours.pointer(same), recorded.pointer(same), "{same}");
    }
    // Theirs are whole URLs, ours the same without the host.
    for suffix in ["/machineType", "/networkInterfaces/0/network"] {
        let (ours, theirs) = (ours.pointer(suffix).unwrap(), recorded.pointer(suffix).unwrap());
        assert!(theirs.as_str().unwrap().ends_with(ours.as_str().unwrap()), "{suffix}");
    }
}

#[test]
fn what_is_shown_hides_the_token() {
    let mut with_token = spec("w");
    with_token.agent_token = Some("very-secret-token".to_owned().into());
    let call = place().insert_instance(&with_token);
    assert!(call.body.as_ref().unwrap().to_string().contains("very-secret-token"));
    let shown = call.show("https://compute.googleapis.com/compute/v1");
    assert!(!shown.contains("very-secret-token") && shown.contains("(hidden)"), "{shown}");
    assert!(shown.starts_with(
        "POST https://compute.googleapis.com/compute/v1/projects/clarateach/zones/us-central1-b/instances?requestId=UUID\n{"
    ));
    assert!(!format!("{with_token:?}").contains("very-secret-token"));
}
