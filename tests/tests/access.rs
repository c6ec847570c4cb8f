//! Who may call what, and from where.

use clarateach_tests::{Server, ServerOptions, all_ready};
use serde_json::json;

const ADMIN: &str = "an-admin-token-for-tests";

async fn with_logins() -> Server {
    let mut options =
        ServerOptions::simulated().env("ADMIN_TOKEN", ADMIN).env("SCRAPE_TOKEN", "a-scrape-token-for-tests");
    options.token = Some(ADMIN.to_owned());
    Server::start(options).await
}

fn bare(server: &Server, method: &str, path: &str) -> reqwest::RequestBuilder {
    reqwest::Client::new().request(method.parse().unwrap(), server.url(path))
}

#[tokio::test]
async fn without_a_login_nothing_but_joining_is_open() {
    let server = with_logins().await;
    for (method, path) in [
        ("GET", "/api/workshops"),
        ("POST", "/api/workshops"),
        ("GET", "/api/workshops/w1"),
        ("DELETE", "/api/workshops/w1"),
        ("POST", "/api/workshops/w1/start"),
        ("POST", "/api/workshops/w1/stop"),
        ("POST", "/api/workshops/w1/extend"),
        ("POST", "/api/workshops/w1/lock"),
        ("GET", "/api/workshops/w1/seats"),
        ("POST", "/api/workshops/w1/seats/1/reset"),
        ("POST", "/api/workshops/w1/seats/1/evict"),
        ("POST", "/api/workshops/w1/seats/1/token"),
        ("GET", "/api/workshops/w1/seats/1/logs"),
        ("GET", "/api/workshops/w1/events"),
        ("GET", "/api/runtimes"),
        ("GET", "/api/me"),
        ("GET", "/api/admin/overview"),
        ("GET", "/api/admin/vms"),
        ("GET", "/api/admin/workers"),
        ("GET", "/api/admin/users"),
        ("POST", "/api/admin/users"),
        ("DELETE", "/api/admin/users/u1"),
        ("GET", "/metrics"),
    ] {
        let request =
            bare(&server, method, path).json(&json!({"name": "x", "seats": 1, "locked": true, "minutes": 5}));
        let answer = server.send(request).await;
        assert_eq!((answer.status, answer.code()), (401, "UNAUTHORIZED"), "{method} {path}: {answer:?}");
    }
    let join = server.send(bare(&server, "POST", "/api/join").json(&json!({"code": "AAAA-AAAA"}))).await;
    assert_eq!(join.status, 404);
    assert_eq!(server.send(bare(&server, "GET", "/health")).await.status, 200);
}

#[tokio::test]
async fn instructors_see_their_own_workshops_only() {
    let server = with_logins().await;
    let mut tokens = Vec::new();
    for name in ["Ada", "Grace"] {
        let made = server.post("/api/admin/users", json!({ "name": name })).await;
        assert_eq!(made.status, 201, "{made:?}");
        tokens.push((made.text("/user/id"), made.text("/token")));
    }
    let [(ada_id, ada), (_, grace)] = &tokens[..] else { panic!() };
    let as_user = |token: &str, method: &str, path: &str| bare(&server, method, path).bearer_auth(token);
    let wish = json!({"name": "Ada's", "seats": 1, "runtime": "simulated"});
    let made = server.send(as_user(ada, "POST", "/api/workshops").json(&wish)).await;
    assert_eq!((made.status, made.text("/workshop/owner_id")), (201, ada_id.clone()));
    let id = made.text("/workshop/id");
    let path = format!("/api/workshops/{id}");
    assert_eq!(server.send(as_user(ada, "GET", &path)).await.status, 200);
    for (method, path) in [
        ("GET", path.clone()),
        ("DELETE", path.clone()),
        ("GET", format!("{path}/seats")),
        ("GET", format!("{path}/events")),
        ("POST", format!("{path}/stop")),
        ("POST", format!("{path}/seats/1/evict")),
        ("POST", format!("{path}/seats/1/token")),
    ] {
        let answer = server.send(as_user(grace, method, &path)).await;
        assert_eq!(answer.status, 404, "another's workshop looks like none: {method} {path} {answer:?}");
    }
    let list = server.send(as_user(grace, "GET", "/api/workshops")).await;
    assert_eq!(list.body["workshops"], json!([]));
    assert_eq!(server.send(as_user(ada, "GET", "/api/admin/overview")).await.status, 403);
    assert_eq!(server.get("/api/admin/overview").await.status, 200);
    let owner_of_something = server.delete(&format!("/api/admin/users/{ada_id}")).await;
    assert_eq!(owner_of_something.status, 409, "{owner_of_something:?}");
}

