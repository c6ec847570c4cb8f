//! Start, secret, reaping, end.

use std::{
    io::Write,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{SECRET, Seat, free_port, is_root, lives, read_answer, wait_for};

#[test]
fn does_not_start_without_a_secret_or_with_wrong_settings() {
    let start = |variables: &[(&str, &str)]| {
        let output = Command::new(env!("CARGO_BIN_EXE_workspace"))
            .env_clear()
            .envs(variables.iter().copied())
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(start(&[]).contains("CLARATEACH_SECRET"));
    assert!(
        start(&[("CLARATEACH_SECRET", "x"), ("CLARATEACH_LISTEN", "7681")]).contains("CLARATEACH_LISTEN")
    );
    let port = free_port();
    let _taken = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    let place = tempfile::tempdir().unwrap();
    let listen = format!("tcp:127.0.0.1:{port}");
    let root = place.path().to_str().unwrap();
    let said =
        start(&[("CLARATEACH_SECRET", "x"), ("CLARATEACH_LISTEN", &listen), ("CLARATEACH_ROOT", root)]);
    assert!(said.contains("listening on"), "{said}");
}

#[test]
fn everything_but_bare_health_needs_the_secret() {
    let seat = Seat::start_on(free_port());
    let ask = |path: &str, secret: Option<&str>| {
        let mut stream = seat.connect().unwrap();
        let secret = secret.map(|s| format!("x-clarateach-secret: {s}\r\n")).unwrap_or_default();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: seat\r\nconnection: close\r\n{secret}\r\n").unwrap();
        read_answer(&mut stream)
    };
    let (status, _, body) = ask("/health", None);
    assert_eq!((status, serde_json::from_slice::<Value>(&body).unwrap()), (200, json!({"status": "ok"})));
    for path in
        ["/files", "/terminals", "/terminal", "/ports", "/events", "/raw/x", "/tunnel/8000", "/nothing"]
    {
        for wrong in [None, Some(""), Some("wrong"), Some(&SECRET[1..]), Some(&format!("{SECRET}s"))] {
            let (status, _, body) = ask(path, wrong);
            assert_eq!(status, 401, "{path} with {wrong:?}: {}", String::from_utf8_lossy(&body));
        }
    }
    assert_eq!(ask("/files", Some(SECRET)).0, 200);
    assert_eq!(ask("/nothing", Some(SECRET)).0, 404);
}

#[test]
fn the_learners_shell_is_the_learner_and_can_not_read_the_secret() {
    let seat = Seat::start();
    let mut terminal = seat.terminal("");
    if is_root() {
        assert_eq!(terminal.run("id -u; id -g").trim(), "1000\n1000");
        assert!(!terminal.run("id -G").split_whitespace().any(|g| g == "0"), "root's groups stay behind");
        assert_eq!(terminal.run("stat -c %u $(tty)").trim(), "1000");
    }
    assert_eq!(terminal.run("env | grep -c CLARATEACH").trim(), "0");
    assert_eq!(terminal.run("echo $TERM $LANG").trim(), "xterm-256color C.UTF-8");
    assert_eq!(terminal.run("pwd -P").trim(), seat.root().to_str().unwrap());
    assert_closed(&mut terminal);
    terminal.run("echo made > here");
    if is_root() {
        assert_eq!(
            std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(seat.root().join("here")).unwrap()),
            1000
        );
    }
}

/// The secret is neither in the environment block nor in memory that the shell could read.
fn assert_closed(terminal: &mut crate::harness::Terminal) {
    for file in ["environ", "mem", "maps", "auxv"] {
        let read =
            terminal.run(&format!("cat /proc/$PPID/{file} >/dev/null 2>&1 && echo open || echo closed"));
        assert_eq!(read.trim(), "closed", "/proc/PID/{file}");
    }
}

#[test]
fn with_the_same_uid_the_secret_is_closed_too() {
    if !is_root() {
        return; // The other tests run like this then.
    }
    use std::os::unix::process::CommandExt;
    let seat = Seat::start_with(|command| {
        command.env("CLARATEACH_UID", "self").uid(1000).gid(1000);
    });
    let mut terminal = seat.terminal("");
    assert_eq!(terminal.run("id -u").trim(), "1000");
    assert_closed(&mut terminal);
}

#[test]
fn a_secret_file_is_read_and_removed() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("secret");
    std::fs::write(&file, format!("{SECRET}\n")).unwrap();
    let seat = Seat::start_with(|command| {
        command.env_remove("CLARATEACH_SECRET").env("CLARATEACH_SECRET_FILE", &file);
    });
    assert_eq!(seat.call("GET", "/files", Value::Null).0, 200);
    assert!(!file.exists());
}

/// Zombies that are children of this process.
fn zombies(parent: u32) -> usize {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|p| std::fs::read_to_string(p.path().join("stat")).ok())
        .filter(|stat| {
            let rest = stat.rsplit(')').next().unwrap_or_default();
            rest.trim_start().starts_with(&format!("Z {parent} "))
        })
        .count()
}

