//! `postgres://USER:PASSWORD@HOST:PORT/DATABASE?…`, as libpq takes it
//! (<https://www.postgresql.org/docs/15/libpq-connect.html#LIBPQ-CONNSTRING>).

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};

/// How the server's certificate is looked at; `sslmode` as libpq has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verify {
    /// Not at all: what goes over the wire can't be read, but whoever answers is believed.
    Nothing,
    /// That a known authority made it.
    Authority,
    /// That too, and that it is this host's.
    Full,
}

/// A database on a PostgreSQL server. Its `Debug` and `Display` leave the password out.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresUrl {
    pub(super) config: Box<Config>,
    pub(super) verify: Verify,
    /// PEM of authorities; `None`: those of the system.
    pub(super) root_certificates: Option<PathBuf>,
}

/// Why a text is no URL of a PostgreSQL database. Never repeats it: it may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParsePostgresUrlError {
    /// Not of that form.
    #[error(
        "it is not a PostgreSQL URL; it has to look like postgres://USER:PASSWORD@HOST:PORT/DATABASE, with \
         characters like @ : / ? # % in user and password percent-encoded"
    )]
    Malformed,
    /// No host.
    #[error("it names no host; it has to look like postgres://USER:PASSWORD@HOST:PORT/DATABASE")]
    NoHost,
    /// A parameter after `?` that is not taken, or not with this value.
    #[error(
        "a parameter after '?' is not known or has a wrong value; taken are sslmode (disable, prefer, require, \
         verify-ca, verify-full), sslrootcert, host, port, user, dbname, application_name, connect_timeout, \
         target_session_attrs and options"
    )]
    Parameter,
}

/// Parameters that go to the library as they are. Any other is refused: it may be the rest of a password.
const TAKEN: [&str; 9] = [
    "host",
    "port",
    "user",
    "password",
    "dbname",
    "application_name",
    "connect_timeout",
    "target_session_attrs",
    "options",
];

impl FromStr for PostgresUrl {
    type Err = ParsePostgresUrlError;

    fn from_str(text: &str) -> Result<Self, ParsePostgresUrlError> {
        use ParsePostgresUrlError::{Malformed, NoHost, Parameter};
        let (base, query) = text.split_once('?').unwrap_or((text, ""));
        if !(base.starts_with("postgres://") || base.starts_with("postgresql://")) {
            return Err(Malformed);
        }
        let (mut ssl_mode, mut verify, mut root_certificates) = (SslMode::Prefer, Verify::Nothing, None);
        let mut kept = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').ok_or(Parameter)?;
            let decoded = percent_decode_str(value).decode_utf8().map_err(|_| Parameter)?;
            match (key, &*decoded) {
                ("sslmode", mode) => {
                    (ssl_mode, verify) = match mode {
                        "disable" => (SslMode::Disable, Verify::Nothing),
                        "prefer" => (SslMode::Prefer, Verify::Nothing),
                        "require" => (SslMode::Require, Verify::Nothing),
                        "verify-ca" => (SslMode::Require, Verify::Authority),
                        "verify-full" => (SslMode::Require, Verify::Full),
                        _ => return Err(Parameter),
                    };
                }
                ("sslrootcert", "system") => root_certificates = None,
                ("sslrootcert", path) => root_certificates = Some(PathBuf::from(path)),
                (key, _) if TAKEN.contains(&key) => kept.push(pair),
                _ => return Err(Parameter),
            }
        }
        if Config::from_str(base).is_err() {
            return Err(Malformed);
        }
        let mut config = Config::from_str(&format!("{base}?{}", kept.join("&"))).map_err(|_| Parameter)?;
        if config.get_hosts().is_empty() {
            return Err(NoHost);
        }
        // As libpq has it: a given authority is there to be looked at.
        if root_certificates.is_some() && ssl_mode == SslMode::Require && verify == Verify::Nothing {
            verify = Verify::Authority;
        }
        config.ssl_mode(ssl_mode);
        prepare(&mut config);
        Ok(Self { config: Box::new(config), verify, root_certificates })
    }
}

