//! The files API.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;

use base64::{Engine, engine::general_purpose::STANDARD};
use rustix::fs::{AtFlags, Mode, OFlags};
use serde_json::{Value, json};

use crate::harness::{SECRET, Seat, is_root};

fn put(seat: &Seat, path: &str, content: &str) -> Value {
    let encoded = percent_encoding::utf8_percent_encode(path, percent_encoding::NON_ALPHANUMERIC);
    let (status, answer) = seat.call("PUT", &format!("/files/{encoded}"), json!({ "content": content }));
    assert!(status == 200 || status == 201, "{path}: {status} {answer}");
    answer
}

#[test]
fn text_and_bytes_come_back_as_they_went() {
    let seat = Seat::start();
    for (content, encoding) in [
        (&b""[..], "utf-8"),
        (b"plain\n", "utf-8"),
        ("ümläut \"quoted\" \\ \u{1}\u{7f}\u{2028}\r\n\t".as_bytes(), "utf-8"),
        (b"\xff\xfe\x00binary", "base64"),
        (b"text with a \0 NUL", "base64"),
    ] {
        let body = json!({"content": STANDARD.encode(content), "encoding": "base64"});
        assert!(seat.call("PUT", "/files/dir/file", body).0 < 300);
        assert_eq!(std::fs::read(seat.root().join("dir/file")).unwrap(), content);
        let (status, read) = seat.call("GET", "/files/dir/file", Value::Null);
        assert_eq!((status, read["encoding"].as_str()), (200, Some(encoding)));
        let text = read["content"].as_str().unwrap();
        let bytes =
            if encoding == "utf-8" { text.as_bytes().to_vec() } else { STANDARD.decode(text).unwrap() };
        assert_eq!(bytes, content);
        assert_eq!(
            (read["path"].as_str(), read["size"].as_u64()),
            (Some("dir/file"), Some(content.len() as u64))
        );
    }
    assert!(std::fs::read_dir(seat.root().join("dir")).unwrap().count() == 1, "no temporary file is left");
}

#[test]
fn directories_are_listed() {
    let seat = Seat::start();
    assert_eq!(seat.call("GET", "/files", Value::Null).1, json!({"path": "", "entries": []}));
    put(&seat, "b/ünï \"x\".txt", "12345");
    put(&seat, "a", "");
    std::os::unix::fs::symlink("a", seat.root().join("link")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, seat.root().join("pipe"), rustix::fs::Mode::from_raw_mode(0o600))
        .unwrap();
    let (status, list) = seat.call("GET", "/files?path=", Value::Null);
    assert_eq!(status, 200);
    let entries: Vec<_> =
        list["entries"].as_array().unwrap().iter().map(|e| (&e["name"], &e["type"])).collect();
    let expected = [("a", "file"), ("b", "directory"), ("link", "symlink"), ("pipe", "other")];
    assert_eq!(entries.len(), 4);
    for ((name, kind), (expected_name, expected_kind)) in entries.iter().zip(expected) {
        assert_eq!((name.as_str(), kind.as_str()), (Some(expected_name), Some(expected_kind)));
    }
    let inner = &seat.call("GET", "/files?path=b", Value::Null).1["entries"][0];
    assert_eq!((inner["name"].as_str(), inner["size"].as_u64()), (Some("ünï \"x\".txt"), Some(5)));
    assert_eq!(inner["mode"], 0o644);
    assert!(inner["mtime"].as_i64().unwrap() > 1_600_000_000_000);
    // A directory read as a file is listed too.
    assert_eq!(seat.call("GET", "/files/b", Value::Null).1["entries"].as_array().unwrap().len(), 1);
    assert_eq!(seat.call("GET", "/files/b/%C3%BCn%C3%AF%20%22x%22.txt", Value::Null).1["content"], "12345");
    assert_eq!(seat.refused("GET", "/files?path=a", Value::Null), (409, "NOT_A_DIRECTORY".into()));
    assert_eq!(seat.refused("GET", "/files?path=none", Value::Null), (404, "NOT_FOUND".into()));
}

