//! Token check and reverse proxy onto a Runtime's dial.
//!
//! A request to `/proxy/{workshop}/{seat}/…` shows a seat token; the gateway checks it with public keys only, asks a
//! [`SeatDirectory`] where the seat is, extends the session's lease and carries the request, or the upgraded stream, to
//! the seat's workspace for as long as the lease lasts. What the seat answers is never believed: see [`Gateway::router`]
//! for learners' workspaces and [`previews_first`] for what their own servers show.
//!
//! | module | does |
//! |---|---|
//! | `credentials` | finds the token, checks the origin |
//! | `lease` | how long streams live, who is connected |
//! | `gateway` | admits a request, routes it |
//! | `exchange`, `upstream` | one request over a kept connection |
//! | `relay`, `frames` | an upgraded stream, with a close frame that says why |
//! | `headers` | what passes, both ways |
//! | `serve` | accepts connections that may be upgraded, for a server or an agent around it |
//! | `previews` | origins of their own, or a sandbox |

mod config;
mod credentials;
mod directory;
mod ending;
mod exchange;
mod frames;
mod gateway;
mod headers;
mod lease;
mod previews;
mod refusal;
mod relay;
mod serve;
mod tune;
mod upstream;

pub use config::{GatewayConfig, Limits, ParseOriginError, PreviewDomain, Scheme, WebOrigin};
pub use directory::{SeatDirectory, SeatRoute};
pub use ending::{CLOSE_ENDED, CLOSE_RESTART, CLOSE_SEAT_LOST, EndedWhy};
pub use gateway::Gateway;
pub use lease::Presence;
pub use previews::own_origin::previews_first;
pub use refusal::Refusal;
pub use serve::{listen, serve, serve_tls};
pub use tune::tune_stream;
