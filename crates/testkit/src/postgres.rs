//! A PostgreSQL server of a test's own, to be stopped, killed and started again.

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::wait_for_blocking;

const PATIENCE: Duration = Duration::from_secs(60);

/// The superuser, and its password.
const USER: &str = "clarateach";
/// The password of every server that is made here.
pub const PASSWORD: &str = "pass-word of the tests";
const PASSWORD_IN_URL: &str = "pass-word%20of%20the%20tests";

/// The server: on a port of its own on the loopback and on a Unix socket, with its data in a temporary directory, and
/// without waits for the disk. It goes when this is dropped, and when the process dies.
#[derive(Debug)]
pub struct PrivatePostgres {
    directory: TempDir,
    programs: PathBuf,
    port: u16,
    settings: Vec<String>,
    server: Option<Child>,
}

impl PrivatePostgres {
    /// Makes and starts one.
    ///
    /// # Errors
    /// Why this machine can't run one: for [`crate::skip`].
    pub fn start() -> Result<Self, String> {
        Self::start_with(&[])
    }

    /// [`PrivatePostgres::start`] with settings beyond, like `max_connections=30`.
    ///
    /// # Errors
    /// Why this machine can't run one: for [`crate::skip`].
    pub fn start_with(settings: &[&str]) -> Result<Self, String> {
        Self::start_in(&std::env::temp_dir(), settings)
    }

    /// [`PrivatePostgres::start_with`], with its data in a directory of its own within `parent`, which others may enter.
    ///
    /// # Errors
    /// Why this machine can't run one: for [`crate::skip`].
    pub fn start_in(parent: &Path, settings: &[&str]) -> Result<Self, String> {
        let programs = programs()?;
        let directory = tempfile::Builder::new().prefix("ctpg").tempdir_in(parent);
        let directory = directory.map_err(|error| error.to_string())?;
        let data = directory.path().join("data");
        copy(&template(&programs)?, &data)?;
        give(directory.path())?;
        let port = free_port()?;
        let settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let mut postgres = Self { directory, programs, port, settings, server: None };
        postgres.resume();
        Ok(postgres)
    }