#[tokio::test]
async fn a_login_cookie_opens_what_its_token_opens_and_no_foreign_page_can_use_it() {
    let server = with_logins().await;
    let wrong =
        server.send(bare(&server, "POST", "/api/login").json(&json!({"token": "not-the-token"}))).await;
    assert_eq!((wrong.status, wrong.code()), (401, "UNAUTHORIZED"));
    let login = server.send(bare(&server, "POST", "/api/login").json(&json!({ "token": ADMIN }))).await;
    assert_eq!(login.status, 200);
    let set = login.headers["set-cookie"].to_str().unwrap().to_owned();
    assert!(set.contains("HttpOnly") && set.contains("SameSite=Strict"), "{set}");
    assert!(!set.contains(ADMIN), "the cookie does not carry the token");
    let cookie = set.split(';').next().unwrap().to_owned();
    let with_cookie = |method: &str, path: &str| bare(&server, method, path).header("cookie", &cookie);
    assert_eq!(server.send(with_cookie("GET", "/api/admin/overview")).await.status, 200);
    let wish = json!({"name": "x", "seats": 1, "runtime": "simulated"});
    for (name, value) in [
        ("origin", "http://evil.example"),
        ("origin", "null"),
        ("origin", "http://p123.localhost:8080"),
        ("sec-fetch-site", "cross-site"),
    ] {
        let forged = server.send(with_cookie("POST", "/api/workshops").header(name, value).json(&wish)).await;
        assert_eq!((forged.status, forged.code()), (403, "FORBIDDEN"), "{name}: {value}");
    }
    let middle = cookie.len() / 2;
    let other = if &cookie[middle..=middle] == "A" { "B" } else { "A" };
    let tampered = format!("{}{other}{}", &cookie[..middle], &cookie[middle + 1..]);
    let request = bare(&server, "GET", "/api/workshops").header("cookie", tampered);
    assert_eq!(server.send(request).await.status, 401);
}

#[tokio::test]
async fn a_server_without_logins_answers_only_to_its_own_names() {
    let server = Server::start(ServerOptions::simulated()).await;
    for host in
        ["evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1"]
    {
        let answer = server.send(server.request("GET", "/api/workshops").header("host", host)).await;
        assert_eq!((answer.status, answer.code()), (403, "FORBIDDEN"), "Host: {host}");
    }
    let port = server.port();
    for host in [format!("localhost:{port}"), format!("127.0.0.1:{port}"), format!("[::1]:{port}")] {
        let answer = server.send(server.request("GET", "/api/workshops").header("host", &host)).await;
        assert_eq!(answer.status, 200, "Host: {host}");
    }
    let preview = server
        .send(server.request("GET", "/api/workshops").header("host", format!("pabc.localhost:{port}")))
        .await;
    assert_ne!(preview.status, 200, "a preview's host never reaches the API");
    let forged = server.request("POST", "/api/workshops").header("origin", "http://evil.example");
    let forged = server.send(forged.json(&json!({"name": "x", "seats": 1}))).await;
    assert_eq!(forged.status, 403);
}

#[tokio::test]
async fn metrics_are_for_admins_and_the_scrape_token() {
    let server = with_logins().await;
    assert_eq!(server.get("/metrics").await.status, 200);
    let scrape = |token: &str, path: &str| bare(&server, "GET", path).bearer_auth(token);
    assert_eq!(server.send(scrape("a-scrape-token-for-tests", "/metrics")).await.status, 200);
    assert_eq!(server.send(scrape("a-scrape-token-for-tests", "/api/workshops")).await.status, 401);
}

#[tokio::test]
async fn a_seat_token_opens_its_own_seat_and_nothing_else() {
    let server = with_logins().await;
    let (workshop, code) = server.create(json!({"name": "x", "seats": 2, "runtime": "simulated"})).await;
    all_ready(&server, &workshop).await;
    let join = server.send(bare(&server, "POST", "/api/join").json(&json!({ "code": code }))).await;
    let (token, endpoint) = (join.text("/token"), join.text("/endpoint"));
    let with_token = |path: &str| reqwest::Client::new().get(path).bearer_auth(&token);
    assert_eq!(server.send(with_token(&format!("{endpoint}/health"))).await.status, 200);
    let other = endpoint.replace(&format!("{workshop}/1"), &format!("{workshop}/2"));
    assert_eq!(server.send(with_token(&format!("{other}/health"))).await.status, 403);
    assert_eq!(server.send(with_token(&server.url("/api/workshops"))).await.status, 401);
    let in_query = reqwest::Client::new().get(format!("{endpoint}/health?token={token}"));
    assert_eq!(server.send(in_query).await.status, 401);
    let log = server.log();
    for secret in [&token, &join.text("/session_code"), &ADMIN.to_owned()] {
        assert!(!log.contains(secret.as_str()), "a secret is in the log");
    }
}
