//! The control plane: API, web UI, reconciler, gateway.
//!
//! [`app`] decides, [`routes`] speaks HTTP, [`tasks`] runs what nobody calls, [`web`] holds the pages. [`start`] puts
//! the parts together.

pub mod app;
pub mod config;
mod microvms;
pub mod routes;
pub mod serve;
mod start;
pub mod tasks;
pub mod telemetry;
pub mod web;
mod workspace_bin;

pub use start::{Running, StartError, start};
