//! What the double of Firecracker takes and refuses, held against Firecracker's published API description
//! (`src/firecracker/swagger/firecracker.yaml`, version 1.16.1; the tables here are ours) and against what it answers.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use clarateach_testkit::{firecracker_double, wait_for_blocking};
use serde_json::{Value, json};

/// A double, and a directory that is its own.
struct Double {
    child: Child,
    dir: tempfile::TempDir,
}

impl Double {
    fn start() -> Self {
        Self::of(&firecracker_double::path())
    }

    /// The same of another program, which may be a real Firecracker.
    fn of(program: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("kernel"), b"\x7fELF...").unwrap();
        std::fs::write(dir.path().join("disk"), [0; 512]).unwrap();
        let child = Command::new(program)
            .args(["--id", "api-test", "--api-sock", "api.sock", "--no-seccomp"])
            .current_dir(dir.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let double = Self { child, dir };
        wait_for_blocking("the API", Duration::from_secs(5), || UnixStream::connect(double.socket()).ok());
        double
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("api.sock")
    }

    /// Status and body of a call.
    fn call(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let answer = read_answer(&mut stream);
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        let body = answer.split_once("\r\n\r\n").unwrap().1;
        (status, serde_json::from_str(body).unwrap_or(Value::Null))
    }

    fn accepts(&self, method: &str, path: &str, body: &Value) {
        let (status, answer) = self.call(method, path, body);
        assert_eq!((status, &answer), (204, &Value::Null), "{method} {path} {body}");
    }

    fn refuses(&self, method: &str, path: &str, body: &Value, words: &str) {
        let (status, answer) = self.call(method, path, body);
        let fault =
            answer["fault_message"].as_str().unwrap_or_else(|| panic!("{method} {path}: {status} {answer}"));
        assert_eq!(status, 400, "{method} {path} {body}");
        assert!(fault.contains(words), "{method} {path} {body}: {fault}");
    }

    /// Configured as a VM must at least be.
    fn configured() -> Self {
        let double = Self::start();
        double.accepts("PUT", "/machine-config", &json!({ "vcpu_count": 1, "mem_size_mib": 16 }));
        double.accepts("PUT", "/boot-source", &json!({ "kernel_image_path": "kernel" }));
        double
    }

    fn running() -> Self {
        let double = Self::configured();
        double.accepts("PUT", "/actions", &json!({ "action_type": "InstanceStart" }));
        double
    }
}

impl Drop for Double {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Head and body of an answer; a real Firecracker leaves the connection open after it.
fn read_answer(stream: &mut UnixStream) -> String {
    let mut answer = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&answer).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .to_lowercase()
                .lines()
                .find_map(|line| Some(line.strip_prefix("content-length:")?.trim().parse().unwrap()));
            if body.len() >= length.unwrap_or(0) {
                return text;
            }
        }
        let mut more = [0; 4096];
        let length = stream.read(&mut more).unwrap();
        assert!(length > 0, "the connection broke after: {text}");
        answer.extend(&more[..length]);
    }
}

/// Method, path and a body with every field of the API description, and those among them that must be there.
fn published() -> Vec<(&'static str, &'static str, Value, &'static [&'static str])> {
    let limiter = json!({
        "bandwidth": { "size": 1, "one_time_burst": 1, "refill_time": 1 },
        "ops": { "size": 1, "one_time_burst": 1, "refill_time": 1 },
    });
    vec![
        (
            "PUT",
            "/machine-config",
            json!({
                "vcpu_count": 2, "mem_size_mib": 16, "smt": false, "cpu_template": "None",
                "track_dirty_pages": false, "huge_pages": "None",
            }),
            &["vcpu_count", "mem_size_mib"],
        ),
        (
            "PUT",
            "/boot-source",
            json!({ "kernel_image_path": "kernel", "initrd_path": "disk", "boot_args": "quiet" }),
            &["kernel_image_path"],
        ),
        (
            "PUT",
            "/drives/disk",
            json!({
                "drive_id": "disk", "is_root_device": false, "partuuid": "u", "cache_type": "Unsafe",
                "is_read_only": true, "path_on_host": "disk", "rate_limiter": limiter, "io_engine": "Sync",
                "socket": null,
            }),
            &["drive_id", "is_root_device"],
        ),
        (
            "PUT",
            "/network-interfaces/eth0",
            json!({
                "iface_id": "eth0", "host_dev_name": "ct-no-such-tap", "guest_mac": "02:00:00:00:00:02", "mtu": 1500,
                "rx_rate_limiter": limiter, "tx_rate_limiter": limiter,
            }),
            &["iface_id", "host_dev_name"],
        ),
        (
            "PUT",
            "/vsock",
            json!({ "guest_cid": 3, "uds_path": "v.sock", "vsock_id": "v" }),
            &["guest_cid", "uds_path"],
        ),
        ("PUT", "/entropy", json!({ "rate_limiter": limiter }), &[]),
        (
            "PUT",
            "/serial",
            json!({ "serial_out_path": "out", "rate_limiter": { "size": 1, "one_time_burst": 1, "refill_time": 1 } }),
            &[],
        ),
        (
            "PUT",
            "/balloon",
            json!({
                "amount_mib": 0, "deflate_on_oom": true, "stats_polling_interval_s": 0, "free_page_hinting": false,
                "free_page_reporting": false,
            }),
            &["amount_mib", "deflate_on_oom"],
        ),
        (
            "PUT",
            "/logger",
            json!({ "level": "Info", "log_path": "log", "show_level": true, "show_log_origin": true, "module": "m" }),
            &[],
        ),
        ("PUT", "/actions", json!({ "action_type": "FlushMetrics" }), &["action_type"]),
        ("PATCH", "/vm", json!({ "state": "Paused" }), &["state"]),
        (
            "PUT",
            "/snapshot/create",
            json!({ "mem_file_path": "m", "snapshot_path": "s", "snapshot_type": "Full" }),
            &["mem_file_path", "snapshot_path"],
        ),
        (
            "PUT",
            "/snapshot/load",
            json!({
                "snapshot_path": "s", "mem_backend": { "backend_type": "File", "backend_path": "m" },
                "enable_diff_snapshots": false, "track_dirty_pages": false, "resume_vm": false,
                "network_overrides": [{ "iface_id": "eth0", "host_dev_name": "tap" }],
                "vsock_override": { "uds_path": "v" }, "clock_realtime": false,
            }),
            &["snapshot_path"],
        ),
    ]
}

