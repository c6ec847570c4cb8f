//! The control plane: API, web UI, reconciler, gateway.
