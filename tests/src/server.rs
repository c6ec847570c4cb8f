//! The real server as a child process.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use clarateach_testkit::wait_for;
use serde_json::Value;
use tempfile::TempDir;

/// How a server is started.
#[derive(Debug, Clone, Default)]
pub struct ServerOptions {
    /// Settings beyond address and database.
    pub env: Vec<(String, String)>,
    /// `Authorization: Bearer` on every call.
    pub token: Option<String>,
    /// Another binary than the one beside the test.
    pub binary: Option<PathBuf>,
}

impl ServerOptions {
    /// With one more setting.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With the simulated runtime and no Docker.
    #[must_use]
    pub fn simulated() -> Self {
        Self::default()
            .env("SIMULATED_RUNTIME", "on")
            .env("DEFAULT_IMAGE", "simulated")
            .env("DOCKER_HOST", "unix:///nonexistent/docker.sock")
    }
}

/// What the API answered.
#[derive(Debug, Clone)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// JSON body; null when there is none.
    pub body: Value,
    /// Headers.
    pub headers: http::HeaderMap,
}

impl Answer {
    /// The error code of a refusal.
    #[must_use]
    pub fn code(&self) -> &str {
        self.body["error"]["code"].as_str().unwrap_or("")
    }

    /// The text of a field.
    ///
    /// # Panics
    /// When it isn't there.
    #[must_use]
    pub fn text(&self, pointer: &str) -> String {
        self.body
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_else(|| panic!("{pointer} in {self:?}"))
            .to_owned()
    }
}

/// A server with a directory of its own, killed and removed when dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    dir: TempDir,
    port: u16,
    options: ServerOptions,
    http: reqwest::Client,
}

/// The `server` binary beside this test's own.
///
/// # Panics
/// When it was not built.
#[must_use]
pub fn server_binary() -> PathBuf {
    if let Some(path) = std::env::var_os("SERVER_BIN") {
        return path.into();
    }
    let test = std::env::current_exe().expect("a test has a path");
    let path = test.parent().and_then(Path::parent).expect("tests lie in target/debug/deps").join("server");
    assert!(path.exists(), "{} is missing; run: cargo build --bins", path.display());
    path
}

impl Server {
    /// Starts a server on a new database and waits until it answers.
    pub async fn start(options: ServerOptions) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
        let child = spawn(dir.path(), port, &options);
        let mut server = Self { child, dir, port, options, http: reqwest::Client::new() };
        server.wait_until_up().await;
        server
    }

    async fn wait_until_up(&mut self) {
        let url = self.url("/health");
        let http = self.http.clone();
        let log = self.log_path();
        let child = &mut self.child;
        wait_for("the server is up", Duration::from_secs(60), || {
            if let Ok(Some(status)) = child.try_wait() {
                panic!("the server ended: {status}\n{}", std::fs::read_to_string(&log).unwrap_or_default());
            }
            let request = http.get(&url).send();
            async { request.await.ok().map(|_| ()) }
        })
        .await;
    }

    /// kill -9, and a new one on the same database and port.
    pub async fn kill_and_restart(&mut self) {
        self.kill();
        self.restart().await;
    }

    /// kill -9.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts again after a kill.
    pub async fn restart(&mut self) {
        self.child = spawn(self.dir.path(), self.port, &self.options);
        self.wait_until_up().await;
    }

    /// SIGTERM; whether it ended well.
    pub fn terminate(&mut self) -> bool {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"));
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        self.child.wait().is_ok_and(|status| status.success())
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where its database and state are.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("server.log")
    }

    /// What it logged.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// A URL on it.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A request with the options' token.
    pub fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let method = method.parse().expect("a method");
        let url = if path.starts_with("http") { path.to_owned() } else { self.url(path) };
        let request = self.http.request(method, url);
        match &self.options.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// GET.
    pub async fn get(&self, path: &str) -> Answer {
        answer(self.request("GET", path)).await
    }

    /// POST with a JSON body.
    pub async fn post(&self, path: &str, body: Value) -> Answer {
        answer(self.request("POST", path).json(&body)).await
    }

    /// DELETE.
    pub async fn delete(&self, path: &str) -> Answer {
        answer(self.request("DELETE", path)).await
    }

    /// Sends a request to its end.
    pub async fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        answer(request).await
    }

    /// Creates a workshop and gives its id and join code.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn create(&self, wish: Value) -> (String, String) {
        let made = self.post("/api/workshops", wish).await;
        assert_eq!(made.status, 201, "{made:?}\n{}", self.log());
        (made.text("/workshop/id"), made.text("/workshop/join_code"))
    }
}

async fn answer(request: reqwest::RequestBuilder) -> Answer {
    let response = match request.send().await {
        Ok(response) => response,
        // The server may have been killed under the request: no answer is an answer too.
        Err(error) => {
            return Answer {
                status: 0,
                body: Value::String(error.to_string()),
                headers: http::HeaderMap::new(),
            };
        }
    };
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let bytes = response.bytes().await.unwrap_or_default();
    let body = serde_json::from_slice(&bytes)
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
    Answer { status, body, headers }
}

fn spawn(dir: &Path, port: u16, options: &ServerOptions) -> Child {
    let log =
        std::fs::OpenOptions::new().create(true).append(true).open(dir.join("server.log")).expect("a log");
    let mut command = Command::new(options.binary.clone().unwrap_or_else(server_binary));
    command
        .current_dir(dir)
        .env("PORT", port.to_string())
        .env("DATABASE_URL", dir.join("clarateach.db"))
        .env("RUST_LOG", "info")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    command.envs(options.env.iter().map(|(name, value)| (name, value)));
    command.spawn().expect("the server starts")
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            #[allow(clippy::print_stderr, reason = "shown with the failed test")]
            {
                let log = self.log();
                let lines: Vec<_> = log.lines().rev().take(60).collect();
                eprintln!("--- end of the server's log");
                lines.iter().rev().for_each(|line| eprintln!("{line}"));
            }
        }
        self.kill();
    }
}
