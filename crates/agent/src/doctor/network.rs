//! Bridge, addresses, forwarding and firewall, as the network itself judges them.

use clarateach_ids::WorkerId;
use clarateach_microvm::net::{Finding, FindingState, HostNetwork};

use super::Check;
use crate::config::Config;
use crate::microvms::net_config;

pub(super) async fn checks(config: &Config) -> Vec<Check> {
    let owner = owner(config);
    let network = match HostNetwork::new(net_config(&config.network, &owner)) {
        Ok(network) => network,
        Err(error) => return vec![Check::broken("network", error.to_string(), "see the message")],
    };
    match network.findings().await {
        Ok(findings) => findings.into_iter().map(check).collect(),
        Err(error) => vec![Check::broken("network", error.to_string(), "start as root")],
    }
}

/// Who this host's taps and bridge belong to; a stranger when no agent has run with this `STATE_DIR` yet.
fn owner(config: &Config) -> String {
    let path = config.places.state.join("agent/worker-id");
    let known = std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<WorkerId>().ok());
    known.unwrap_or_else(WorkerId::random).to_string()
}

fn check(finding: Finding) -> Check {
    let fix = finding.fix.unwrap_or_else(|| "see the message".to_owned());
    match finding.state {
        FindingState::Ok => Check::ok(finding.what, finding.message),
        FindingState::Warning => Check::warning(finding.what, finding.message, fix),
        FindingState::Problem => Check::broken(finding.what, finding.message, fix),
    }
}
