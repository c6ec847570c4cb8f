//! The client against the double, and both against the discovery document.

#![allow(clippy::unwrap_used, reason = "a test fails with a panic")]

mod credentials;
mod faults;
mod fleet;
mod lives;
mod shapes;
mod startup;

use std::sync::Arc;
use std::time::Duration;

use clarateach_gcp::double::{ComputeDouble, Options, PROJECT, TOKEN};
use clarateach_gcp::{Compute, Credentials, Endpoint, InstanceSpec, Patience, ProjectInZone, ResourceName};

const ZONE: &str = "us-central1-b";

fn name(text: &str) -> ResourceName {
    text.parse().unwrap()
}

fn place() -> ProjectInZone {
    ProjectInZone::new(PROJECT, ZONE).unwrap()
}

fn spec(text: &str) -> InstanceSpec {
    InstanceSpec::new(name(text), "n2-standard-8".parse().unwrap())
}

fn hasty() -> Patience {
    Patience {
        first_pause: Duration::from_millis(5),
        longest_pause: Duration::from_millis(40),
        retries: 5,
        answer: Duration::from_secs(10),
        operation: Duration::from_secs(20),
    }
}

fn client_with(double: &ComputeDouble, credentials: Credentials) -> Compute {
    Compute::new(Endpoint::new(&double.endpoint()), place(), Arc::new(credentials), hasty()).unwrap()
}

fn client(double: &ComputeDouble) -> Compute {
    client_with(double, Credentials::token_only(TOKEN.to_owned().into()))
}

async fn double() -> ComputeDouble {
    ComputeDouble::start(Options::default()).await
}
