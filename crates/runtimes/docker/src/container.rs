//! A seat's container: what it is created with, and what an inspection says about it.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, ContainerStateStatusEnum, HealthConfig, HostConfig,
    HostConfigLogConfig, Mount, MountType, MountVolumeOptions, RestartPolicy, RestartPolicyNameEnum,
};
use clarateach_ids::{Generation, SeatKey};
use clarateach_runtime::{DesiredSeat, Reason, RuntimeError};
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};

use crate::naming::{self, Naming};

/// Where `workspace` listens inside the seat.
pub(crate) const WORKSPACE_PORT: u16 = 7681;
/// Where the volume with `workspace` is mounted.
pub(crate) const TOOLS_DIRECTORY: &str = "/.clarateach";

/// Enough for a build with many jobs, and few enough that a fork bomb is contained.
const PIDS: i64 = 1024;
/// What `workspace` needs to become the learner, to hand the learner's directory over, and to end the learner's
/// processes; nothing else.
const CAPABILITIES: [&str; 4] = ["SETUID", "SETGID", "CHOWN", "KILL"];

/// execve(2) takes no longer string, see MAX_ARG_STRLEN.
const LONGEST_VARIABLE: usize = 128 * 1024 - 1;
const LARGEST_ENVIRONMENT: usize = 1024 * 1024;

/// Refuses what no container could be made from.
pub(crate) fn check(desired: &DesiredSeat) -> Result<(), RuntimeError> {
    let refuse = |message: String| Err(RuntimeError::InvalidSpec { message });
    let mut size = 0;
    for (name, value) in &desired.env {
        if name.is_empty() || name.contains('=') || name.contains('\0') {
            return refuse(format!("{name:?} can't be the name of an environment variable"));
        }
        if name.starts_with("CLARATEACH_") {
            return refuse(format!("{name}: variables that start with CLARATEACH_ are reserved"));
        }
        if value.contains('\0') {
            return refuse(format!("the value of the environment variable {name} holds a NUL"));
        }
        let length = name.len() + value.len() + 2;
        size += length;
        if length > LONGEST_VARIABLE || size > LARGEST_ENVIRONMENT {
            return refuse("an environment variable is over 128 KiB, or all of them over 1 MiB".to_owned());
        }
    }
    if desired.vcpus == 0 {
        return refuse("a seat takes at least one processor".to_owned());
    }
    if desired.memory_mb < 32 {
        return refuse("a seat takes at least 32 MiB of memory".to_owned());
    }
    Ok(())
}

/// Everything that goes into a new container.
pub(crate) struct Plan<'a> {
    pub(crate) naming: &'a Naming,
    pub(crate) desired: &'a DesiredSeat,
    pub(crate) workdir: &'a str,
    pub(crate) tools: &'a str,
    pub(crate) network: &'a str,
    /// Processors of the host: an Engine refuses a limit above.
    pub(crate) host_cpus: u32,
}

impl Plan<'_> {
    pub(crate) fn body(&self) -> ContainerCreateBody {
        let desired = self.desired;
        let labels = self.naming.seat_labels(&desired.key, desired.generation, desired.not_after);
        ContainerCreateBody {
            image: Some(desired.image.0.clone()),
            hostname: Some(format!("seat-{}", desired.key.seat)),
            user: Some("0:0".to_owned()),
            entrypoint: Some(vec![format!("{TOOLS_DIRECTORY}/workspace")]),
            cmd: Some(vec!["serve".to_owned()]),
            // Root here has no right to look into other people's directories, not even to start in one.
            working_dir: Some("/".to_owned()),
            env: Some(self.environment()),
            labels: Some(labels),
            stop_signal: Some("SIGTERM".to_owned()),
            // The image's own check knows nothing of the program that runs here.
            healthcheck: Some(HealthConfig { test: Some(vec!["NONE".to_owned()]), ..Default::default() }),
            host_config: Some(self.host()),
            ..Default::default()
        }
    }

    /// The Engine puts these on top of the image's own variables.
    fn environment(&self) -> Vec<String> {
        let mut env: Vec<String> =
            self.desired.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
        env.push(format!("CLARATEACH_LISTEN=tcp:0.0.0.0:{WORKSPACE_PORT}"));
        env.push(format!("CLARATEACH_SECRET={}", self.desired.secret.expose_secret()));
        env.push(format!("CLARATEACH_ROOT={}", self.workdir));
        env.push("CLARATEACH_UID=1000".to_owned());
        // Empty counts as unset: an image can't decide these.
        for ours in ["CLARATEACH_SECRET_FILE", "CLARATEACH_SHELL", "CLARATEACH_PORTS"] {
            env.push(format!("{ours}="));
        }
        env
    }

    fn host(&self) -> HostConfig {
        let desired = self.desired;
        let memory = i64::from(desired.memory_mb) * 1024 * 1024;
        let log = HashMap::from([
            ("max-size".to_owned(), "256k".to_owned()),
            ("max-file".to_owned(), "1".to_owned()),
        ]);
        HostConfig {
            mounts: Some(vec![self.disk(), self.tools()]),
            network_mode: Some(self.network.to_owned()),
            cap_drop: Some(vec!["ALL".to_owned()]),
            cap_add: Some(CAPABILITIES.map(str::to_owned).to_vec()),
            security_opt: Some(vec!["no-new-privileges:true".to_owned()]),
            pids_limit: Some(PIDS),
            memory: Some(memory),
            // Equal to memory means: no swap.
            memory_swap: Some(memory),
            nano_cpus: Some(i64::from(desired.vcpus.min(self.host_cpus)) * 1_000_000_000),
            log_config: Some(HostConfigLogConfig { typ: Some("json-file".to_owned()), config: Some(log) }),
            restart_policy: Some(RestartPolicy {
                name: Some(RestartPolicyNameEnum::NO),
                maximum_retry_count: None,
            }),
            init: Some(false),
            privileged: Some(false),
            ..Default::default()
        }
    }

    /// Made with the container, filled by the Engine with what the image has there.
    fn disk(&self) -> Mount {
        let desired = self.desired;
        let labels = self.naming.seat_labels(&desired.key, desired.generation, None);
        Mount {
            typ: Some(MountType::VOLUME),
            source: Some(self.naming.seat(&desired.key, desired.generation)),
            target: Some(self.workdir.to_owned()),
            volume_options: Some(MountVolumeOptions { labels: Some(labels), ..Default::default() }),
            ..Default::default()
        }
    }

    fn tools(&self) -> Mount {
        Mount {
            typ: Some(MountType::VOLUME),
            source: Some(self.tools.to_owned()),
            target: Some(TOOLS_DIRECTORY.to_owned()),
            read_only: Some(true),
            volume_options: Some(MountVolumeOptions { no_copy: Some(true), ..Default::default() }),
            ..Default::default()
        }
    }
}

