//! The command line.

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::commands::{
    completions, create, delete, get, list, logs, power, recreate, snapshot, ssh, verify_kvm,
};

/// Manages ClaraTeach's worker VMs on GCP.
///
/// Exit codes: 0 done, 1 failed, 2 wrong command line, 3 not there, 4 there already, 5 no valid credentials, 6 quota exceeded,
/// 7 the zone has no machine left, 8 not confirmed, 9 no /dev/kvm, 130 interrupted.
#[derive(Debug, Parser)]
#[command(name = "vmctl", version, propagate_version = true, max_term_width = 120)]
pub struct Cli {
    /// What holds for every subcommand.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What holds for every subcommand.
#[derive(Debug, Args)]
#[command(next_help_heading = "Everywhere")]
pub struct Global {
    /// The project's id; else GCP_PROJECT or CLOUDSDK_CORE_PROJECT.
    #[arg(long, global = true, value_name = "ID")]
    pub project: Option<String>,
    /// The zone; else GCP_ZONE, else us-central1-a. `list` shows all unless it is given.
    #[arg(long, global = true, value_name = "ZONE")]
    pub zone: Option<String>,
    /// How results are printed.
    #[arg(long, global = true, value_enum, default_value_t = Format::Table)]
    pub format: Format,
    /// Print the REST calls and the equivalent gcloud commands, and do nothing.
    #[arg(long, global = true)]
    pub dry_run: bool,
    /// Ask nothing.
    #[arg(long, short = 'y', global = true)]
    pub yes: bool,
    /// Another base URL of the Compute Engine API; else GCP_API_URL.
    #[arg(long, global = true, hide = true, value_name = "URL")]
    pub endpoint: Option<String>,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create a worker VM with nested virtualisation.
    Create(Box<create::Create>),
    /// List the project's VMs: of all zones, or of the one that --zone gives.
    List(list::List),
    /// Show one VM.
    Get(get::Get),
    /// Start stopped VMs.
    Start(power::Start),
    /// Stop VMs; their disks stay.
    Stop(power::Stop),
    /// Delete VMs and their boot disks.
    Delete(delete::Delete),
    /// Open a shell on a VM, or run a command there.
    Ssh(ssh::Ssh),
    /// Tell whether a VM has /dev/kvm.
    VerifyKvm(verify_kvm::VerifyKvm),
    /// Make a VM anew from a snapshot of its disk, with nested virtualisation; goes on where it was interrupted.
    Recreate(recreate::Recreate),
    /// Make a snapshot of a VM's boot disk.
    Snapshot(snapshot::SnapshotDisk),
    /// Print a VM's serial console.
    Logs(logs::Logs),
    /// Print a completion script for a shell.
    Completions(completions::Completions),
}
