//! Every wrong request gets a 4xx with a code and a sentence, and changes nothing.

use clarateach_tests::{Server, ServerOptions};
use serde_json::{Value, json};

#[tokio::test]
async fn wrong_workshops_are_refused_with_the_fields_name() {
    let server = Server::start(ServerOptions::simulated()).await;
    let many: Value =
        (0..65).map(|n| (format!("V{n}"), json!("x"))).collect::<serde_json::Map<_, _>>().into();
    let cases = [
        (json!({"seats": 1}), 422, "INVALID_FIELD", "name"),
        (json!({"name": "x"}), 422, "INVALID_FIELD", "seats"),
        (json!({"name": "", "seats": 1}), 422, "INVALID_FIELD", "name"),
        (json!({"name": "   ", "seats": 1}), 422, "INVALID_FIELD", "name"),
        (json!({"name": "x".repeat(101), "seats": 1}), 422, "INVALID_FIELD", "name"),
        (json!({"name": "a\u{0}b", "seats": 1}), 422, "INVALID_FIELD", "name"),
        (json!({"name": "a\nb", "seats": 1}), 422, "INVALID_FIELD", "name"),
        (json!({"name": 7, "seats": 1}), 422, "INVALID_FIELD", "name"),
        (json!({"name": "x", "seats": 0}), 422, "INVALID_FIELD", "seats"),
        (json!({"name": "x", "seats": -1}), 422, "INVALID_FIELD", "seats"),
        (json!({"name": "x", "seats": 501}), 422, "INVALID_FIELD", "seats"),
        (json!({"name": "x", "seats": 4294967296u64}), 422, "INVALID_FIELD", "seats"),
        (json!({"name": "x", "seats": 1.5}), 422, "INVALID_FIELD", "seats"),
        (json!({"name": "x", "seats": "3"}), 422, "INVALID_FIELD", "seats"),
        (json!({"name": "x", "seats": null}), 422, "INVALID_FIELD", "seats"),
        (json!({"name": "x", "seats": 1, "colour": "red"}), 422, "INVALID_FIELD", "colour"),
        (json!({"name": "x", "seats": 1, "runtime": "podman"}), 422, "INVALID_FIELD", "runtime"),
        (json!({"name": "x", "seats": 1, "runtime": ""}), 422, "INVALID_FIELD", "runtime"),
        (json!({"name": "x", "seats": 1, "runtime": "firecracker"}), 422, "NO_RUNTIME", "firecracker"),
        (json!({"name": "x", "seats": 1, "image": "missing/image"}), 422, "IMAGE_NOT_FOUND", "missing/image"),
        (json!({"name": "x", "seats": 1, "image": "--privileged"}), 422, "INVALID_FIELD", "image"),
        (json!({"name": "x", "seats": 1, "image": ""}), 422, "INVALID_FIELD", "image"),
        (json!({"name": "x", "seats": 1, "env": {"1A": "x"}}), 422, "INVALID_FIELD", "env"),
        (json!({"name": "x", "seats": 1, "env": {"A=B": "x"}}), 422, "INVALID_FIELD", "env"),
        (json!({"name": "x", "seats": 1, "env": {"": "x"}}), 422, "INVALID_FIELD", "env"),
        (json!({"name": "x", "seats": 1, "env": {"CLARATEACH_SECRET": "x"}}), 422, "INVALID_FIELD", "env"),
        (json!({"name": "x", "seats": 1, "env": {"A": "x\u{0}"}}), 422, "INVALID_FIELD", "env"),
        (json!({"name": "x", "seats": 1, "env": many}), 422, "INVALID_FIELD", "env"),
        (json!({"name": "x", "seats": 1, "memory_mb": 1}), 422, "INVALID_FIELD", "memory_mb"),
        (json!({"name": "x", "seats": 1, "vcpus": 0}), 422, "INVALID_FIELD", "vcpus"),
        (json!({"name": "x", "seats": 1, "disk_mb": 1}), 422, "INVALID_FIELD", "disk_mb"),
        (
            json!({"name": "x", "seats": 1, "ends_at": "2001-01-01T00:00:00Z"}),
            422,
            "INVALID_FIELD",
            "ends_at",
        ),
        (json!({"name": "x", "seats": 1, "ends_at": "tomorrow"}), 422, "INVALID_FIELD", "ends_at"),
        (json!({"name": "x", "seats": 1, "duration_minutes": 0}), 422, "INVALID_FIELD", "duration_minutes"),
        (
            json!({"name": "x", "seats": 1, "duration_minutes": 5, "ends_at": "2999-01-01T00:00:00Z"}),
            422,
            "INVALID_FIELD",
            "ends_at",
        ),
        (json!([]), 422, "INVALID_FIELD", "object"),
        (
            json!(["x", 1, "simulated", null, {}, null, null, null, null, null, false]),
            422,
            "INVALID_FIELD",
            "object",
        ),
        (json!({"name": "a\n", "seats": 1}), 422, "INVALID_FIELD", "name"),
        (json!("x"), 422, "INVALID_FIELD", ""),
    ];
    for (body, status, code, names) in cases {
        let mut body = body;
        if let Some(object) = body.as_object_mut() {
            object.entry("runtime").or_insert(json!("simulated"));
        }
        let answer = server.post("/api/workshops", body.clone()).await;
        assert_eq!((answer.status, answer.code()), (status, code), "{body}: {answer:?}");
        assert!(answer.text("/error/message").contains(names), "{body}: {answer:?}");
    }
    assert_eq!(server.get("/api/workshops").await.body["workshops"], json!([]), "nothing was made");
}

