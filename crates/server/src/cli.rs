//! What `server` does besides serving: `server migrate-database`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clarateach_store::transfer::{Transfer, TransferError, transfer};
use clarateach_store::{DatabaseUrl, postgres::PostgresUrl};

use crate::config::Config;

/// `server --help`.
#[must_use]
pub fn help() -> String {
    format!(
        "{}\nserver migrate-database --from FILE [--to postgres://…]\n  \
         moves a stopped server's SQLite database to an empty PostgreSQL database; without --to, to that of DATABASE_URL\n  \
         or DATABASE_URL_FILE, where no list of processes shows the password\n",
        Config::help()
    )
}

/// What to move where.
#[derive(Debug, PartialEq, Eq)]
struct Move {
    from: PathBuf,
    to: PostgresUrl,
}

impl Move {
    /// Of the arguments after `migrate-database`. Errors never repeat a URL: it may hold a password.
    fn parse(
        mut arguments: impl Iterator<Item = String>,
        database_url: Option<String>,
    ) -> Result<Self, String> {
        let (mut from, mut to) = (None, None);
        while let Some(argument) = arguments.next() {
            let (name, value) = match argument.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (argument, None),
            };
            let slot = match name.as_str() {
                "--from" => &mut from,
                "--to" => &mut to,
                _ => return Err("migrate-database takes --from FILE and --to postgres://…".to_owned()),
            };
            let value =
                value.or_else(|| arguments.next()).ok_or_else(|| format!("{name} lacks its value"))?;
            if slot.replace(value).is_some() {
                return Err(format!("{name} is given twice"));
            }
        }
        let from = from.ok_or("--from FILE is missing: the SQLite database to move")?;
        let from = match from.parse::<DatabaseUrl>() {
            Ok(DatabaseUrl::SqliteFile(path)) => path,
            Ok(_) => return Err("--from takes the file of a SQLite database".to_owned()),
            Err(error) => return Err(format!("--from: {error}")),
        };
        let (named, to) = match to {
            Some(to) => ("--to", to),
            None => ("DATABASE_URL", database_url.ok_or("--to postgres://… is missing")?),
        };
        match to.parse::<DatabaseUrl>() {
            Ok(DatabaseUrl::Postgres(to)) => Ok(Self { from, to }),
            Ok(_) => Err(format!("{named} takes the URL of a PostgreSQL database: postgres://…")),
            Err(error) => Err(format!("{named}: {error}")),
        }
    }
}

/// Runs `server migrate-database`; what to print.
///
/// # Errors
/// One line: what is wrong with the arguments, or why nothing was moved.
pub fn migrate_database(
    arguments: impl Iterator<Item = String>,
    database_url: Option<String>,
) -> Result<String, String> {
    let wish = Move::parse(arguments, database_url)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("no threads to run on: {error}"))?;
    let moved = runtime.block_on(transfer(&wish.from, &wish.to)).map_err(|error| in_one_line(&error))?;
    Ok(report(&moved, &wish))
}

fn in_one_line(error: &TransferError) -> String {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| (*cause).source());
    causes.fold(error.to_string(), |all, cause| format!("{all}: {cause}"))
}

fn report(moved: &Transfer, wish: &Move) -> String {
    let (from, to) = (wish.from.display(), &wish.to);
    let mut text = if moved.was_there {
        format!("{to} holds all of {from} already; nothing was changed:\n")
    } else {
        format!("Moved {from} to {to}:\n")
    };
    for table in &moved.tables {
        let digest = table.digest.get(..16).unwrap_or(&table.digest);
        // Writing to a String can't fail.
        let _ = writeln!(text, "  {:<15} {:>9} rows  {digest}", table.table, table.rows);
    }
    let key = key_beside(&wish.from);
    let _ = write!(
        text,
        "Rows and digests of both sides are equal. Start the servers with DATABASE_URL={to} (and its password) and the\n\
         same SERVER_KEY as before{key}. Don't start a server on {from} any more.\n"
    );
    text
}

/// Where the key is when none was set.
fn key_beside(database: &Path) -> String {
    let key = database.with_extension("state").join("server.key");
    if key.is_file() { format!(" (without one, it is in {})", key.display()) } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str, database_url: Option<&str>) -> Result<Move, String> {
        Move::parse(line.split_whitespace().map(str::to_owned), database_url.map(str::to_owned))
    }

    #[test]
    fn arguments_are_taken_in_any_order_and_form() {
        let expected = Move { from: "a.db".into(), to: "postgres://me:pw@db/x".parse().unwrap() };
        for line in [
            "--from a.db --to postgres://me:pw@db/x",
            "--to=postgres://me:pw@db/x --from=a.db",
            "--from=sqlite:a.db --to postgresql://me:pw@db/x",
        ] {
            assert_eq!(parse(line, None).as_ref(), Ok(&expected), "{line}");
        }
        assert_eq!(parse("--from a.db", Some("postgres://me:pw@db/x")), Ok(expected));
    }

    #[test]
    fn wrong_arguments_are_said_without_the_password() {
        for line in [
            "",
            "--from",
            "--to postgres://me:secret@db/x",
            "--from a.db",
            "--from a.db --from b.db --to postgres://me:secret@db/x",
            "--from a.db postgres://me:secret@db/x",
            "--from a.db --too=postgres://me:secret@db/x",
            "--from a.db --to mysql://me:secret@db/x",
            "--from a.db --to postgres://me:secret@db:port/x",
            "--from a.db --to secret.db",
            "--from postgres://me:secret@db/x --to postgres://me:secret@db/x",
        ] {
            let error = parse(line, None).unwrap_err();
            assert!(!error.contains("secret") && !error.contains('\n'), "{line}: {error}");
        }
    }
}