#[test]
fn orphans_are_reaped_and_shells_keep_their_status() {
    let seat = Seat::start();
    let mut terminal = seat.terminal("");
    // Grandchildren whose parents are gone end up with us.
    let pids = terminal.run("for i in 1 2 3 4 5; do sh -c 'sleep 0.2 & echo pid $!'; done");
    let found: Vec<u32> = pids.lines().filter_map(|l| l.strip_prefix("pid ")?.parse().ok()).collect();
    assert_eq!(found.len(), 5, "{pids:?}");
    let pids = found;
    wait_for("the orphans to end", || pids.iter().all(|p| !lives(*p)));
    wait_for("no zombie to be left", || zombies(seat.pid()) == 0);
    terminal.type_in("exit 42\n");
    assert_eq!(terminal.read_to_exit().1, 42);
    wait_for("the shell to be reaped", || zombies(seat.pid()) == 0);
}

#[test]
fn sigterm_ends_everything_quickly_and_leaves_nothing() {
    let mut seat = Seat::start();
    let mut terminal = seat.terminal("");
    let command = "sleep 1000 & echo $! >> pids; nohup sleep 1000 >/dev/null 2>&1 & echo $! >> pids; \
                   sh -c 'trap \"\" HUP TERM INT; while :; do sleep 1000; done' & echo $! >> pids; \
                   setsid sh -c 'trap \"\" HUP TERM; sleep 1000 & echo $$ $! >> pids; wait' & echo $$ >> pids";
    terminal.run(command);
    let mut pids: Vec<u32> = Vec::new();
    wait_for("all to run", || {
        let text = std::fs::read_to_string(seat.root().join("pids")).unwrap_or_default();
        pids = text.split_whitespace().filter_map(|p| p.parse().ok()).collect();
        pids.len() == 6
    });
    assert!(pids.iter().all(|p| lives(*p)), "{pids:?}");
    let asked = Instant::now();
    seat.signal(Signal::TERM);
    let status = seat.child.wait().unwrap();
    // 0.2 s when nothing else runs.
    assert!(asked.elapsed() < Duration::from_millis(1500), "took {:?}", asked.elapsed());
    assert!(status.success());
    let left: Vec<_> = pids.iter().filter(|p| lives(**p)).collect();
    assert!(left.is_empty(), "{left:?} live on");
    assert!(!seat.socket().exists());
}

/// As Docker starts it: process 1 of its namespace, root with four capabilities, nothing to be gained by exec.
#[test]
fn works_as_process_1_with_the_capabilities_of_a_container() {
    if !is_root() {
        return; // Namespaces need root.
    }
    let mut command = Command::new("unshare");
    command.args([
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "setpriv",
        "--no-new-privs",
        "--bounding-set",
    ]);
    command.args([
        "-all,+setuid,+setgid,+chown,+kill",
        "--inh-caps",
        "-all",
        env!("CARGO_BIN_EXE_workspace"),
    ]);
    let seat = Seat::launch(command, Some(free_port()), |command| {
        // Behind a directory that is closed to others.
        let root = command.get_envs().find(|(name, _)| *name == "CLARATEACH_ROOT").and_then(|(_, root)| root);
        let closed = std::path::Path::new(root.unwrap()).join("closed");
        std::fs::create_dir(&closed).unwrap();
        std::os::unix::fs::chown(&closed, Some(1000), Some(1000)).unwrap();
        std::fs::set_permissions(&closed, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        command.env("CLARATEACH_ROOT", closed.join("work"));
    });
    let mut terminal = seat.terminal("");
    assert_eq!(terminal.run("id -u; echo $PPID").trim(), "1000\n1");
    assert_closed(&mut terminal);
    assert!(terminal.run("kill -9 1; echo $?").trim().ends_with('1'), "the learner can't kill process 1");
    // Its threads neither, though they act as the learner on files.
    let threads = terminal
        .run("for t in /proc/1/task/*; do kill -9 ${t##*/} 2>/dev/null && echo killed; done; echo over");
    assert_eq!(threads.trim(), "over");
    terminal.run("mkdir -m 700 private; echo mine > private/file; chmod 600 private/file");
    let (status, answer) = seat.call("GET", "/files/private/file", Value::Null);
    assert_eq!((status, answer["content"].as_str()), (200, Some("mine\n")));
    assert_eq!(seat.call("PUT", "/files/private/new", json!({"content": "x"})).0, 201);
    terminal.run("sh -c 'sleep 0.1 & exit'");
    terminal.run("sleep 0.3");
    assert_eq!(terminal.run("grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l").trim(), "0");
    terminal.type_in("exit 7\n");
    assert_eq!(terminal.read_to_exit().1, 7);
}

#[test]
fn a_fresh_directory_becomes_the_learners() {
    if !is_root() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(place.path(), Some(1000), Some(1000)).unwrap();
    let fresh = place.path().join("a/b");
    std::fs::create_dir_all(fresh.join("inner")).unwrap();
    std::fs::write(fresh.join("inner/file"), "x").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", fresh.join("link")).unwrap();
    let owner =
        |path: &std::path::Path| std::os::unix::fs::MetadataExt::uid(&path.symlink_metadata().unwrap());
    let passwd = owner("/etc/passwd".as_ref());
    let _seat = Seat::start_with(|command| {
        command.env("CLARATEACH_ROOT", &fresh);
    });
    for path in ["", "inner", "inner/file", "link"] {
        assert_eq!(owner(&fresh.join(path)), 1000, "{path}");
    }
    assert_eq!(owner("/etc/passwd".as_ref()), passwd);
}