#[test]
fn bad_paths_and_bodies_are_refused_with_a_code() {
    let seat = Seat::start();
    put(&seat, "file", "x");
    for (method, path, expected) in [
        ("GET", "/files/%2e%2e/outside", (400, "OUTSIDE_WORKSPACE")),
        ("GET", "/files/a/%2e%2e/%2e%2e/x", (400, "OUTSIDE_WORKSPACE")),
        ("GET", "/files?path=..", (400, "OUTSIDE_WORKSPACE")),
        ("GET", "/files?path=%2Fetc", (400, "INVALID_PATH")),
        ("GET", "/files/%2Fetc%2Fpasswd", (400, "INVALID_PATH")),
        ("GET", "/files//etc/passwd", (400, "INVALID_PATH")),
        ("GET", "/files/a%00b", (400, "INVALID_PATH")),
        ("GET", "/files/%ff%fe", (400, "INVALID_PATH")),
        ("GET", "/files?path=%ff", (400, "INVALID_PATH")),
        ("GET", "/raw/%ff", (400, "INVALID_PATH")),
        ("GET", "/raw/..%2fx", (400, "OUTSIDE_WORKSPACE")),
        ("GET", "/files/file/inner", (409, "NOT_A_DIRECTORY")),
        ("PUT", "/files/file/inner", (409, "NOT_A_DIRECTORY")),
        ("PUT", "/files/.", (400, "INVALID_PATH")),
        ("DELETE", "/files/", (400, "INVALID_PATH")),
        ("DELETE", "/files", (400, "INVALID_PATH")),
        ("DELETE", "/files/.", (400, "INVALID_PATH")),
        ("DELETE", "/files/none", (404, "NOT_FOUND")),
        ("PATCH", "/files/file", (405, "METHOD_NOT_ALLOWED")),
        ("POST", "/files", (405, "METHOD_NOT_ALLOWED")),
        ("POST", "/files/file", (400, "INVALID_BODY")),
    ] {
        let body = if method == "PUT" { json!({"content": ""}) } else { Value::Null };
        let (status, code) = seat.refused(method, path, body);
        assert_eq!((status, code.as_str()), expected, "{method} {path}");
    }
    let long = format!("/files/{}", "x".repeat(256));
    assert_eq!(seat.refused("PUT", &long, json!({"content": ""})), (400, "INVALID_PATH".into()));
    for body in [
        json!({}),
        json!([]),
        json!({"content": 1}),
        json!({"content": "", "encoding": "latin-1"}),
        json!({"content": "", "extra": 1}),
        json!({"content": "not base64!", "encoding": "base64"}),
    ] {
        assert_eq!(seat.refused("PUT", "/files/new", body.clone()), (400, "INVALID_BODY".into()), "{body}");
    }
    assert_eq!(seat.request("PUT", "/files/new", "", b"{\"content\":\"\xff\"}").0, 400);
    assert!(!seat.root().join("new").exists());
}

#[test]
fn pipes_and_devices_are_refused_and_never_waited_for() {
    let seat = Seat::start();
    rustix::fs::mkfifoat(rustix::fs::CWD, seat.root().join("pipe"), rustix::fs::Mode::from_raw_mode(0o666))
        .unwrap();
    assert_eq!(seat.refused("GET", "/files/pipe", Value::Null), (409, "NOT_A_FILE".into()));
    assert_eq!(seat.refused("GET", "/raw/pipe", Value::Null), (409, "NOT_A_FILE".into()));
    assert_eq!(seat.refused("PUT", "/files/pipe", json!({"content": "x"})), (409, "NOT_A_FILE".into()));
    assert_eq!(seat.call("DELETE", "/files/pipe", Value::Null).0, 204);
}