    /// Its data directory.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// Its port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL of a database, which need not be there yet.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        self.url_at(&format!("127.0.0.1:{}", self.port), database)
    }

    /// [`PrivatePostgres::url`] with another way to it, like that through a proxy.
    #[must_use]
    pub fn url_at(&self, address: &str, database: &str) -> String {
        format!("postgres://{USER}:{PASSWORD_IN_URL}@{address}/{database}")
    }

    /// The directory of its Unix socket.
    #[must_use]
    pub fn socket_directory(&self) -> &Path {
        self.directory.path()
    }

    /// One of PostgreSQL's programs, like `psql` or `pg_dump`, told how to reach the server.
    #[must_use]
    pub fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.programs.join(name));
        command
            .env("PGHOST", "127.0.0.1")
            .env("PGPORT", self.port.to_string())
            .env("PGUSER", USER)
            .env("PGPASSWORD", PASSWORD);
        command
    }

    /// Runs statements in a database; what they print, unaligned.
    ///
    /// # Panics
    /// With what psql said when it fails.
    pub fn sql(&self, database: &str, statements: &str) -> String {
        let mut psql = self.program("psql");
        let arguments = ["--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--set=ON_ERROR_STOP=1"];
        let output = psql.args(arguments).args(["--dbname", database, "--command", statements]).output();
        let output = output.expect("psql runs");
        assert!(output.status.success(), "{statements}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    /// Makes an empty database, and gives its URL.
    ///
    /// # Panics
    /// When the server refuses.
    #[must_use]
    pub fn database(&self, name: &str) -> String {
        self.sql("postgres", &format!("CREATE DATABASE \"{name}\""));
        self.url(name)
    }

    /// Starts it again after a stop or a kill, and waits until it answers.
    ///
    /// # Panics
    /// With its last words when it doesn't.
    pub fn resume(&mut self) {
        let log = self.directory.path().join("log");
        wait_for_blocking("PostgreSQL to answer", PATIENCE, || {
            // A killed server's children need a moment; until then it refuses to start over them.
            let ended = self.server.as_mut().is_none_or(|server| server.try_wait().ok().flatten().is_some());
            if ended {
                self.server = Some(self.spawn(&log));
            }
            let ready = self.program("pg_isready").arg("--quiet").status();
            ready.is_ok_and(|status| status.success()).then_some(())
        });
    }

    fn spawn(&self, log: &Path) -> Child {
        let log = File::options().create(true).append(true).open(log).expect("a log");
        let mut command = as_owner(&self.programs.join("postgres"), true);
        command.arg("-D").arg(self.data()).args(["-p", &self.port.to_string()]);
        command.arg("-k").arg(self.directory.path());
        for setting in ["listen_addresses=127.0.0.1", "fsync=off", "full_page_writes=off", "jit=off"]
            .into_iter()
            .chain(self.settings.iter().map(String::as_str))
        {
            command.args(["-c", setting]);
        }
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log);
        command.spawn().expect("postgres starts")
    }

    /// Has it offer TLS with a certificate and its key, both PEM.
    ///
    /// # Panics
    /// When they can't be copied, or it does not start with them.
    pub fn use_certificate(&mut self, certificate: &Path, key: &Path) {
        for (from, to) in [(certificate, "server.crt"), (key, "server.key")] {
            let to = self.data().join(to);
            fs::copy(from, &to).expect("a copy");
            fs::set_permissions(&to, fs::Permissions::from_mode(0o600)).expect("its mode");
            give(&to).expect("its owner");
        }
        self.settings.push("ssl=on".to_owned());
        self.stop();
        self.resume();
    }

    /// What it has written to its log.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// Has it end all connections and stop.
    pub fn stop(&mut self) {
        self.end("-INT");
    }

    /// Kills it.
    pub fn kill(&mut self) {
        self.end("-KILL");
    }

    /// Holds all of it in its steps, as a host that does not answer any more; [`PrivatePostgres::thaw`] lets go.
    pub fn freeze(&self) {
        self.signal_all("-STOP");
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal_all("-CONT");
    }

    fn signal_all(&self, signal: &str) {
        for pid in self.pids() {
            let _ = Command::new("kill").args([signal, &pid.to_string()]).output();
        }
    }

    /// The server and its children, which all have its data directory as theirs.
    fn pids(&self) -> Vec<u32> {
        let data = self.data();
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        processes
            .filter(|process| fs::read_link(process.path().join("cwd")).is_ok_and(|cwd| cwd == data))
            .filter_map(|process| process.file_name().to_str()?.parse().ok())
            .collect()
    }

    fn end(&mut self, signal: &str) {
        if let Some(mut server) = self.server.take() {
            let _ = Command::new("kill").args([signal, &server.id().to_string()]).output();
            let _ = server.wait();
        }
    }
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        self.thaw();
        self.end("-QUIT");
        self.signal_all("-KILL");
        // Only then can the directory go.
        for _ in 0..500 {
            if self.pids().is_empty() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Where PostgreSQL's programs are: Debian keeps them out of the path.
fn programs() -> Result<PathBuf, String> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = versions
        .map(|version| version.path().join("bin"))
        .filter(|bin| bin.join("initdb").is_file() && bin.join("postgres").is_file())
        .collect();
    found.sort();
    found.pop().ok_or_else(|| "there is no PostgreSQL server here: install postgresql".to_owned())
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// PostgreSQL does not run as root: then as its own user, else as nobody.
fn owner() -> Option<(u32, u32)> {
    let accounts = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let ids = |name: &str| {
        let mut fields =
            accounts.lines().find(|line| line.split(':').next() == Some(name))?.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    if is_root() { ids("postgres").or_else(|| ids("nobody")) } else { None }
}

fn as_owner(program: &Path, dies_with_us: bool) -> Command {
    let mut command = Command::new("setpriv");
    if let Some((user, group)) = owner() {
        command.args([format!("--reuid={user}"), format!("--regid={group}")]).arg("--clear-groups");
    }
    if dies_with_us {
        command.arg("--pdeathsig=KILL");
    }
    command.arg("--").arg(program).env_remove("LC_ALL").env("LANG", "C.UTF-8");
    command
}

/// Gives a directory and what is in it to PostgreSQL's user.
fn give(path: &Path) -> Result<(), String> {
    let Some((user, group)) = owner() else { return Ok(()) };
    run(Command::new("chown").arg("-R").arg(format!("{user}:{group}")).arg(path))
}

fn copy(from: &Path, to: &Path) -> Result<(), String> {
    run(Command::new("cp").args(["-a", "--reflink=auto"]).arg(from).arg(to))
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
    }
}

fn free_port() -> Result<u16, String> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(|error| error.to_string())?;
    listener.local_addr().map(|address| address.port()).map_err(|error| error.to_string())
}

/// An empty cluster to copy: making one takes seconds. It is kept beside the test binaries, made once; every test is a
/// process of its own, and several may come here at once.
fn template(programs: &Path) -> Result<PathBuf, String> {
    let io = |error: std::io::Error| error.to_string();
    let own = std::env::current_exe().map_err(io)?;
    let profile = own.ancestors().nth(2).ok_or("a test is in target/PROFILE/deps")?;
    let version = programs.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
    let template = profile.join(format!("postgres-template-{version}"));
    let lock = File::create(profile.join(".postgres-template.lock")).map_err(io)?;
    lock.lock().map_err(io)?;
    if template.is_dir() {
        return Ok(template);
    }
    let fresh = tempfile::Builder::new().prefix("ctpg").tempdir().map_err(io)?;
    let password = fresh.path().join("password");
    fs::write(&password, PASSWORD).map_err(io)?;
    give(fresh.path())?;
    fs::set_permissions(fresh.path(), fs::Permissions::from_mode(0o700)).map_err(io)?;
    let data = fresh.path().join("data");
    let mut initdb = as_owner(&programs.join("initdb"), false);
    initdb.arg("--pgdata").arg(&data).args(["--username", USER, "--auth=scram-sha-256", "--encoding=UTF8"]);
    initdb.args(["--locale=C.UTF-8", "--no-sync", "--wal-segsize=4"]);
    initdb.arg(format!("--pwfile={}", password.display()));
    run(initdb.current_dir(fresh.path()))?;
    // Whole or not at all.
    let half = profile.join(format!(".postgres-template-{}", std::process::id()));
    copy(&data, &half)?;
    fs::rename(&half, &template).map_err(io)?;
    Ok(template)
}
