//! Seats as plain child processes, for development.
