//! The Docker runtime against the rules for all runtimes, on a real Engine.

mod support;

clarateach_runtime::conformance_tests!(support::docker);
