//! What is moved: every table with its columns, as both databases have them.

/// How a column's values are read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Integer,
    Bytes,
    /// 0 or 1 in SQLite.
    Boolean,
}

use Kind::{Boolean, Bytes, Integer, Text};

/// A table. Those that name others come after them.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) name: &'static str,
    pub(super) columns: &'static [(&'static str, Kind)],
    /// The order in which rows are copied: where times are equal, the order in which they came counts.
    pub(super) order: &'static str,
}

/// All but `replicas`: signs of life of servers that don't run now.
pub(super) const TABLES: &[Table] = &[
    Table {
        name: "installation",
        columns: &[("one", Integer), ("id", Text), ("checks", Integer)],
        order: "one",
    },
    Table {
        name: "users",
        columns: &[("id", Text), ("name", Text), ("token_hash", Bytes), ("created_at", Integer)],
        order: "rowid",
    },
    Table {
        name: "keys",
        columns: &[
            ("id", Text),
            ("installation", Text),
            ("sealed_private", Bytes),
            ("public", Bytes),
            ("created_at", Integer),
            ("signs_from", Integer),
            ("retired_at", Integer),
        ],
        order: "rowid",
    },
    Table {
        name: "workshops",
        columns: &[
            ("id", Text),
            ("owner_id", Text),
            ("name", Text),
            ("join_code", Text),
            ("seats", Integer),
            ("runtime", Text),
            ("image", Text),
            ("env_names", Text),
            ("env_sealed", Bytes),
            ("memory_mb", Integer),
            ("vcpus", Integer),
            ("disk_mb", Integer),
            ("wanted", Text),
            ("status", Text),
            ("reason_code", Text),
            ("reason_text", Text),
            ("locked", Boolean),
            ("ends_at", Integer),
            ("created_at", Integer),
        ],
        order: "rowid",
    },
    Table {
        name: "event_counters",
        columns: &[("workshop_id", Text), ("seq", Integer)],
        order: "workshop_id",
    },
    Table {
        name: "events",
        columns: &[("workshop_id", Text), ("seq", Integer), ("at", Integer), ("kind", Text), ("data", Text)],
        order: "workshop_id, seq",
    },
    Table {
        name: "sessions",
        columns: &[
            ("id", Text),
            ("workshop_id", Text),
            ("state", Text),
            ("seat", Integer),
            ("line", Integer),
            ("code_hash", Bytes),
            ("client_id", Text),
            ("name", Text),
            ("end_reason", Text),
            ("created_at", Integer),
            ("last_seen_at", Integer),
        ],
        order: "id",
    },
    Table {
        name: "seats",
        columns: &[
            ("workshop_id", Text),
            ("n", Integer),
            ("generation", Integer),
            ("state", Text),
            ("reason_code", Text),
            ("reason_text", Text),
            ("attempts", Integer),
            ("retry_at", Integer),
            ("session_id", Text),
            ("ready_generation", Integer),
        ],
        order: "workshop_id, n",
    },
    Table {
        name: "workers",
        columns: &[
            ("id", Text),
            ("address", Text),
            ("token_sealed", Bytes),
            ("public_url", Text),
            ("labels", Text),
            ("capacity", Integer),
            ("tls", Text),
            ("source", Text),
            ("wish", Text),
            ("kind", Text),
            ("created_at", Integer),
        ],
        order: "id",
    },
    Table {
        name: "placements",
        columns: &[("workshop_id", Text), ("seat", Integer), ("worker", Text), ("generation", Integer)],
        order: "workshop_id, seat, worker",
    },
    Table {
        name: "leases",
        columns: &[("name", Text), ("holder", Text), ("token", Integer), ("expires_at", Integer)],
        order: "name",
    },
];

impl Table {
    /// `a, b, c`.
    pub(super) fn column_list(&self) -> String {
        self.columns.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
    }
}
