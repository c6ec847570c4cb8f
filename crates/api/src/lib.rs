//! Wire types of the HTTP API and its error body.
