//! Simulated runtime, fault injection, wait-for and leak counters for tests.
