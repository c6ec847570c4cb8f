//! The worker agent: serves one host's microVMs over HTTP.
