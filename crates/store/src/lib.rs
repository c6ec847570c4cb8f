//! What is wanted and who holds what, kept in SQLite.
