//! The process runtime against the rules for all runtimes.

mod support;

clarateach_runtime::conformance_tests!(support::process);