const NOT_UNDERSTOOD: &str = "deserializing the json body";

#[test]
fn every_published_field_is_understood_and_no_other() {
    understands_what_is_published(&firecracker_double::path());
}

#[test]
fn what_is_not_there_is_refused() {
    refuses_what_is_not_there(&firecracker_double::path());
}

/// The double is as strict as the real one, and no stricter.
#[test]
fn firecracker_takes_and_refuses_what_its_double_does() {
    let Some(program) = std::env::var_os("FIRECRACKER_BIN").filter(|program| !program.is_empty()) else {
        return clarateach_testkit::skip(
            "firecracker_takes_and_refuses_what_its_double_does",
            "FIRECRACKER_BIN names no Firecracker",
        );
    };
    understands_what_is_published(Path::new(&program));
    refuses_what_is_not_there(Path::new(&program));
}

fn understands_what_is_published(program: &Path) {
    for (method, path, body, required) in published() {
        let double = Double::of(program);
        let (_, answer) = double.call(method, path, &body);
        let fault = answer["fault_message"].as_str().unwrap_or_default();
        assert!(!fault.contains(NOT_UNDERSTOOD), "{method} {path}: {fault}");

        // A load that failed ends it.
        let double = Double::of(program);
        let mut more = body.clone();
        more["surprise"] = json!(1);
        double.refuses(method, path, &more, "unknown field `surprise`");
        for field in required {
            let mut less = body.clone();
            less.as_object_mut().unwrap().remove(*field);
            double.refuses(method, path, &less, &format!("missing field `{field}`"));
        }
        double.refuses(method, path, &json!([]), NOT_UNDERSTOOD);
    }
}

/// `1.16.1` of the first line `Firecracker v1.16.1`.
fn version_of(program: &Path) -> String {
    let output = Command::new(program).arg("--version").output().unwrap();
    let words = String::from_utf8(output.stdout).unwrap();
    words.lines().next().unwrap().strip_prefix("Firecracker v").unwrap().to_owned()
}

fn refuses_what_is_not_there(program: &Path) {
    let double = Double::of(program);
    for (method, body) in [("GET", Value::Null), ("PUT", json!({})), ("PATCH", json!({}))] {
        double.refuses(method, "/nothing", &body, "Invalid request method and/or path");
    }
    double.refuses(
        "PUT",
        "/boot-source",
        &json!({ "kernel_image_path": "none" }),
        "kernel file cannot be opened",
    );
    double.refuses(
        "PUT",
        "/boot-source",
        &json!({ "kernel_image_path": "kernel", "initrd_path": "none" }),
        "initrd file cannot be opened",
    );
    let drive = |id: &str, path: &str| json!({ "drive_id": id, "path_on_host": path, "is_root_device": false, "is_read_only": true });
    double.refuses("PUT", "/drives/disk", &drive("disk", "none"), "backing file");
    double.refuses("PUT", "/drives/disk", &drive("other", "disk"), "does not match the id");
    double.refuses("PUT", "/drives/a-b", &drive("a-b", "disk"), "alphanumeric characters and underscores");
    double.refuses(
        "PUT",
        "/machine-config",
        &json!({ "vcpu_count": 0, "mem_size_mib": 16 }),
        "vCPUs must be",
    );
    double.refuses(
        "PUT",
        "/machine-config",
        &json!({ "vcpu_count": 33, "mem_size_mib": 16 }),
        "vCPUs must be",
    );
    double.refuses(
        "PUT",
        "/machine-config",
        &json!({ "vcpu_count": 1, "mem_size_mib": 0 }),
        "memory size (MiB) is",
    );
    double.refuses("PUT", "/vsock", &json!({ "guest_cid": 3, "uds_path": "kernel" }), "Error binding");
    let (status, version) = double.call("GET", "/version", &Value::Null);
    assert_eq!((status, &version["firecracker_version"]), (200, &json!(version_of(program))));
}

