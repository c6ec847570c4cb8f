//! Moving an installation from its SQLite file to a PostgreSQL database.
//!
//! The file is locked meanwhile, as a server would lock it, and is left as it was but for being brought up to date. In the
//! target everything happens in one transaction: what is not committed was never there, and running it again is all that
//! it takes to go on.

mod row;
mod tables;

use std::path::{Path, PathBuf};
use std::pin::pin;

use futures_util::TryStreamExt;
use rusqlite::Connection;
use tokio_postgres::Transaction;
use tokio_postgres::binary_copy::BinaryCopyInWriter;

use crate::postgres::{self, PostgresUrl, migrated_client};
use crate::sqlite::{self, LockedFile};

pub use row::TableDigest;

use row::{Digest, Value};
use tables::{TABLES, Table};

/// What was moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transfer {
    /// Each table, as it is on both sides.
    pub tables: Vec<TableDigest>,
    /// Whether all of it was in the target before: an earlier run had succeeded.
    pub was_there: bool,
}

/// Why nothing was moved.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// There is no file to move.
    #[error("there is no database {path}", path = .path.display())]
    NoSource {
        /// The file.
        path: PathBuf,
    },
    /// The file can't be opened, or a server has it open.
    #[error("can't read what is to be moved")]
    Source(#[source] sqlite::OpenError),
    /// Reading it failed.
    #[error("reading the table {table} of the file failed")]
    Read {
        /// Which.
        table: &'static str,
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
    /// The target can't be opened.
    #[error("can't open where it is to be moved")]
    Target(#[source] postgres::OpenError),
    /// There is something there already.
    #[error(
        "{url} is not empty: its table {table} has {rows} rows; nothing was changed. Give an empty database"
    )]
    NotEmpty {
        /// The target.
        url: PostgresUrl,
        /// A table that holds something.
        table: &'static str,
        /// How many rows.
        rows: u64,
    },
    /// A server runs on it.
    #[error("a server uses {url}; stop it first. Nothing was changed")]
    InUse {
        /// The target.
        url: PostgresUrl,
    },
    /// Writing failed.
    #[error("writing the table {table} failed; nothing was changed")]
    Write {
        /// Which.
        table: &'static str,
        /// What PostgreSQL said.
        #[source]
        source: tokio_postgres::Error,
    },
    /// The last step failed, and it is not known how it ended.
    #[error("committing failed; run it again, to go on or to hear that it was done")]
    Commit(#[source] tokio_postgres::Error),
    /// What was written is not what was read.
    #[error(
        "the table {table} was not written as it was read ({read} rows, {written} found); nothing was changed"
    )]
    Differs {
        /// Which.
        table: &'static str,
        /// Rows in the file.
        read: u64,
        /// Rows in the target.
        written: u64,
    },
}

/// Moves everything from the SQLite file `from` to the empty PostgreSQL database `to`, and compares both sides.
///
/// # Errors
/// See [`TransferError`]; the target is as it was but for its empty tables.
pub async fn transfer(from: &Path, to: &PostgresUrl) -> Result<Transfer, TransferError> {
    let source = LockedFile::open(from).map_err(|error| match error {
        sqlite::OpenError::NotThere { path } => TransferError::NoSource { path },
        error => TransferError::Source(error),
    })?;
    let mut client = migrated_client(to).await.map_err(TransferError::Target)?;
    let write = |table| move |source| TransferError::Write { table, source };
    let transaction = client.transaction().await.map_err(write("installation"))?;
    let names: Vec<&str> = TABLES.iter().map(|table| table.name).collect();
    transaction
        .batch_execute(&format!(
            "SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0;
             LOCK TABLE {}, replicas IN SHARE ROW EXCLUSIVE MODE",
            names.join(", ")
        ))
        .await
        .map_err(write("installation"))?;

    let expected = of_source(&source)?;
    if of_target(&transaction).await? == expected {
        return Ok(Transfer { tables: expected, was_there: true });
    }
    must_be_empty(&transaction, to).await?;
    transaction.execute("DELETE FROM installation", &[]).await.map_err(write("installation"))?;
    for table in TABLES {
        copy(&source.connection, &transaction, table).await?;
    }
    let written = of_target(&transaction).await?;
    if let Some((read, written)) = expected.iter().zip(&written).find(|(read, written)| read != written) {
        return Err(TransferError::Differs { table: read.table, read: read.rows, written: written.rows });
    }
    transaction.commit().await.map_err(TransferError::Commit)?;
    Ok(Transfer { tables: expected, was_there: false })
}

