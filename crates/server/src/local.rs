//! The runtimes of this machine.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clarateach_ids::InstallationId;
use clarateach_runtime::Runtime;
use clarateach_runtime_docker::{DockerConfig, DockerRuntime};
use clarateach_runtime_process::{ProcessConfig, ProcessRuntime};
use clarateach_runtime_simulated::{SimulatedConfig, SimulatedRuntime};
use tokio_util::sync::CancellationToken;

use crate::config::{Config, VmmChoice};
use crate::microvms;

/// How many environments a single machine's runtimes hold at most.
const LOCAL_CAPACITY: u32 = 2000;

/// Docker always (it may come up later), microVMs where they can be had, processes where only this machine can reach them,
/// simulated when asked for.
pub(crate) async fn runtimes(
    config: &Config,
    distributed: bool,
    installation: &InstallationId,
    state_dir: &Path,
    stop: &CancellationToken,
) -> Vec<Arc<dyn Runtime>> {
    let mut runtimes: Vec<Arc<dyn Runtime>> = Vec::new();
    match clarateach_runtime::workspace_bin::find(config.seats.workspace_bin.as_deref()) {
        Ok(bin) => {
            tracing::info!(path = %bin.path.display(), "seats get this workspace binary");
            if !bin.is_static {
                tracing::warn!(
                    "the workspace binary is dynamically linked, so it runs only in images with the same C library; \
                     build the static one with scripts/build-workspace.sh"
                );
            }
            let docker = DockerConfig {
                socket: PathBuf::from(&config.seats.docker_host),
                ..DockerConfig::new(
                    installation.clone(),
                    bin.path.clone(),
                    state_dir.join("docker"),
                    LOCAL_CAPACITY,
                )
            };
            match DockerRuntime::connect(docker) {
                Ok(runtime) => runtimes.push(Arc::new(runtime)),
                Err(error) => tracing::error!(%error, "no docker runtime"),
            }
            // With workers, microVMs are theirs, unless this machine was told to make them.
            if bin.is_static && !(distributed && config.seats.microvms.vmm == VmmChoice::Auto) {
                let place = microvms::Place {
                    installation,
                    workspace_bin: bin.path.clone(),
                    state_dir: state_dir.join("microvm"),
                    stop: stop.clone(),
                };
                runtimes.extend(microvms::open(&config.seats.microvms, place).await);
            }
            if config.listen.is_only_for_this_machine() {
                let process = ProcessConfig::new(bin.path, state_dir.join("process"), LOCAL_CAPACITY);
                match ProcessRuntime::open(process) {
                    Ok(runtime) => runtimes.push(Arc::new(runtime)),
                    Err(error) => tracing::error!(%error, "no process runtime"),
                }
            }
        }
        Err(error) => tracing::error!(
            %error,
            "no workspace binary, so no docker and no process runtime; build it with scripts/build-workspace.sh \
             or set WORKSPACE_BIN"
        ),
    }
    if config.seats.simulated {
        tracing::warn!("the simulated runtime is on: its seats are not real");
        runtimes.push(Arc::new(SimulatedRuntime::new(SimulatedConfig::default())));
    }
    runtimes
}
