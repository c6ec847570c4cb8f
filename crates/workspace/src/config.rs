//! The settings of a seat's workspace, read once from the environment.

use std::{
    ffi::{OsStr, OsString},
    fs, io,
    net::SocketAddr,
    path::PathBuf,
};

use thiserror::Error;

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// `tcp:ADDRESS:PORT`
    Tcp(SocketAddr),
    /// `unix:/path`: the socket is made with mode 0600, a stale one is replaced.
    Unix(PathBuf),
}

/// Whose processes and files the learner's are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LearnerId {
    /// Drop to this uid (`CLARATEACH_UID`, 1000 when unset).
    Uid(u32),
    /// Stay who we are (`CLARATEACH_UID=self`).
    Same,
}

/// Which listeners are the seat's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortScope {
    /// All of the network namespace: a container or a microVM.
    Namespace,
    /// Those of our own process tree (`CLARATEACH_PORTS=tree`): plain processes on a shared machine.
    Tree,
}

/// The secret that a gateway must send. Prints nothing of itself.
#[derive(Clone)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Compares in a time that depends on the lengths only.
    pub fn matches(&self, offered: &[u8]) -> bool {
        let differing =
            self.0.iter().zip(offered).fold(0u8, |sum, (a, b)| std::hint::black_box(sum | (a ^ b)));
        self.0.len() == offered.len() && differing == 0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Everything that the environment decides.
#[derive(Clone, Debug)]
pub struct Config {
    /// `CLARATEACH_LISTEN`, default `tcp:0.0.0.0:7681`.
    pub listen: Listen,
    /// `CLARATEACH_SECRET`, or the content of the file `CLARATEACH_SECRET_FILE`; required.
    pub secret: Secret,
    /// `CLARATEACH_ROOT`: the workspace directory; default the current directory, or `/workspace` if that is `/`.
    pub root: PathBuf,
    /// `CLARATEACH_UID`.
    pub learner: LearnerId,
    /// `CLARATEACH_SHELL`: an absolute path that overrides the search for a shell.
    pub shell: Option<PathBuf>,
    /// `CLARATEACH_PORTS`: `namespace` (default) or `tree`.
    pub ports: PortScope,
    /// What the learner's shell gets: everything else in the environment.
    pub learner_env: Vec<(OsString, OsString)>,
}

/// A setting that can't be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The secret is missing.
    #[error(
        "CLARATEACH_SECRET (or CLARATEACH_SECRET_FILE) is not set: it takes the secret that the gateway sends"
    )]
    NoSecret,
    /// A variable has a value it can't take.
    #[error("{variable} is {value:?}: it takes {takes}")]
    Invalid {
        /// Name of the variable.
        variable: &'static str,
        /// What it was set to.
        value: String,
        /// What it takes.
        takes: &'static str,
    },
    /// The secret file can't be read or closed to the learner.
    #[error("CLARATEACH_SECRET_FILE {path}: can't {operation} it")]
    SecretFile {
        /// The file.
        path: PathBuf,
        /// What failed.
        operation: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

const OURS: [&str; 9] = [
    "CLARATEACH_LISTEN",
    "CLARATEACH_SECRET",
    "CLARATEACH_SECRET_FILE",
    "CLARATEACH_ROOT",
    "CLARATEACH_UID",
    "CLARATEACH_SHELL",
    "CLARATEACH_PORTS",
    // Between the two lives of a microVM's first process, see `pid1::guest`.
    "CLARATEACH_CONTROL",
    "CLARATEACH_UPPER",
];

impl Config {
    /// Reads the environment; the secret file, if there is one, is removed or must be closed to others.
    ///
    /// # Errors
    /// Names the variable and says what it takes.
    pub fn from_environment() -> Result<Config, ConfigError> {
        Config::from_vars(std::env::vars_os().collect())
    }

    fn from_vars(vars: Vec<(OsString, OsString)>) -> Result<Config, ConfigError> {
        let (ours, learner_env): (Vec<_>, Vec<_>) =
            vars.into_iter().partition(|(name, _)| OURS.iter().any(|o| OsStr::new(o) == name));
        let get = |name: &str| ours.iter().find(|(n, v)| n == name && !v.is_empty()).map(|(_, v)| v.clone());
        let text = |name: &str| get(name).map(|v| v.to_string_lossy().into_owned());
        let learner = match text("CLARATEACH_UID").as_deref() {
            None => LearnerId::Uid(1000),
            Some("self") => LearnerId::Same,
            Some(value) => match value.parse() {
                Ok(uid) if uid > 0 => LearnerId::Uid(uid),
                _ => return Err(invalid("CLARATEACH_UID", value, "a uid above 0, or self")),
            },
        };
        let listen = parse_listen(&text("CLARATEACH_LISTEN").unwrap_or_else(|| "tcp:0.0.0.0:7681".into()))?;
        let ports = match text("CLARATEACH_PORTS").as_deref() {
            None | Some("namespace") => PortScope::Namespace,
            Some("tree") => PortScope::Tree,
            Some(value) => return Err(invalid("CLARATEACH_PORTS", value, "namespace or tree")),
        };
        let shell = get("CLARATEACH_SHELL").map(PathBuf::from);
        if let Some(relative) = shell.as_ref().filter(|p| !p.is_absolute()) {
            return Err(invalid("CLARATEACH_SHELL", &relative.to_string_lossy(), "an absolute path"));
        }
        let root = match get("CLARATEACH_ROOT").map(PathBuf::from) {
            Some(root) if root.is_absolute() && root.parent().is_some() => root,
            Some(root) => {
                return Err(invalid(
                    "CLARATEACH_ROOT",
                    &root.to_string_lossy(),
                    "an absolute path other than /",
                ));
            }
            None => std::env::current_dir()
                .ok()
                .filter(|d| d.parent().is_some())
                .unwrap_or_else(|| "/workspace".into()),
        };
        let secret = match (get("CLARATEACH_SECRET"), get("CLARATEACH_SECRET_FILE")) {
            (Some(secret), _) => secret.into_encoded_bytes(),
            (None, Some(path)) => read_secret_file(path.into(), learner)?,
            (None, None) => return Err(ConfigError::NoSecret),
        };
        Ok(Config { listen, secret: Secret(secret), root, learner, shell, ports, learner_env })
    }
}

fn invalid(variable: &'static str, value: &str, takes: &'static str) -> ConfigError {
    ConfigError::Invalid { variable, value: value.to_owned(), takes }
}

fn parse_listen(value: &str) -> Result<Listen, ConfigError> {
    let parsed = match value.split_once(':') {
        Some(("tcp", address)) => address.parse().ok().map(Listen::Tcp),
        Some(("unix", path)) if path.starts_with('/') => Some(Listen::Unix(path.into())),
        _ => None,
    };
    parsed.ok_or_else(|| invalid("CLARATEACH_LISTEN", value, "tcp:ADDRESS:PORT or unix:/path"))
}

/// Reads the secret and takes it out of the learner's reach: removed where possible, else it must belong to somebody
/// else and be closed to others.
fn read_secret_file(path: PathBuf, learner: LearnerId) -> Result<Vec<u8>, ConfigError> {
    use std::os::unix::fs::PermissionsExt;
    let fail = |operation| {
        let path = path.clone();
        move |source| ConfigError::SecretFile { path, operation, source }
    };
    let mut secret = fs::read(&path).map_err(fail("read"))?;
    while secret.last().is_some_and(u8::is_ascii_whitespace) {
        secret.pop();
    }
    if secret.is_empty() {
        return Err(ConfigError::NoSecret);
    }
    if let Err(unremoved) = fs::remove_file(&path) {
        let closed = fs::metadata(&path).is_ok_and(|m| m.permissions().mode() & 0o077 == 0);
        if learner == LearnerId::Same || !closed {
            return Err(fail("remove")(unremoved));
        }
    }
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vars(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        pairs.iter().map(|(n, v)| (OsString::from(n), OsString::from(v))).collect()
    }

    #[test]
    fn the_secret_is_required_and_never_passed_on() {
        assert!(matches!(Config::from_vars(vars(&[])), Err(ConfigError::NoSecret)));
        let config = Config::from_vars(vars(&[("CLARATEACH_SECRET", "s3"), ("PATH", "/bin")])).unwrap();
        assert_eq!(config.learner_env, vars(&[("PATH", "/bin")]));
        assert_eq!(config.listen, Listen::Tcp(([0, 0, 0, 0], 7681).into()));
        assert!(config.secret.matches(b"s3"));
        for wrong in [&b"s"[..], b"s33", b"", b"S3"] {
            assert!(!config.secret.matches(wrong));
        }
        assert!(!format!("{config:?}").contains("s3"));
    }

    #[test]
    fn wrong_values_name_the_variable() {
        for (name, value) in [
            ("CLARATEACH_LISTEN", "0.0.0.0:1"),
            ("CLARATEACH_LISTEN", "unix:relative"),
            ("CLARATEACH_UID", "0"),
            ("CLARATEACH_UID", "root"),
            ("CLARATEACH_SHELL", "bash"),
            ("CLARATEACH_ROOT", "work"),
            ("CLARATEACH_ROOT", "/"),
            ("CLARATEACH_PORTS", "all"),
        ] {
            let error = Config::from_vars(vars(&[("CLARATEACH_SECRET", "s"), (name, value)])).unwrap_err();
            assert!(error.to_string().starts_with(name), "{error}");
        }
    }

    #[test]
    fn a_secret_file_is_gone_after_reading() {
        let path = std::env::temp_dir().join(format!("clarateach-secret-{}", std::process::id()));
        fs::write(&path, "abc\n").unwrap();
        let config =
            Config::from_vars(vec![("CLARATEACH_SECRET_FILE".into(), path.clone().into_os_string())])
                .unwrap();
        assert!(config.secret.matches(b"abc"));
        assert!(!path.exists());
    }
}
