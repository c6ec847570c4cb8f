//! The Compute Engine double as a program, to try `vmctl` by hand: prints the environment that leads to it and runs until it is
//! interrupted.
//!
//! ```text
//! cargo run -p clarateach-gcp --features double --example compute_double
//! ```

use std::io::Write;

use clarateach_gcp::double::{ComputeDouble, Options, PROJECT, TOKEN};

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let port = arguments.next().and_then(|port| port.parse().ok()).unwrap_or(0);
    let operation =
        std::time::Duration::from_millis(arguments.next().and_then(|ms| ms.parse().ok()).unwrap_or(2_000));
    let double = ComputeDouble::listen(Options { operation, ..Options::default() }, port).await;
    double.put_instance("us-central1-b", "clara2", "what the class has built");
    writeln!(
        std::io::stdout(),
        "export GCP_API_URL={}\nexport CLOUDSDK_AUTH_ACCESS_TOKEN={TOKEN}\nexport GCP_PROJECT={PROJECT}\nexport GCP_ZONE=us-central1-b",
        double.endpoint()
    )?;
    tokio::signal::ctrl_c().await
}