#[test]
fn calls_have_their_time() {
    const BEFORE: &str = "not supported before starting";
    const AFTER: &str = "not supported after starting";
    let start = json!({ "action_type": "InstanceStart" });
    let create = json!({ "mem_file_path": "m", "snapshot_path": "s" });
    let load = json!({ "snapshot_path": "s", "mem_backend": { "backend_type": "File", "backend_path": "m" }, "resume_vm": true });

    let double = Double::start();
    assert_eq!(double.call("GET", "/", &Value::Null).1["state"], "Not started");
    double.refuses("PUT", "/actions", &start, "without kernel configuration");
    double.refuses("PATCH", "/vm", &json!({ "state": "Paused" }), BEFORE);
    double.refuses("PUT", "/snapshot/create", &create, BEFORE);
    double.refuses("PUT", "/actions", &json!({ "action_type": "SendCtrlAltDel" }), BEFORE);

    let double = Double::running();
    assert_eq!(double.call("GET", "/", &Value::Null).1["state"], "Running");
    double.refuses("PUT", "/actions", &start, AFTER);
    for (method, path, body, _) in published().into_iter().take(9) {
        double.refuses(method, path, &body, AFTER);
    }
    double.refuses("PUT", "/snapshot/load", &load, AFTER);
    double.refuses("PUT", "/snapshot/create", &create, "while running");
    double.accepts("PATCH", "/vm", &json!({ "state": "Paused" }));
    assert_eq!(double.call("GET", "/", &Value::Null).1["state"], "Paused");
    double.refuses(
        "PUT",
        "/snapshot/create",
        &json!({ "mem_file_path": "m", "snapshot_path": "s", "snapshot_type": "Diff" }),
        "dirty page",
    );
    double.refuses(
        "PUT",
        "/snapshot/create",
        &json!({ "mem_file_path": "m", "snapshot_path": "none/s" }),
        "state file",
    );
    double.accepts("PUT", "/snapshot/create", &create);
    double.accepts("PATCH", "/vm", &json!({ "state": "Resumed" }));
    assert_eq!(std::fs::metadata(double.dir.path().join("m")).unwrap().len(), 16 << 20);

    let other = Double::configured();
    for file in ["s", "m"] {
        std::fs::copy(double.dir.path().join(file), other.dir.path().join(file)).unwrap();
    }
    other.refuses("PUT", "/snapshot/load", &load, "not allowed after configuring boot-specific resources");
    let fresh = Double::start();
    for file in ["s", "m"] {
        std::fs::copy(double.dir.path().join(file), fresh.dir.path().join(file)).unwrap();
    }
    fresh.accepts("PUT", "/serial", &json!({}));
    fresh.accepts("PUT", "/snapshot/load", &load);
    assert_eq!(fresh.call("GET", "/", &Value::Null).1["state"], "Running");
}

/// After a load that failed it is too dirty to go on: it ends.
#[test]
fn a_failed_load_ends_it() {
    let mut double = Double::start();
    std::fs::write(double.dir.path().join("s"), b"garbage").unwrap();
    let load =
        json!({ "snapshot_path": "s", "mem_backend": { "backend_type": "File", "backend_path": "disk" } });
    double.refuses("PUT", "/snapshot/load", &load, "Failed to restore from snapshot");
    let ended = || double.child.try_wait().unwrap();
    wait_for_blocking("its end", Duration::from_secs(5), ended);
}

#[test]
fn ctrl_alt_del_and_sigterm_end_it() {
    let mut double = Double::running();
    double.accepts("PUT", "/actions", &json!({ "action_type": "SendCtrlAltDel" }));
    let ended = || double.child.try_wait().unwrap();
    wait_for_blocking("its end", Duration::from_secs(5), ended);

    let mut double = Double::running();
    let pid = rustix::process::Pid::from_child(&double.child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let ended = || double.child.try_wait().unwrap();
    wait_for_blocking("its end", Duration::from_secs(5), ended);
}
