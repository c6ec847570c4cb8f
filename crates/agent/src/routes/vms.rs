//! VMs: made, shown, removed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::{Extension, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use clarateach_api::agent::{
    AgentErrorCode, DesiredVm, NewVm, ReasonView, VmDetails, VmLogs, VmView, VmsBody, WatchBody,
};
use clarateach_ids::{Generation, InstallationId, WorkshopId};
use clarateach_runtime::{Environment, EnvironmentState};
use serde::Deserialize;

use super::extract::{JsonBody, QueryOf, Seat};
use super::reply::{BodyRefused, Failure, MakeRefused, Refused, VmRefused};
use super::{status, wish};
use crate::app::App;
use crate::error::AgentError;

/// How long `?wait=ready` waits unless told otherwise, and at most.
const READY_WITHIN: u64 = 60;
const READY_WITHIN_AT_MOST: u64 = 300;
/// How long a watch is held open.
const WATCH: Duration = Duration::from_secs(30);
/// How much of the console is shown with a VM that is not well, in bytes.
const CONSOLE_TAIL: usize = 4096;

fn view(app: &App, vm: Environment) -> VmView {
    let details = app.host.details(&vm.key);
    let details = details.map(|details| VmDetails {
        image: details.image.0,
        vcpus: details.vcpus,
        memory_mb: details.memory_mb,
        disk_mb: details.disk_mb,
        created_at: details.created_at,
        not_after: details.not_after,
    });
    VmView {
        workshop_id: vm.key.workshop,
        seat_id: vm.key.seat,
        ip: vm.address,
        status: status(vm.state).to_owned(),
        generation: vm.generation,
        reason: vm.reason.map(|reason| ReasonView { code: reason.code, message: reason.message }),
        handle: vm.handle,
        console: None,
        details,
    }
}

/// Carries something out to its end, whether or not its caller waits for it.
async fn to_the_end<T: Send + 'static>(
    app: &Arc<App>,
    work: impl Future<Output = Result<T, AgentError>> + Send + 'static,
) -> Result<T, Failure> {
    use tracing::Instrument;
    let done = app.tasks.spawn(work.in_current_span()).await;
    Ok(done.map_err(AgentError::internal)??)
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    /// Only the VMs of this workshop.
    #[param(value_type = Option<String>)]
    workshop_id: Option<WorkshopId>,
}

/// Seats whose VMs other control planes than the caller made.
pub(super) async fn others(
    app: &App,
    caller: Option<&Extension<InstallationId>>,
) -> Result<BTreeSet<String>, AgentError> {
    match caller {
        Some(Extension(caller)) => app.seats_of_others(caller).await,
        None => Ok(BTreeSet::new()),
    }
}

/// Every VM, half-made and dead ones included.
#[utoipa::path(get, path = "/vms", tag = "vms", params(ListQuery), responses((status = 200, body = VmsBody), Refused))]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    caller: Option<Extension<InstallationId>>,
    QueryOf(query): QueryOf<ListQuery>,
) -> Result<Json<VmsBody>, Failure> {
    // Before and after: what is forgotten meanwhile has gone meanwhile.
    let others = others(&app, caller.as_ref()).await?;
    let mut vms = app.host.runtime().observe().await?;
    let more = self::others(&app, caller.as_ref()).await?;
    vms.retain(|vm| {
        let seat = vm.key.to_string();
        !others.contains(&seat) && !more.contains(&seat)
    });
    vms.retain(|vm| query.workshop_id.as_ref().is_none_or(|wanted| vm.key.workshop == *wanted));
    vms.sort_by(|a, b| (&a.key, a.generation).cmp(&(&b.key, b.generation)));
    Ok(Json(VmsBody { vms: vms.into_iter().map(|vm| view(&app, vm)).collect() }))
}

#[derive(Debug, Clone, Copy, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
enum WaitFor {
    Ready,
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateQuery {
    /// `ready`: answer only when the VM is ready, or it is clear that it won't be; `status` says which.
    #[param(inline)]
    wait: Option<WaitFor>,
    /// With `wait`: how many seconds at most; 60 unless told otherwise.
    #[param(minimum = 1, maximum = 300)]
    timeout: Option<u64>,
}

/// Make a VM for a seat that has none. Answers when its guest has been started.
#[utoipa::path(post, path = "/vms", tag = "vms", params(CreateQuery), request_body = NewVm, responses(
    (status = 201, body = VmView), Refused, VmRefused, BodyRefused, MakeRefused,
))]
pub(super) async fn create(
    State(app): State<Arc<App>>,
    QueryOf(query): QueryOf<CreateQuery>,
    JsonBody(wanted): JsonBody<NewVm>,
) -> Result<impl IntoResponse, Failure> {
    let patience = query.timeout.unwrap_or(READY_WITHIN);
    if !(1..=READY_WITHIN_AT_MOST).contains(&patience) {
        return Err(Failure::invalid("query: timeout takes a number of seconds from 1 to 300"));
    }
    let asked = wish::new_vm(wanted, app.host.default_image())?;
    let began = Instant::now();
    let work = {
        let app = Arc::clone(&app);
        async move { app.create(asked.seat, asked.generation, asked.readiness).await }
    };
    let made = to_the_end(&app, work).await;
    let outcome = match &made {
        Ok(_) => "ok".to_owned(),
        Err(Failure(error)) => super::reply::code_text(error.code()),
    };
    metrics::counter!("clarateach_agent_creates_total", "outcome" => outcome).increment(1);
    let mut vm = made?;
    metrics::histogram!("clarateach_agent_create_seconds").record(began.elapsed().as_secs_f64());
    if query.wait.is_some() {
        vm = app.ready(&vm.key, vm.generation, Duration::from_secs(patience)).await?;
    }
    Ok((StatusCode::CREATED, Json(shown(&app, vm).await)))
}

