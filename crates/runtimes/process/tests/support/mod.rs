//! A process runtime to test, in a directory of its own.

use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use clarateach_ids::SeatKey;
use clarateach_runtime::conformance::Harness;
use clarateach_runtime::tunnel::SECRET_HEADER;
use clarateach_runtime::{ImageRef, Runtime, SeatPort};
use clarateach_runtime_process::{ProcessConfig, ProcessRuntime};
use clarateach_testkit::{leaks, seat_binary};
use futures_util::{SinkExt, StreamExt};
use tempfile::TempDir;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

pub(crate) struct Process {
    pub(crate) state: TempDir,
    workspace: PathBuf,
}

pub(crate) async fn process(_test: &str) -> Option<Process> {
    let workspace = seat_binary::workspace().expect("a workspace binary");
    Some(Process { state: tempfile::tempdir().expect("a directory"), workspace })
}

impl Process {
    /// The pid of the seat's workspace.
    pub(crate) fn pid(&self, key: &SeatKey) -> String {
        let title = format!("workspace:{}/seats/{}.{}.", self.state.path().display(), key.workshop, key.seat);
        let found = leaks::processes(&title);
        let process = found.first().unwrap_or_else(|| panic!("{key} has no workspace"));
        process.split(' ').nth(1).expect("a pid").to_owned()
    }

    /// Types a line into a new terminal of the seat, as a learner would.
    pub(crate) async fn type_line(&self, runtime: &dyn Runtime, key: &SeatKey, secret: &str, line: &str) {
        let stream = runtime.dial(key, SeatPort::Workspace).await.expect("dial");
        let mut request = "ws://seat/terminal".into_client_request().expect("a request");
        request.headers_mut().insert(SECRET_HEADER, secret.parse().expect("a header"));
        let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await.expect("a terminal");
        // Printed in halves, so that the terminal's echo of the line is not mistaken for its output.
        let line = format!("{line}\nprintf 'typed-%s\\n' and-run");
        let line = line.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let frame = format!(r#"{{"type":"input","data":"{line}\n"}}"#);
        socket.send(Message::Text(frame.into())).await.expect("typed");
        let done = async {
            let mut seen = String::new();
            while !seen.contains("typed-and-run") {
                let message = socket.next().await.expect("open").expect("a frame");
                seen.push_str(message.to_text().unwrap_or_default());
            }
        };
        tokio::time::timeout(Duration::from_secs(20), done).await.unwrap_or_else(|_| panic!("not run"));
        socket.close(None).await.expect("closed");
    }
}

#[async_trait]
impl Harness for Process {
    async fn open(&self) -> Arc<dyn Runtime> {
        let config = ProcessConfig::new(self.workspace.clone(), self.state.path().to_owned(), 3);
        Arc::new(ProcessRuntime::open(config).expect("open"))
    }

    fn image(&self) -> ImageRef {
        ImageRef("anything".to_owned())
    }

    fn capacity(&self) -> u32 {
        3
    }

    async fn kill(&self, key: &SeatKey) {
        let _ = leaks::run("kill", &["-KILL", &self.pid(key)]);
    }

    async fn echo(&self, key: &SeatKey) -> Option<u16> {
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = free.local_addr().expect("an address").port();
        drop(free);
        let runtime = self.open().await;
        let ready = clarateach_runtime::conformance::until_ready(&*runtime, key, 1);
        tokio::time::timeout(Duration::from_secs(10), ready).await.expect("adopted");
        let line = format!("busybox nc -ll -p {port} -e cat &");
        self.type_line(&*runtime, key, &format!("secret of {key} 1"), &line).await;
        Some(port)
    }

    // Another installation has another directory: there is nothing that could be mistaken.
    async fn plant_foreign(&self) {}

    async fn foreign_is_untouched(&self) -> bool {
        true
    }

    async fn leftovers(&self) -> Vec<String> {
        let state = self.state.path();
        let mut left = leaks::processes(&state.display().to_string());
        left.extend(leaks::files(&state.join("seats")));
        left.extend(leaks::files(&state.join("run")));
        left
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        for left in leaks::processes(&self.state.path().display().to_string()) {
            let pid = left.split(' ').nth(1).unwrap_or_default();
            let _ = std::process::Command::new("kill").args(["-KILL", pid]).output();
        }
    }
}