#[tokio::test]
async fn wrong_bodies_are_refused_by_kind() {
    let server = Server::start(ServerOptions::simulated()).await;
    let post = |path: &str| server.request("POST", path).header("content-type", "application/json");
    for path in ["/api/workshops", "/api/join", "/api/login"] {
        for body in ["", "{", "{\"name\":", "nonsense", "{}}", "\u{feff}{}"] {
            let answer = server.send(post(path).body(body)).await;
            assert_eq!(
                (answer.status, answer.code()),
                (400, "MALFORMED_JSON"),
                "{path} {body:?}: {answer:?}"
            );
        }
        let answer = server.send(post(path).body(vec![0xffu8, 0xfe])).await;
        assert_eq!((answer.status, answer.code()), (400, "MALFORMED_JSON"), "{answer:?}");
        let answer = server.send(post(path).body(" ".repeat(300 * 1024))).await;
        assert_eq!((answer.status, answer.code()), (413, "TOO_LARGE"), "{answer:?}");
        let answer = server.send(server.request("POST", path).body("{}")).await;
        assert_eq!((answer.status, answer.code()), (415, "UNSUPPORTED_MEDIA_TYPE"), "{answer:?}");
        let answer =
            server.send(post(path).body(format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000)))).await;
        assert!((400..500).contains(&answer.status), "{answer:?}");
    }
    for twice in [r#"{"name":"x","name":"y","seats":1}"#, r#"{"name":"x","seats":1,"env":{"A":"1","A":"2"}}"#]
    {
        let answer = server.send(post("/api/workshops").body(twice)).await;
        assert_eq!((answer.status, answer.code()), (422, "INVALID_FIELD"), "{twice}: {answer:?}");
    }
}

#[tokio::test]
async fn wrong_paths_and_methods_are_refused_as_json() {
    let server = Server::start(ServerOptions::simulated()).await;
    for (method, path, status, code) in [
        ("GET", "/api/nothing", 404, "NOT_FOUND"),
        ("GET", "/api/workshops/none", 404, "NOT_FOUND"),
        ("GET", "/api/workshops/..%2f..%2fetc", 404, "NOT_FOUND"),
        ("GET", "/api/workshops/%00", 404, "NOT_FOUND"),
        ("GET", "/api/workshops/%ff", 404, "NOT_FOUND"),
        ("DELETE", "/api/workshops/none", 404, "NOT_FOUND"),
        ("POST", "/api/workshops/none/seats/0/reset", 404, "NOT_FOUND"),
        ("POST", "/api/workshops/none/seats/-1/reset", 404, "NOT_FOUND"),
        ("POST", "/api/workshops/none/seats/99999999999/reset", 404, "NOT_FOUND"),
        ("GET", "/api/session/AAAA", 404, "NOT_FOUND"),
        ("PATCH", "/api/workshops", 405, "METHOD_NOT_ALLOWED"),
        ("DELETE", "/api/join", 405, "METHOD_NOT_ALLOWED"),
        ("GET", "/proxy/none/1/health", 401, "UNAUTHORIZED"),
    ] {
        let answer = server.send(server.request(method, path)).await;
        assert_eq!((answer.status, answer.code()), (status, code), "{method} {path}: {answer:?}");
    }
}

