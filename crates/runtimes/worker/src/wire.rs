//! The agent's words ↔ a runtime's.

use clarateach_api::agent::{DesiredVm, EgressView, VmView};
use clarateach_ids::SeatKey;
use clarateach_runtime::{DesiredSeat, Egress, Environment, EnvironmentState, Reason};
use secrecy::ExposeSecret;

pub(crate) fn desired_vm(desired: DesiredSeat) -> DesiredVm {
    DesiredVm {
        generation: desired.generation,
        image: desired.image.0,
        vcpus: desired.vcpus,
        memory_mb: desired.memory_mb,
        disk_mb: desired.disk_mb,
        env: desired.env,
        secret: desired.secret.expose_secret().to_owned(),
        egress: match desired.egress {
            Egress::Internet => EgressView::Internet,
            Egress::None => EgressView::None,
        },
        not_after: desired.not_after,
    }
}

/// What is shown of a VM; an error for a status that this version does not know.
pub(crate) fn environment(vm: VmView) -> Result<Environment, String> {
    let state = match vm.status.as_str() {
        "starting" => EnvironmentState::Starting,
        "ready" => EnvironmentState::Ready,
        "unresponsive" => EnvironmentState::Unresponsive,
        "stopped" => EnvironmentState::Stopped,
        "failed" => EnvironmentState::Failed,
        "removing" => EnvironmentState::Removing,
        other => return Err(format!("vms: {other:?} is no status of a VM")),
    };
    Ok(Environment {
        key: SeatKey { workshop: vm.workshop_id, seat: vm.seat_id },
        generation: vm.generation,
        state,
        reason: vm.reason.map(|reason| Reason::new(reason.code, reason.message)),
        address: vm.ip,
        handle: vm.handle,
        not_after: vm.details.and_then(|details| details.not_after),
    })
}
