//! A row on its way, and the digest of a table.

use tokio_postgres::types::{ToSql, Type};

use super::tables::{Kind, Table};

/// One value; `None` is NULL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Text(Option<String>),
    Integer(Option<i64>),
    Bytes(Option<Vec<u8>>),
    Boolean(Option<bool>),
}

impl Kind {
    pub(super) fn postgres_type(self) -> Type {
        match self {
            Self::Text => Type::TEXT,
            Self::Integer => Type::INT8,
            Self::Bytes => Type::BYTEA,
            Self::Boolean => Type::BOOL,
        }
    }
}

impl Value {
    pub(super) fn of_sqlite(row: &rusqlite::Row<'_>, index: usize, kind: Kind) -> rusqlite::Result<Self> {
        Ok(match kind {
            // As the PostgreSQL store would have written it: no zero bytes.
            Kind::Text => {
                let text: Option<String> = row.get(index)?;
                Self::Text(text.map(|text| text.replace('\0', "\u{fffd}")))
            }
            Kind::Integer => Self::Integer(row.get(index)?),
            Kind::Bytes => Self::Bytes(row.get(index)?),
            Kind::Boolean => Self::Boolean(row.get(index)?),
        })
    }

    pub(super) fn of_postgres(
        row: &tokio_postgres::Row,
        index: usize,
        kind: Kind,
    ) -> Result<Self, tokio_postgres::Error> {
        Ok(match kind {
            Kind::Text => Self::Text(row.try_get(index)?),
            Kind::Integer => Self::Integer(row.try_get(index)?),
            Kind::Bytes => Self::Bytes(row.try_get(index)?),
            Kind::Boolean => Self::Boolean(row.try_get(index)?),
        })
    }

    pub(super) fn parameter(&self) -> &(dyn ToSql + Sync) {
        match self {
            Self::Text(value) => value,
            Self::Integer(value) => value,
            Self::Bytes(value) => value,
            Self::Boolean(value) => value,
        }
    }

    fn feed(&self, hasher: &mut blake3::Hasher) {
        // Kind, presence and length come first, so that no two rows look the same.
        let (kind, bytes) = match self {
            Self::Text(value) => (b't', value.as_ref().map(|text| text.as_bytes().to_vec())),
            Self::Integer(value) => (b'i', value.map(|value| value.to_be_bytes().to_vec())),
            Self::Bytes(value) => (b'b', value.clone()),
            Self::Boolean(value) => (b'o', value.map(|value| vec![u8::from(value)])),
        };
        hasher.update(&[kind, u8::from(bytes.is_some())]);
        if let Some(bytes) = bytes {
            hasher.update(&(bytes.len() as u64).to_be_bytes());
            hasher.update(&bytes);
        }
    }
}

/// Rows seen of a table, whatever their order: both sides may give them in their own.
#[derive(Debug, Default)]
pub(super) struct Digest {
    rows: Vec<[u8; 32]>,
}

impl Digest {
    pub(super) fn add(&mut self, row: &[Value]) {
        let mut hasher = blake3::Hasher::new();
        for value in row {
            value.feed(&mut hasher);
        }
        self.rows.push(*hasher.finalize().as_bytes());
    }

    pub(super) fn finish(mut self, table: &Table) -> TableDigest {
        self.rows.sort_unstable();
        let mut hasher = blake3::Hasher::new();
        hasher.update(table.name.as_bytes());
        for row in &self.rows {
            hasher.update(row);
        }
        TableDigest {
            table: table.name,
            rows: self.rows.len() as u64,
            digest: hasher.finalize().to_hex().to_string(),
        }
    }
}

/// What a table holds: two that are equal hold the same rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableDigest {
    /// Its name.
    pub table: &'static str,
    /// How many rows.
    pub rows: u64,
    /// BLAKE3 of all its rows, in hexadecimal digits.
    pub digest: String,
}
