//! Finding and ending VMMs without a record: what bears an instance's name in its group or on its command line.

use super::{VmProcess, VmmError, cgroup, process};

/// [`super::Vmm::find`].
pub(super) fn find(flag: &str, instance: &str) -> Vec<VmProcess> {
    let members = cgroup::members(instance);
    if members.is_empty() { process::scan(flag, instance) } else { members }
}

/// Kills whatever bears the instance's name, `known` included, and removes its groups.
pub(super) async fn kill(flag: &str, instance: &str, known: Option<&VmProcess>) -> Result<(), VmmError> {
    // A known process may be a zombie, which is not found but must be reaped.
    if let Some(known) = known {
        process::kill(instance, known).await?;
    }
    loop {
        let mut left = cgroup::members(instance);
        left.extend(process::scan(flag, instance));
        if left.is_empty() {
            break;
        }
        for process in &left {
            process::kill(instance, process).await?;
        }
    }
    cgroup::remove(instance).await
}
