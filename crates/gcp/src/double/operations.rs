//! Operations: `PENDING`, `RUNNING`, `DONE`.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::Shared;
use super::answers::No;
use super::world::{World, now};

/// What goes wrong with an operation.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) code: &'static str,
    pub(super) message: String,
    pub(super) status: u16,
}

/// A change to the world.
pub(super) type Change = Box<dyn FnOnce(&mut World) -> Result<(), Failure> + Send>;

/// What an operation is.
pub(super) struct Plan {
    pub(super) operation_type: &'static str,
    pub(super) target: String,
    /// None: a global one.
    pub(super) zone: Option<String>,
    /// When it begins to run.
    pub(super) begin: Change,
    /// When it ends.
    pub(super) end: Change,
}

/// Starts an operation; the world is already locked by the caller.
pub(super) fn start(
    shared: &Arc<Shared>,
    world: &mut World,
    plan: Plan,
    request_id: Option<&String>,
) -> Value {
    let id = world.number();
    let name = if plan.operation_type.starts_with("compute.") {
        format!("systemevent-{id}")
    } else {
        format!("operation-{id}-double")
    };
    let mut operation = json!({
        "kind": "compute#operation",
        "id": id.to_string(),
        "name": name,
        "operationType": plan.operation_type,
        "status": "PENDING",
        "progress": 0,
        "targetLink": plan.target,
        "targetId": world.number().to_string(),
        "insertTime": now(),
        "user": "somebody@example.com",
    });
    let kind = plan.zone.as_ref().map_or_else(|| "global".to_owned(), |zone| format!("zones/{zone}"));
    operation["selfLink"] =
        format!("{}/compute/v1/projects/{}/{kind}/operations/{name}", shared.base, super::PROJECT).into();
    if let Some(zone) = &plan.zone {
        operation["zone"] =
            format!("https://www.googleapis.com/compute/v1/projects/{}/zones/{zone}", super::PROJECT).into();
    }
    world.operations.insert(name.clone(), operation.clone());
    if let Some(request) = request_id {
        world.requests.insert(request.clone(), name.clone());
    }
    let shared = shared.clone();
    tokio::spawn(async move {
        let half = shared.options.operation / 2;
        tokio::time::sleep(half).await;
        let failed = shared.step(&name, plan.begin, |operation| {
            operation["status"] = "RUNNING".into();
            operation["startTime"] = now().into();
            operation["progress"] = 50.into();
        });
        if failed {
            return;
        }
        tokio::time::sleep(half).await;
        shared.step(&name, plan.end, |operation| {
            operation["status"] = "DONE".into();
            operation["progress"] = 100.into();
            operation["endTime"] = now().into();
        });
    });
    operation
}

impl Shared {
    /// One step of an operation; says whether it failed, and so is over.
    fn step(&self, name: &str, change: Change, advance: impl FnOnce(&mut Value)) -> bool {
        let mut world = self.world();
        let outcome = change(&mut world);
        let failed = outcome.is_err();
        if let Some(operation) = world.operations.get_mut(name) {
            advance(operation);
            if let Err(failure) = outcome {
                operation["status"] = "DONE".into();
                operation["progress"] = 100.into();
                operation["endTime"] = now().into();
                operation["httpErrorStatusCode"] = failure.status.into();
                operation["httpErrorMessage"] =
                    if failure.status == 403 { "FORBIDDEN" } else { "SERVICE UNAVAILABLE" }.into();
                operation["error"] = json!({"errors": [{"code": failure.code, "message": failure.message}]});
            }
        }
        drop(world);
        self.moved.send_modify(|count| *count += 1);
        failed
    }

    /// `wait`: until it is done, or two minutes.
    pub(super) async fn wait(&self, name: &str) -> Result<Value, No> {
        let mut moved = self.moved.subscribe();
        let deadline = tokio::time::Instant::now() + Duration::from_secs(120);
        loop {
            let operation = self.operation(name)?;
            if operation["status"] == "DONE" || tokio::time::Instant::now() >= deadline {
                return Ok(operation);
            }
            let _ = tokio::time::timeout_at(deadline, moved.changed()).await;
        }
    }

    pub(super) fn operation(&self, name: &str) -> Result<Value, No> {
        let found = self.world().operations.get(name).cloned();
        found.ok_or_else(|| No::not_found(&format!("projects/{}/operations/{name}", super::PROJECT)))
    }
}
