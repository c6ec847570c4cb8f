//! A numbered SQL file, applied once.

/// One step from a version of the tables to the next.
pub(crate) struct Migration {
    /// From 1, without gaps.
    pub(crate) version: i64,
    pub(crate) name: &'static str,
    pub(crate) sql: &'static str,
}

impl Migration {
    /// By which a database tells whether it was this file that was applied.
    pub(crate) fn checksum(&self) -> String {
        blake3::hash(self.sql.as_bytes()).to_hex().to_string()
    }
}

/// The version that a database is brought to; 0 when there are no migrations.
pub(crate) fn latest(migrations: &[Migration]) -> i64 {
    migrations.last().map_or(0, |migration| migration.version)
}
