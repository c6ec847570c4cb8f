//! The worker agent: serves one host's microVMs over HTTP.
//!
//! [`config`] reads the settings, [`host`] says what is served, [`app`] decides, [`routes`] speaks HTTP, [`start`] puts
//! the parts together.

pub mod app;
pub mod cli;
pub mod config;
pub mod directory;
pub mod doctor;
pub mod error;
pub mod host;
mod keys;
mod metadata;
mod microvms;
mod owner;
mod preemption;
pub mod routes;
mod start;
pub mod state;
pub mod telemetry;
pub mod throttle;
pub mod tls;
mod vmms;
mod wait;

pub use microvms::{MicroVms, open, remove_network};
pub use start::{Running, StartError, listen, start};