/// But for an installation's id, which opening it gave it.
async fn must_be_empty(transaction: &Transaction<'_>, url: &PostgresUrl) -> Result<(), TransferError> {
    for table in TABLES.iter().filter(|table| table.name != "installation") {
        let rows = count(transaction, table.name).await?;
        if rows > 0 {
            return Err(TransferError::NotEmpty { url: url.clone(), table: table.name, rows });
        }
    }
    if count(transaction, "replicas").await? > 0 {
        return Err(TransferError::InUse { url: url.clone() });
    }
    Ok(())
}

async fn count(transaction: &Transaction<'_>, table: &'static str) -> Result<u64, TransferError> {
    let rows = transaction.query_one(&format!("SELECT count(*) FROM {table}"), &[]).await;
    let rows = rows.map_err(|source| TransferError::Write { table, source })?;
    Ok(rows.get::<_, i64>(0).unsigned_abs())
}

fn of_source(source: &LockedFile) -> Result<Vec<TableDigest>, TransferError> {
    let digests = TABLES.iter().map(|table| {
        let mut digest = Digest::default();
        let mut after = 0;
        loop {
            let rows = batch(&source.connection, table, after)?;
            rows.iter().for_each(|row| digest.add(row));
            after += rows.len();
            if rows.len() < BATCH {
                return Ok(digest.finish(table));
            }
        }
    });
    digests.collect()
}

async fn of_target(transaction: &Transaction<'_>) -> Result<Vec<TableDigest>, TransferError> {
    let mut digests = Vec::new();
    for table in TABLES {
        let failed = |source| TransferError::Write { table: table.name, source };
        let sql = format!("SELECT {} FROM {}", table.column_list(), table.name);
        let no_parameters: [&str; 0] = [];
        let rows = transaction.query_raw(&sql, no_parameters).await.map_err(failed)?;
        let mut rows = pin!(rows);
        let mut digest = Digest::default();
        while let Some(row) = rows.try_next().await.map_err(failed)? {
            let values = table.columns.iter().enumerate();
            let values: Result<Vec<Value>, _> =
                values.map(|(index, (_, kind))| Value::of_postgres(&row, index, *kind)).collect();
            digest.add(&values.map_err(failed)?);
        }
        digests.push(digest.finish(table));
    }
    Ok(digests)
}

/// Rows held in memory at once.
const BATCH: usize = 10_000;

async fn copy(
    source: &Connection,
    transaction: &Transaction<'_>,
    table: &Table,
) -> Result<(), TransferError> {
    let failed = |source| TransferError::Write { table: table.name, source };
    let types: Vec<_> = table.columns.iter().map(|(_, kind)| kind.postgres_type()).collect();
    let sql = format!("COPY {} ({}) FROM STDIN BINARY", table.name, table.column_list());
    let sink = transaction.copy_in(&sql).await.map_err(failed)?;
    let mut writer = pin!(BinaryCopyInWriter::new(sink, &types));
    let mut after = 0;
    loop {
        let rows = batch(source, table, after)?;
        for row in &rows {
            let values: Vec<_> = row.iter().map(Value::parameter).collect();
            writer.as_mut().write(&values).await.map_err(failed)?;
        }
        after += rows.len();
        if rows.len() < BATCH {
            break;
        }
    }
    writer.finish().await.map_err(failed)?;
    Ok(())
}

/// The rows after the first `after` ones.
fn batch(connection: &Connection, table: &Table, after: usize) -> Result<Vec<Vec<Value>>, TransferError> {
    let (columns, name, order) = (table.column_list(), table.name, table.order);
    let read = || -> rusqlite::Result<Vec<Vec<Value>>> {
        let sql = format!("SELECT {columns} FROM {name} ORDER BY {order} LIMIT {BATCH} OFFSET {after}");
        let mut statement = connection.prepare(&sql)?;
        let rows = statement.query_map([], |row| {
            let values = table.columns.iter().enumerate();
            values.map(|(index, (_, kind))| Value::of_sqlite(row, index, *kind)).collect()
        })?;
        rows.collect()
    };
    read().map_err(|source| TransferError::Read { table: name, source })
}