/// With the end of the console when it is not well.
async fn shown(app: &App, vm: Environment) -> VmView {
    let not_well = matches!(
        vm.state,
        EnvironmentState::Unresponsive | EnvironmentState::Stopped | EnvironmentState::Failed
    );
    let key = vm.key.clone();
    let mut view = view(app, vm);
    if not_well && let Ok(log) = app.host.runtime().logs(&key).await {
        let from = log.ceil_char_boundary(log.len().saturating_sub(CONSOLE_TAIL));
        view.console = Some(log[from..].to_owned());
    }
    view
}

/// One VM, with the end of its console when it is not well.
#[utoipa::path(get, path = "/vms/{workshop}/{seat}", tag = "vms", params(
    ("workshop" = String, Path), ("seat" = u32, Path),
), responses((status = 200, body = VmView), Refused, VmRefused))]
pub(super) async fn show(State(app): State<Arc<App>>, Seat(key): Seat) -> Result<Json<VmView>, Failure> {
    let vm = app.vm(&key).await?;
    Ok(Json(shown(&app, vm).await))
}

/// Say what is wanted for a seat. Answers when it is written down; safe to repeat. For control planes.
#[utoipa::path(put, path = "/vms/{workshop}/{seat}", tag = "vms", params(
    ("workshop" = String, Path), ("seat" = u32, Path),
), request_body = DesiredVm, responses((status = 204), Refused, VmRefused, BodyRefused, MakeRefused))]
pub(super) async fn put(
    State(app): State<Arc<App>>,
    Seat(key): Seat,
    JsonBody(wanted): JsonBody<DesiredVm>,
) -> Result<StatusCode, Failure> {
    let wanted = wish::desired(key, wanted)?;
    let work = {
        let app = Arc::clone(&app);
        async move { app.apply(wanted).await }
    };
    to_the_end(&app, work).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct DeleteQuery {
    /// For control planes: nothing up to and including this generation is wanted any more; safe to repeat.
    #[param(maximum = 9007199254740992_u64)]
    generation: Option<u64>,
    /// With `generation`, for control planes that were refused it: do nothing, and answer `vm_exists`, if this generation has
    /// been begun to be made, for then somebody has asked for it again.
    #[serde(default)]
    unless_begun: bool,
}

/// Remove a VM with its disk and everything else that was made for it. Answers when nothing is left.
#[utoipa::path(delete, path = "/vms/{workshop}/{seat}", tag = "vms", params(
    ("workshop" = String, Path), ("seat" = u32, Path), DeleteQuery,
), responses((status = 204), Refused, VmRefused, (status = 507, description = "`no_space`")))]
pub(super) async fn delete(
    State(app): State<Arc<App>>,
    Seat(key): Seat,
    QueryOf(query): QueryOf<DeleteQuery>,
) -> Result<StatusCode, Failure> {
    let up_to = query.generation.map(|given| wish::unwanted(Generation(given))).transpose()?;
    let app_of_call = Arc::clone(&app);
    let work = async move {
        match (up_to, query.unless_begun) {
            (Some(generation), false) => Ok(app_of_call.host.runtime().remove(&key, generation).await?),
            (Some(generation), true) => app_of_call.take_back(&key, generation).await,
            (None, false) => app_of_call.remove(&key).await,
            (None, true) => Err(AgentError::new(
                AgentErrorCode::InvalidRequest,
                "query: unless_begun needs the generation that is taken back".to_owned(),
            )),
        }
    };
    to_the_end(&app, work).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The end of what a VM's console printed, at most 64 KiB.
#[utoipa::path(get, path = "/vms/{workshop}/{seat}/logs", tag = "vms", params(
    ("workshop" = String, Path), ("seat" = u32, Path),
), responses((status = 200, body = VmLogs), Refused, VmRefused))]
pub(super) async fn logs(State(app): State<Arc<App>>, Seat(key): Seat) -> Result<Json<VmLogs>, Failure> {
    Ok(Json(VmLogs { log: app.host.runtime().logs(&key).await? }))
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct WatchQuery {
    /// The revision of the last answer; without it this call answers at once.
    since: Option<u64>,
}

/// Wait until what `GET /vms` says may have changed, at most 30 seconds.
#[utoipa::path(get, path = "/watch", tag = "vms", params(WatchQuery), responses(
    (status = 200, body = WatchBody), Refused,
))]
pub(super) async fn watch(
    State(app): State<Arc<App>>,
    QueryOf(query): QueryOf<WatchQuery>,
) -> Result<Json<WatchBody>, Failure> {
    Ok(Json(WatchBody { revision: app.changed(query.since, WATCH).await }))
}
