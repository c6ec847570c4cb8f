//! The microVM runtime against the rules for all runtimes, over VMs that are plain processes.

mod support;

async fn installation(_test: &str) -> Option<support::Installation> {
    Some(support::Installation::new())
}

clarateach_runtime::conformance_tests!(installation);
