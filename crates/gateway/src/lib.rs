//! Token check and reverse proxy onto a Runtime's dial.