#[tokio::test]
async fn wrong_joins_are_refused_and_what_cannot_be_joined_says_why() {
    let server = Server::start(ServerOptions::simulated()).await;
    let wish = json!({"name": "x", "seats": 1, "runtime": "simulated", "autostart": false});
    let (workshop, code) = server.create(wish).await;
    let path = format!("/api/workshops/{workshop}");
    for (body, status, error) in [
        (json!({"code": "nonsense"}), 404, "NOT_FOUND"),
        (json!({"code": ""}), 404, "NOT_FOUND"),
        (json!({}), 422, "INVALID_FIELD"),
        (json!({"code": code, "name": "x".repeat(61)}), 422, "INVALID_FIELD"),
        (json!({"code": code, "name": "a\u{7}b"}), 422, "INVALID_FIELD"),
        (json!({"code": code, "client_id": "short"}), 422, "INVALID_FIELD"),
        (json!({"code": code, "session_code": "nonsense"}), 422, "INVALID_FIELD"),
        (json!({"code": code, "seat": 1}), 422, "INVALID_FIELD"),
        (json!({"code": code}), 409, "NOT_RUNNING"),
    ] {
        let answer = server.post("/api/join", body.clone()).await;
        assert_eq!((answer.status, answer.code()), (status, error), "{body}: {answer:?}");
    }
    assert_eq!(server.post(&format!("{path}/lock"), json!({"locked": true})).await.status, 200);
    assert_eq!(server.post(&format!("{path}/start"), json!({})).await.status, 202);
    let answer = server.post("/api/join", json!({"code": code})).await;
    assert_eq!((answer.status, answer.code()), (403, "JOINING_LOCKED"), "{answer:?}");
    assert_eq!(server.post(&format!("{path}/lock"), json!({"locked": false})).await.status, 200);
    clarateach_tests::all_ready(&server, &workshop).await;
    assert_eq!(server.post("/api/join", json!({"code": code})).await.status, 200);
    let answer = server.post("/api/join", json!({"code": code})).await;
    assert_eq!((answer.status, answer.code()), (409, "NO_SEATS"), "{answer:?}");
    assert_eq!(server.post(&format!("{path}/stop"), json!({})).await.status, 202);
    let answer = server.post("/api/join", json!({"code": code})).await;
    assert_eq!((answer.status, answer.code()), (410, "ENDED"), "{answer:?}");
    for (body, status) in [
        (json!({}), 422),
        (json!({"minutes": 0}), 422),
        (json!({"minutes": 5, "ends_at": "2999-01-01T00:00:00Z"}), 422),
        (json!({"ends_at": "2001-01-01T00:00:00Z"}), 422),
        (json!({"minutes": 5}), 409),
    ] {
        let answer = server.post(&format!("{path}/extend"), body.clone()).await;
        assert_eq!(answer.status, status, "{body}: {answer:?}");
    }
}

#[tokio::test]
async fn failures_are_counted_but_a_class_is_not_shut_out() {
    let server = Server::start(ServerOptions::simulated()).await;
    let (workshop, code) = server.create(json!({"name": "x", "seats": 300, "runtime": "simulated"})).await;
    clarateach_tests::all_ready(&server, &workshop).await;
    for n in 0..300 {
        let answer = server
            .post("/api/join", json!({"code": code, "client_id": format!("client-number-{n:04}")}))
            .await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let mut statuses = Vec::new();
    for _ in 0..900 {
        statuses.push(server.post("/api/join", json!({"code": "AAAA-AAAA"})).await.status);
    }
    assert!(statuses[..100].iter().all(|status| *status == 404), "{statuses:?}");
    assert!(statuses.contains(&429), "guessing is slowed down: {statuses:?}");
}