/// Whether a container runs, as last seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Made, and never started.
    Created,
    /// Runs, at this address.
    Running(IpAddr),
    /// Ended, and why.
    Ended(Reason),
    /// On its way out, or too broken to be started.
    Removing,
}

/// A seat's container as last seen.
#[derive(Debug, Clone)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) key: SeatKey,
    pub(crate) generation: Generation,
    pub(crate) phase: Phase,
    /// Changes with every start.
    pub(crate) started_at: String,
    pub(crate) secret: SecretString,
    /// As the label has it.
    pub(crate) not_after: Option<Timestamp>,
}

impl Container {
    /// None if it isn't one of ours.
    pub(crate) fn read(naming: &Naming, found: ContainerInspectResponse) -> Option<Self> {
        let config = found.config?;
        let labels = config.labels?;
        let (key, generation) = naming.seat_of(&labels)?;
        let secret = config
            .env
            .unwrap_or_default()
            .iter()
            .rev()
            .find_map(|variable| variable.strip_prefix("CLARATEACH_SECRET="))
            .unwrap_or_default()
            .to_owned();
        let state = found.state.unwrap_or_default();
        let address = found
            .network_settings
            .and_then(|settings| settings.networks)
            .and_then(|networks| networks.into_values().find_map(|endpoint| endpoint.ip_address))
            .and_then(|address| address.parse().ok())
            .unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let phase = match state.status {
            Some(
                ContainerStateStatusEnum::RUNNING
                | ContainerStateStatusEnum::PAUSED
                | ContainerStateStatusEnum::RESTARTING
                | ContainerStateStatusEnum::STOPPING,
            ) => Phase::Running(address),
            Some(ContainerStateStatusEnum::REMOVING | ContainerStateStatusEnum::DEAD) => Phase::Removing,
            Some(ContainerStateStatusEnum::EXITED) => Phase::Ended(end(
                state.oom_killed.unwrap_or_default(),
                state.exit_code.unwrap_or_default(),
                state.error.as_deref().unwrap_or_default(),
            )),
            _ => Phase::Created,
        };
        Some(Self {
            id: found.id?,
            key,
            generation,
            phase,
            started_at: state.started_at.unwrap_or_default(),
            secret: secret.into(),
            not_after: naming::not_after(&labels),
        })
    }
}

fn end(out_of_memory: bool, exit_code: i64, error: &str) -> Reason {
    if out_of_memory {
        return Reason::new("OUT_OF_MEMORY", "It was ended because it used all of its memory");
    }
    if !error.is_empty() {
        return Reason::new("START_FAILED", format!("It could not be started: {error}"));
    }
    let message = match exit_code {
        0 => "Its workspace has exited".to_owned(),
        137 => "It was killed (exit code 137)".to_owned(),
        143 => "It was told to stop (exit code 143)".to_owned(),
        code => format!("Its workspace has exited with code {code}"),
    };
    Reason::new("EXITED", message)
}