/// What is missed when nobody answers any more: a lost host within about 20 seconds even where nothing is being asked,
/// a statement that was sent and not acknowledged within 10, a statement that takes too long within 8.
fn prepare(config: &mut Config) {
    config
        .keepalives(true)
        .keepalives_idle(Duration::from_secs(10))
        .keepalives_interval(Duration::from_secs(3))
        .keepalives_retries(3)
        .tcp_user_timeout(Duration::from_secs(10));
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(Duration::from_secs(4));
    }
    if config.get_application_name().is_none() {
        config.application_name("clarateach");
    }
    // After a failover the old server may answer again, as one that only reads.
    if config.get_target_session_attrs() == TargetSessionAttrs::Any {
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
    }
    let options = format!(
        "-c statement_timeout=8000 -c lock_timeout=5000 -c idle_in_transaction_session_timeout=15000 \
         -c default_transaction_isolation=read\\ committed {}",
        config.get_options().unwrap_or_default()
    );
    config.options(options.trim_end().to_owned());
}

impl fmt::Display for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("postgres://")?;
        if let Some(user) = self.config.get_user() {
            write!(f, "{user}@")?;
        }
        let ports = self.config.get_ports();
        for (i, host) in self.config.get_hosts().iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            match host {
                Host::Tcp(name) if name.contains(':') => write!(f, "[{name}]")?,
                Host::Tcp(name) => f.write_str(name)?,
                Host::Unix(path) => path.display().fmt(f)?,
            }
            let port = ports.get(i).or(ports.first().filter(|_| ports.len() == 1));
            if let Some(port) = port {
                write!(f, ":{port}")?;
            }
        }
        if let Some(database) = self.config.get_dbname() {
            write!(f, "/{database}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgresUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_as_libpq_takes_them() {
        for (text, shown) in [
            ("postgres://me:pw@db/teach", "postgres://me@db:5432/teach"),
            ("postgresql://me:p%40w%2F@db:5433/teach?sslmode=verify-full", "postgres://me@db:5433/teach"),
            ("postgres://me@[::1]:5433/teach", "postgres://me@[::1]:5433/teach"),
            ("postgres://me:pw@a:1,b:2/teach", "postgres://me@a:1,b:2/teach"),
            ("postgres://me@%2Frun%2Fpostgresql/teach", "postgres://me@/run/postgresql:5432/teach"),
            ("postgres:///teach?host=/run/postgresql&user=me", "postgres://me@/run/postgresql/teach"),
        ] {
            let url: PostgresUrl = text.parse().unwrap();
            assert_eq!(url.to_string(), shown);
            assert_eq!(format!("{url:?}"), format!("PostgresUrl({shown})"));
        }
        let url: PostgresUrl = "postgres://me:p%40w%2F@db/x".parse().unwrap();
        assert_eq!(url.config.get_password(), Some(&b"p@w/"[..]));
        let mode = |text: &str| {
            let url: PostgresUrl = format!("postgres://db/x?{text}").parse().unwrap();
            (url.config.get_ssl_mode(), url.verify)
        };
        assert_eq!(mode(""), (SslMode::Prefer, Verify::Nothing));
        assert_eq!(mode("sslmode=disable"), (SslMode::Disable, Verify::Nothing));
        assert_eq!(mode("sslmode=require"), (SslMode::Require, Verify::Nothing));
        assert_eq!(mode("sslmode=require&sslrootcert=/a.pem"), (SslMode::Require, Verify::Authority));
        assert_eq!(mode("sslmode=verify-ca"), (SslMode::Require, Verify::Authority));
        assert_eq!(mode("sslmode=verify-full"), (SslMode::Require, Verify::Full));
    }

    #[test]
    fn what_is_wrong_is_said_in_one_line_without_the_password() {
        for text in [
            "postgres://",
            "postgres:///teach",
            "postgres://me:secret@db:port/teach",
            "postgres://me:secret@db:5432:5433/teach",
            "postgres://me:sec?ret=secret@db/teach",
            "postgres://me:secret@db/teach?sslmode=on",
            "postgres://me:secret@db/teach?secret",
            "postgres://me:secret@db/teach?secret=1",
            "postgres://me:secret@db/teach?connect_timeout=secret",
            "postgres://me:%ffsecret@db/te%ffach",
        ] {
            let error = text.parse::<PostgresUrl>().unwrap_err();
            let shown = format!("{error} {error:?}");
            assert!(!shown.contains("secret") && !shown.contains('\n'), "{text}: {shown}");
        }
    }
}
