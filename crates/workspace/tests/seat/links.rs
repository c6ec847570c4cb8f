//! Symbolic links that lead out, in every call.

use serde_json::{Value, json};

use crate::harness::{Seat, is_root, wait_for};

#[test]
fn no_call_follows_a_link_out() {
    let seat = Seat::start();
    let outside = seat.place.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("secret"), "secret").unwrap();
    if is_root() {
        for path in [&outside, &outside.join("secret")] {
            std::os::unix::fs::chown(path, Some(1000), Some(1000)).unwrap();
        }
    }
    std::fs::create_dir(seat.root().join("dir")).unwrap();
    for (name, target) in [
        ("relative", "../outside".into()),
        ("absolute", outside.clone()),
        ("file", outside.join("secret")),
        ("dir/up", "../../outside".into()),
        ("chain", "relative".into()),
        ("sneaky", seat.root().join("../outside")),
        ("proc", format!("/proc/{}/root{}", std::process::id(), outside.display()).into()),
        ("loop", "loop".into()),
    ] {
        std::os::unix::fs::symlink(target, seat.root().join(name)).unwrap();
    }
    let x = json!({"content": "overwritten"});
    for out in ["relative", "absolute", "dir/up", "chain", "sneaky", "proc"] {
        for (method, path, body) in [
            ("GET", format!("/files?path={out}"), Value::Null),
            ("GET", format!("/files/{out}/secret"), Value::Null),
            ("GET", format!("/raw/{out}/secret"), Value::Null),
            ("GET", format!("/archive?path={out}/secret"), Value::Null),
            ("PUT", format!("/files/{out}/secret"), x.clone()),
            ("PUT", format!("/files/{out}/new"), x.clone()),
            ("PUT", format!("/raw/{out}/new"), x.clone()),
            ("POST", format!("/files/{out}/new"), json!({"mkdir": true})),
            ("POST", format!("/files/{out}/secret"), json!({"rename_to": "stolen"})),
            ("POST", "/files/dir".to_owned(), json!({"rename_to": format!("{out}/moved")})),
            ("DELETE", format!("/files/{out}/secret"), Value::Null),
        ] {
            let (status, code) = seat.refused(method, &path, body);
            assert_eq!((status, code.as_str()), (403, "OUTSIDE_WORKSPACE"), "{method} {path}");
        }
    }
    assert_eq!(seat.refused("GET", "/files/file", Value::Null).1, "OUTSIDE_WORKSPACE");
    assert_eq!(seat.refused("PUT", "/files/file", x).1, "OUTSIDE_WORKSPACE");
    assert_eq!(seat.refused("GET", "/files/loop", Value::Null).1, "OUTSIDE_WORKSPACE");
    assert_eq!(std::fs::read_to_string(outside.join("secret")).unwrap(), "secret");
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1);
    // The link itself may go.
    assert_eq!(seat.call("DELETE", "/files/absolute", Value::Null).0, 204);
    assert!(outside.exists());
}

#[test]
fn a_directory_swapped_for_a_link_meanwhile_leads_nowhere() {
    let seat = Seat::start();
    std::fs::create_dir(seat.place.path().join("outside")).unwrap();
    std::fs::write(seat.place.path().join("outside/file"), "outside").unwrap();
    let root = seat.root();
    std::fs::create_dir(root.join("real")).unwrap();
    std::fs::write(root.join("real/file"), "inside").unwrap();
    std::os::unix::fs::symlink("../outside", root.join("link")).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // `dir` is by turns the real one and the link.
            let cwd = rustix::fs::CWD;
            rustix::fs::symlinkat("link", cwd, root.join("dir")).unwrap();
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                for target in ["real", "link"] {
                    let _ = std::fs::remove_file(root.join("next"));
                    std::os::unix::fs::symlink(target, root.join("next")).unwrap();
                    std::fs::rename(root.join("next"), root.join("dir")).unwrap();
                }
            }
        });
        let mut inside = 0;
        let mut refused = 0;
        wait_for("both to be met", || {
            let (status, answer) = seat.call("GET", "/files/dir/file", Value::Null);
            match status {
                200 => {
                    assert_eq!(answer["content"], "inside");
                    inside += 1;
                }
                _ => refused += 1,
            }
            inside > 100 && refused > 100
        });
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}
