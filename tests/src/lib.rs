//! End-to-end tests: they know the API, not the code.
