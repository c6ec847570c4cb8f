//! The terminal, files and ports server inside every seat.
