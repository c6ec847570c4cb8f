//! The Runtime trait, its specification types and its conformance tests.
