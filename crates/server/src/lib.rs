//! The control plane: API, web UI, reconciler, gateway.
//!
//! [`app`] decides, [`routes`] speaks HTTP, [`tasks`] runs what nobody calls, [`web`] holds the pages. [`start`] puts
//! the parts together.

pub mod app;
pub mod cli;
pub mod config;
mod database;
mod local;
mod microvms;
pub mod routes;
mod start;
pub mod tasks;
pub mod telemetry;
pub mod web;

pub use start::{Running, StartError, start, start_with};