#[test]
fn an_editor_overwrites_nothing_it_has_not_seen() {
    let seat = Seat::start();
    let first = put(&seat, "file", "one")["etag"].clone();
    let read = seat.call("GET", "/files/file", Value::Null).1["etag"].clone();
    assert_eq!(first, read);
    let write = |content: &str, expected: &Value| {
        seat.call("PUT", "/files/file", json!({"content": content, "if_match": expected}))
    };
    let (status, second) = write("two", &first);
    assert_eq!(status, 200);
    let (status, refusal) = write("three", &first);
    assert_eq!((status, refusal["error"]["code"].as_str()), (412, Some("CHANGED")));
    // Somebody in the terminal.
    std::fs::write(seat.root().join("file"), "two and more").unwrap();
    assert_eq!(write("three", &second["etag"]).0, 412);
    assert_eq!(write("three", &json!("")).0, 412, "it exists already");
    assert_eq!(std::fs::read_to_string(seat.root().join("file")).unwrap(), "two and more");
    assert_eq!(seat.request("PUT", "/files/file", "if-none-match: *\r\n", br#"{"content":"x"}"#).0, 412);
    assert_eq!(seat.request("PUT", "/files/new", "if-none-match: *\r\n", br#"{"content":"x"}"#).0, 201);
    assert_eq!(seat.request("PUT", "/files/newer", "if-match: \"abc\"\r\n", br#"{"content":"x"}"#).0, 412);
    assert_eq!(seat.request("PUT", "/raw/file", "if-match: \"abc\"\r\n", b"x").0, 412);
}

#[test]
fn writing_keeps_the_mode_and_follows_links_inside() {
    let seat = Seat::start();
    put(&seat, "script", "#!/bin/sh\n");
    let script = seat.root().join("script");
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    std::os::unix::fs::symlink("script", seat.root().join("link")).unwrap();
    std::os::unix::fs::symlink(seat.root().join("script"), seat.root().join("absolute")).unwrap();
    for name in ["script", "link", "absolute"] {
        put(&seat, name, &format!("by {name}"));
        assert_eq!(std::fs::read_to_string(&script).unwrap(), format!("by {name}"));
        assert_eq!(script.metadata().unwrap().permissions().mode() & 0o7777, 0o755);
        assert_eq!(
            seat.call("GET", &format!("/files/{name}"), Value::Null).1["content"],
            format!("by {name}")
        );
    }
    assert!(seat.root().join("link").is_symlink() && seat.root().join("absolute").is_symlink());
}

#[test]
fn files_are_the_learners_and_only_what_the_learner_may() {
    if !is_root() {
        return;
    }
    let seat = Seat::start();
    put(&seat, "mine/file", "x");
    for path in ["mine", "mine/file"] {
        let metadata = seat.root().join(path).metadata().unwrap();
        assert_eq!(std::os::unix::fs::MetadataExt::uid(&metadata), 1000);
    }
    // Root's, put there by an image.
    for (name, mode) in [("closed", 0o600), ("readable", 0o644)] {
        std::fs::write(seat.root().join(name), "root's").unwrap();
        std::fs::set_permissions(seat.root().join(name), PermissionsExt::from_mode(mode)).unwrap();
    }
    std::fs::create_dir(seat.root().join("roots")).unwrap();
    std::fs::write(seat.root().join("roots/file"), "x").unwrap();
    assert_eq!(seat.refused("GET", "/files/closed", Value::Null), (403, "PERMISSION_DENIED".into()));
    assert_eq!(seat.call("GET", "/files/readable", Value::Null).0, 200);
    let write = json!({"content": "taken"});
    assert_eq!(seat.refused("PUT", "/files/readable", write.clone()), (403, "PERMISSION_DENIED".into()));
    assert_eq!(seat.refused("PUT", "/files/roots/new", write.clone()), (403, "PERMISSION_DENIED".into()));
    assert_eq!(seat.refused("DELETE", "/files/roots", Value::Null), (403, "PERMISSION_DENIED".into()));
    assert_eq!(
        seat.refused("POST", "/files/roots/d", json!({"mkdir": true})),
        (403, "PERMISSION_DENIED".into())
    );
    // A file that may be written in a directory that may not.
    std::fs::set_permissions(seat.root().join("roots/file"), PermissionsExt::from_mode(0o666)).unwrap();
    assert_eq!(seat.call("PUT", "/files/roots/file", write).0, 200);
    assert_eq!(std::fs::read_to_string(seat.root().join("roots/file")).unwrap(), "taken");
}

#[test]
fn a_full_disk_and_a_read_only_one_are_named_and_harm_nothing() {
    if !is_root() {
        return;
    }
    let seat = Seat::start();
    let small = seat.root().join("small");
    std::fs::create_dir(&small).unwrap();
    let mount = |options: &str| {
        let status = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(&small)
            .status()
            .unwrap();
        assert!(status.success());
    };
    struct Unmount(std::path::PathBuf);
    impl Drop for Unmount {
        fn drop(&mut self) {
            let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
        }
    }
    mount("size=64k,uid=1000,gid=1000,mode=755");
    let _unmount = Unmount(small.clone());
    put(&seat, "small/file", "kept");
    let large = json!({"content": "x".repeat(200_000)});
    assert_eq!(seat.refused("PUT", "/files/small/file", large), (507, "NO_SPACE".into()));
    assert_eq!(seat.request("PUT", "/raw/small/file", "", &[b'x'; 200_000]).0, 507);
    assert_eq!(seat.call("GET", "/files/small/file", Value::Null).1["content"], "kept");
    assert_eq!(std::fs::read_dir(&small).unwrap().count(), 1, "no temporary file is left");
    mount("remount,ro");
    assert_eq!(seat.refused("PUT", "/files/small/file", json!({"content": "x"})), (403, "READ_ONLY".into()));
    assert_eq!(seat.refused("DELETE", "/files/small/file", Value::Null), (403, "READ_ONLY".into()));
}

/// Some clients escape whatever is not ASCII, which makes a body three times as long as the file, or six times.
#[test]
fn the_limit_counts_the_file_and_not_how_json_writes_it() {
    let seat = Seat::start();
    let put = |content: String| {
        let body = format!(r#"{{"content":"{content}"}}"#);
        let (status, _, answer) = seat.request("PUT", "/files/escaped", "", body.as_bytes());
        (status, serde_json::from_slice::<Value>(&answer).unwrap())
    };
    let (status, written) = put("\\u0451".repeat(5 << 20));
    assert_eq!((status, written["size"].as_u64()), (201, Some(10 << 20)));
    // Beyond any length, too, the sender is told so instead of finding a broken pipe.
    let (status, refusal) = put("x".repeat(80 << 20));
    assert_eq!((status, &refusal["error"]["code"]), (413, &json!("TOO_LARGE")));
}

#[test]
fn files_over_the_limit_are_refused_and_can_be_had_raw() {
    let seat = Seat::start();
    let large = vec![b'x'; (10 << 20) + 1];
    let (status, _, _) = seat.request("PUT", "/raw/large", "", &large);
    assert_eq!(status, 201);
    assert_eq!(seat.refused("GET", "/files/large", Value::Null), (413, "TOO_LARGE".into()));
    assert_eq!(seat.request("GET", "/raw/large", "", b"").2, large);
    let text = String::from_utf8(large).unwrap();
    assert_eq!(seat.refused("PUT", "/files/other", json!({ "content": text })), (413, "TOO_LARGE".into()));
    assert!(!seat.root().join("other").exists());
    let mut stream = seat.connect().unwrap();
    let head = format!(
        "PUT /raw/huge HTTP/1.1\r\nhost: seat\r\ncontent-length: {}\r\nconnection: close\r\nx-clarateach-secret: {}\r\n\r\n",
        (1u64 << 30) + 1,
        crate::harness::SECRET
    );
    std::io::Write::write_all(&mut stream, head.as_bytes()).unwrap();
    assert_eq!(crate::harness::read_answer(&mut stream).0, 413);
}

#[test]
fn raw_files_come_with_ranges_and_can_not_act_as_pages() {
    let seat = Seat::start();
    let content: Vec<u8> = (0..700_000u32).map(|n| (n % 251) as u8).collect();
    assert_eq!(seat.request("PUT", "/raw/p%C3%A4ge.html", "", &content).0, 201);
    let (status, head, body) = seat.request("GET", "/raw/p%C3%A4ge.html", "", b"");
    assert_eq!((status, body.len(), body == content), (200, content.len(), true));
    for line in [
        "x-content-type-options: nosniff",
        "content-security-policy: sandbox",
        "content-disposition: attachment; filename*=utf-8''p%c3%a4ge%2ehtml",
        "content-type: application/octet-stream",
        "accept-ranges: bytes",
    ] {
        assert!(head.contains(line), "{line} is not in {head}");
    }
    let etag = head.split("etag: ").nth(1).unwrap().split("\r\n").next().unwrap().to_owned();
    let range = |headers: &str| seat.request("GET", "/raw/p%C3%A4ge.html", headers, b"");
    let (status, head, body) = range("range: bytes=300000-399999\r\n");
    assert_eq!((status, &body[..]), (206, &content[300_000..400_000]));
    assert!(head.contains("content-range: bytes 300000-399999/700000"));
    assert_eq!(range("range: bytes=-5\r\n").2, content[699_995..]);
    assert_eq!(range("range: bytes=800000-\r\n").0, 416);
    assert_eq!(range(&format!("range: bytes=0-0\r\nif-range: {etag}\r\n")).0, 206);
    assert_eq!(range("range: bytes=0-0\r\nif-range: \"old\"\r\n").0, 200);
    assert_eq!(range(&format!("if-none-match: {etag}\r\n")).0, 304);
    let (status, head, body) = seat.request("HEAD", "/raw/p%C3%A4ge.html", "", b"");
    assert_eq!((status, body.len()), (200, 0));
    assert!(head.contains("content-length: 700000"));
    assert_eq!(seat.refused("GET", "/raw/none", Value::Null).0, 404);
}

#[test]
fn an_upload_that_breaks_off_changes_nothing() {
    let seat = Seat::start();
    put(&seat, "file", "whole");
    let mut stream = seat.connect().unwrap();
    let secret = crate::harness::SECRET;
    let head = format!(
        "PUT /raw/file HTTP/1.1\r\nhost: seat\r\ncontent-length: 1000\r\nx-clarateach-secret: {secret}\r\n\r\nhalf"
    );
    std::io::Write::write_all(&mut stream, head.as_bytes()).unwrap();
    let temporary = || std::fs::read_dir(seat.root()).unwrap().count() > 1;
    crate::harness::wait_for("the upload to begin", temporary);
    assert_eq!(
        seat.call("GET", "/files", Value::Null).1["entries"].as_array().unwrap().len(),
        1,
        "it is not listed"
    );
    drop(stream);
    crate::harness::wait_for("its beginning to be removed", || !temporary());
    assert_eq!(std::fs::read_to_string(seat.root().join("file")).unwrap(), "whole");
}

#[test]
fn a_refusal_waits_for_a_body_that_is_on_its_way() {
    let seat = Seat::start();
    put(&seat, "file", "whole");
    let secret = crate::harness::SECRET;
    let head = format!(
        "PUT /raw/file HTTP/1.1\r\nhost: seat\r\nconnection: close\r\ncontent-length: 3\r\nif-none-match: *\r\nx-clarateach-secret: {secret}\r\n\r\n"
    );
    for _ in 0..20 {
        let mut stream = seat.connect().unwrap();
        std::io::Write::write_all(&mut stream, head.as_bytes()).unwrap();
        // The seat has answered a call since, so it has seen the head.
        put(&seat, "other", "x");
        std::io::Write::write_all(&mut stream, b"two").unwrap();
        assert_eq!(crate::harness::read_answer(&mut *stream).0, 412);
    }
}

#[test]
fn entries_are_renamed_made_and_deleted() {
    let seat = Seat::start();
    put(&seat, "a/b/c", "deep");
    put(&seat, "other", "x");
    let change = |path: &str, body: Value| seat.call("POST", &format!("/files/{path}"), body);
    assert_eq!(change("a/b", json!({"rename_to": "new/place"})).1, json!({"path": "new/place"}));
    assert_eq!(std::fs::read_to_string(seat.root().join("new/place/c")).unwrap(), "deep");
    for (path, body, status) in [
        ("none", json!({"rename_to": "x"}), 404),
        ("other", json!({"rename_to": "new"}), 409),
        ("other", json!({"rename_to": "../x"}), 400),
        ("other", json!({"rename_to": "/x"}), 400),
        ("other", json!({"rename_to": ""}), 409),
        ("new", json!({"rename_to": "new/place/inside"}), 400),
        ("other", json!({"mkdir": true}), 409),
        ("other", json!({"mkdir": false}), 400),
        ("other", json!({"mkdir": true, "rename_to": "x"}), 400),
    ] {
        assert_eq!(change(path, body.clone()).0, status, "{path} {body}");
    }
    for _ in 0..2 {
        assert_eq!(change("x/y/z", json!({"mkdir": true})).0, 200);
    }
    assert!(seat.root().join("x/y/z").is_dir());
    for n in 0..300 {
        std::fs::write(seat.root().join(format!("x/y/{n}")), "").unwrap();
    }
    std::os::unix::fs::symlink("/etc", seat.root().join("x/etc")).unwrap();
    assert_eq!(seat.call("DELETE", "/files/x", Value::Null).0, 204);
    assert!(!seat.root().join("x").exists());
    assert!(std::path::Path::new("/etc/passwd").exists(), "links are deleted, not followed");
}

/// Makes directories within each other, `d/d/…`, by steps: the path of all of them would be too long.
fn nest(seat: &Seat, depth: usize) {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let mut at = rustix::fs::open(seat.root(), flags, Mode::empty()).unwrap();
    for _ in 0..depth {
        rustix::fs::mkdirat(&at, "d", Mode::empty()).unwrap();
        rustix::fs::chmodat(&at, "d", Mode::from_raw_mode(0o777), AtFlags::empty()).unwrap();
        at = rustix::fs::openat(&at, "d", flags, Mode::empty()).unwrap();
    }
}

#[test]
fn however_deep_directories_are_nested_the_seat_goes_on() {
    let seat = Seat::start();
    for depth in [100, 500, 3000] {
        nest(&seat, depth);
        let head = format!(
            "GET /archive?path=d HTTP/1.1\r\nhost: seat\r\nconnection: close\r\nx-clarateach-secret: {SECRET}\r\n\r\n"
        );
        let (mut stream, mut archive) = (seat.connect().unwrap(), Vec::new());
        stream.write_all(head.as_bytes()).unwrap();
        // It is broken off where it is too deep.
        let _ = stream.read_to_end(&mut archive);
        assert_eq!(archive.ends_with(b"\r\n0\r\n\r\n"), depth == 100, "{depth}");
        let (status, answer) = seat.call("DELETE", "/files/d", Value::Null);
        assert_eq!(status == 204, depth <= 500, "{depth}: {status} {answer}");
        assert_eq!(seat.call("GET", "/health", Value::Null).0, 200, "{depth}");
    }
    // What is left is too deep for the test's own clean-up.
    assert!(
        std::process::Command::new("rm").arg("-rf").arg(seat.root().join("d")).status().unwrap().success()
    );
}

#[test]
fn a_directory_can_be_had_as_an_archive() {
    let seat = Seat::start();
    put(&seat, "project/a.txt", "hello");
    put(&seat, &format!("project/sub/{}", "long-name-".repeat(15)), "deep");
    std::os::unix::fs::symlink("/etc/passwd", seat.root().join("project/link")).unwrap();
    let noise: Vec<u8> = (0..3_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    assert_eq!(seat.request("PUT", "/raw/project/noise", "", &noise).0, 201);
    let (status, head, body) = seat.request("GET", "/archive?path=project", "", b"");
    assert_eq!(status, 200);
    assert!(head.contains("filename*=utf-8''project%2etar%2egz"));
    let place = tempfile::tempdir().unwrap();
    tar::Archive::new(flate2::read::GzDecoder::new(&body[..])).unpack(place.path()).unwrap();
    let unpacked = place.path().join("project");
    assert_eq!(std::fs::read_to_string(unpacked.join("a.txt")).unwrap(), "hello");
    assert_eq!(std::fs::read(unpacked.join("noise")).unwrap(), noise);
    assert_eq!(std::fs::read_link(unpacked.join("link")).unwrap(), std::path::Path::new("/etc/passwd"));
    assert_eq!(std::fs::read_dir(unpacked.join("sub")).unwrap().count(), 1);
    assert_eq!(seat.refused("GET", "/archive?path=none", Value::Null).0, 404);
    assert_eq!(seat.refused("GET", "/archive?path=../x", Value::Null).0, 400);
}
