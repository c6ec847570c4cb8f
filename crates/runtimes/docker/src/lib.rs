//! Seats as Docker containers.
