//! What a learner's own server shows, and what it can't do.

use std::sync::atomic::Ordering;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::extract::ws::WebSocketUpgrade;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use clarateach_gateway::{EndedWhy, GatewayConfig, PreviewDomain, Scheme};
use clarateach_runtime::SeatPort;
use futures_util::{SinkExt, StreamExt};
use http::Method;
use tokio_tungstenite::tungstenite::Message;

use crate::harness::*;

const PORT: u16 = 3000;

/// A learner's server that tries everything.
fn app() -> Router {
    let hostile = async || -> Response {
        let headers = [
            ("set-cookie", "clarateach_admin=x"),
            ("service-worker-allowed", "/"),
            ("access-control-allow-origin", "*"),
            ("access-control-allow-credentials", "true"),
            ("strict-transport-security", "max-age=9"),
            ("clear-site-data", "\"*\""),
            ("x-frame-options", "ALLOWALL"),
            ("x-accel-redirect", "/etc/passwd"),
            ("x-own", "kept"),
            ("content-security-policy", "default-src 'self'"),
        ];
        (headers, axum::response::Html("<script>fetch('/api/workshops')</script>")).into_response()
    };
    Router::new()
        .route("/", get(hostile))
        .route(
            "/moved",
            get(async || (http::StatusCode::FOUND, [("location", "http://localhost:3000/there?x=1")])),
        )
        .route(
            "/hmr",
            get(async |upgrade: WebSocketUpgrade| {
                upgrade.protocols(["vite-hmr"]).on_upgrade(async |mut socket| {
                    while let Some(Ok(message)) = socket.recv().await {
                        if socket.send(message).await.is_err() {
                            return;
                        }
                    }
                })
            }),
        )
        .fallback(any(async |request: Request| {
            let lines: Vec<String> = request
                .headers()
                .iter()
                .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
                .collect();
            format!("{} {}\n{}", request.method(), request.uri(), lines.join("\n"))
        }))
}

async fn world(domain: Option<&str>) -> World {
    let previews =
        domain.map(|domain| PreviewDomain { domain: domain.into(), scheme: Scheme::Http, port: Some(8080) });
    let world = World::with(GatewayConfig { previews, ..config() }).await;
    world.runtime.set(1, SeatPort::App(PORT), Target::Tcp(serve(app()).await));
    world
}

async fn ask(world: &World, body: &str) -> Answer {
    let request = request(Method::POST, "/proxy/w1/1/previews")
        .header("authorization", world.bearer())
        .header("content-type", "application/json");
    world.answer(request, body.to_owned()).await
}

/// A preview that was entered.
struct Entered {
    host: String,
    origin: String,
    cookie: String,
}

impl Entered {
    async fn at(world: &World) -> Self {
        let preview = ask(world, r#"{"port":3000}"#).await.json()["preview"].clone();
        let origin = preview["origin"].as_str().unwrap().to_owned();
        let host = origin.strip_prefix("http://").unwrap().to_owned();
        let answer = enter(world, &host, preview["capability"].as_str().unwrap()).await;
        assert_eq!((answer.status.as_u16(), answer.header("location")), (303, Some("/")), "{answer:?}");
        let cookie = answer.header("set-cookie").unwrap();
        assert!(
            cookie.contains("; Path=/; HttpOnly; SameSite=Lax") && !cookie.contains("Domain"),
            "{cookie}"
        );
        Self { host, origin, cookie: cookie.split(';').next().unwrap().to_owned() }
    }

    fn request(&self, method: Method, path: &str) -> http::request::Builder {
        http::Request::builder()
            .method(method)
            .uri(path)
            .header("host", &self.host)
            .header("cookie", &self.cookie)
    }

    async fn get(&self, world: &World, path: &str) -> Answer {
        world.answer(self.request(Method::GET, path), Body::empty()).await
    }
}

async fn enter(world: &World, host: &str, capability: &str) -> Answer {
    let request = http::Request::post("/.clarateach/enter")
        .header("host", host)
        .header("origin", "null")
        .header("content-type", "application/x-www-form-urlencoded");
    world.answer(request, format!("capability={capability}")).await
}

#[tokio::test]
async fn a_preview_has_an_origin_of_its_own() {
    let world = world(Some("preview.example")).await;
    let answer = ask(&world, r#"{"port":3000}"#).await;
    assert_eq!(answer.status, 201);
    let preview = answer.json()["preview"].clone();
    let id = preview["id"].as_str().unwrap().to_owned();
    assert!(id.len() >= 26 && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()));
    assert_eq!(preview["origin"], format!("http://{id}.preview.example:8080"));
    assert_eq!(preview["port"], 3000);
    let again = ask(&world, r#"{"port":3000}"#).await.json()["preview"].clone();
    assert_eq!(again["id"], id.as_str(), "the origin stays");
    assert_ne!(again["capability"], preview["capability"]);
    assert_ne!(ask(&world, r#"{"port":3001}"#).await.json()["preview"]["id"], id.as_str());
}

#[tokio::test]
async fn wrong_ports_and_bodies_are_refused() {
    let world = world(Some("preview.example")).await;
    for (body, expected) in [
        (r#"{"port":0}"#, 422),
        (r#"{"port":80}"#, 422),
        (r#"{"port":1023}"#, 422),
        (r#"{"port":65536}"#, 422),
        (r#"{"port":-1}"#, 422),
        (r#"{"port":"3000"}"#, 422),
        (r#"{"port":3000,"host":"10.0.0.1"}"#, 422),
        (r#"{}"#, 422),
        ("", 400),
        ("{", 400),
        (&format!("{{\"port\":3000{}}}", " ".repeat(5000)), 413),
    ] {
        assert_eq!(ask(&world, body).await.refusal().0, expected, "{body}");
    }
}

#[tokio::test]
async fn one_enters_once_with_a_capability() {
    let world = world(Some("preview.example")).await;
    let preview = ask(&world, r#"{"port":3000}"#).await.json()["preview"].clone();
    let host = preview["origin"].as_str().unwrap().strip_prefix("http://").unwrap().to_owned();
    let capability = preview["capability"].as_str().unwrap();
    for wrong in ["", "x", &capability[1..]] {
        assert_eq!(enter(&world, &host, wrong).await.status, 403);
    }
    let by_get =
        http::Request::get(format!("/.clarateach/enter?capability={capability}")).header("host", &host);
    assert_eq!(world.answer(by_get, Body::empty()).await.status, 405);
    assert_eq!(enter(&world, &host, capability).await.status, 303);
    assert_eq!(enter(&world, &host, capability).await.status, 403, "only once");
}

#[tokio::test]
async fn without_the_cookie_there_is_only_a_page_that_says_so() {
    let world = world(Some("preview.example")).await;
    let entered = Entered::at(&world).await;
    let before = world.runtime.dials.load(Ordering::SeqCst);
    for cookie in ["a=b", "clarateach_preview=x", "clarateach_preview="] {
        let request = http::Request::get("/").header("host", &entered.host).header("cookie", cookie);
        let answer = world.answer(request, Body::empty()).await;
        assert_eq!(answer.status, 403);
        assert!(answer.text().contains("open it from the workshop") && !answer.text().contains("<script"));
        assert!(answer.header("content-type").unwrap().starts_with("text/html"));
    }
    assert_eq!(world.runtime.dials.load(Ordering::SeqCst), before, "the seat was not asked");
    // A sibling preview may plant a cookie of the same name; ours still counts.
    let both = http::Request::get("/x")
        .header("host", &entered.host)
        .header("cookie", format!("clarateach_preview=planted; {}", entered.cookie));
    assert_eq!(world.answer(both, Body::empty()).await.status, 200);
}

#[tokio::test]
async fn the_app_believes_it_lives_on_localhost() {
    let world = world(Some("preview.example")).await;
    let entered = Entered::at(&world).await;
    let request = entered
        .request(Method::POST, "/form?a=1")
        .header("origin", &entered.origin)
        .header("referer", format!("{}/page", entered.origin))
        .header("cookie", "app=1")
        .header("x-forwarded-host", "evil.example")
        .header("authorization", "Bearer the-app-s-own");
    let answer = world.answer(request, "x=y").await;
    let text = answer.text().to_ascii_lowercase();
    assert!(text.starts_with("post /form?a=1\n"), "{text}");
    for line in [
        "\nhost: localhost:3000",
        "\norigin: http://localhost:3000",
        "\nreferer: http://localhost:3000/page",
        "\ncookie: app=1",
        "\nauthorization: bearer the-app-s-own",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    for gone in ["clarateach", "evil.example", "preview.example", "seat-secret"] {
        assert!(!text.contains(gone), "{gone}: {text}");
    }
    assert_eq!(entered.get(&world, "/moved").await.header("location"), Some("/there?x=1"));
}

#[tokio::test]
async fn a_hostile_app_is_confined() {
    let world = world(Some("preview.example")).await;
    let entered = Entered::at(&world).await;
    let answer = entered.get(&world, "/").await;
    assert_eq!((answer.status.as_u16(), answer.header("x-own")), (200, Some("kept")));
    for gone in [
        "set-cookie",
        "service-worker-allowed",
        "access-control-allow-origin",
        "access-control-allow-credentials",
        "strict-transport-security",
        "clear-site-data",
        "x-frame-options",
        "x-accel-redirect",
    ] {
        assert_eq!(answer.header(gone), None);
    }
    let policies: Vec<_> =
        answer.headers.get_all("content-security-policy").iter().map(|v| v.to_str().unwrap()).collect();
    assert_eq!(policies, ["default-src 'self'", "frame-ancestors 'self' http://workshop.example"]);
    assert_eq!(answer.header("cross-origin-opener-policy"), Some("same-origin"));
    // Nothing of the main origin can be reached by this host, however it is spelt and whatever it shows.
    for path in ["/api/workshops", "/proxy/w1/1/who", "/proxy/w1/1/auth", "//api/workshops"] {
        let id = entered.host.split('.').next().unwrap();
        for host in [
            entered.host.clone(),
            entered.host.to_uppercase(),
            format!("{id}.preview.example"),
            format!("{id}.preview.example."),
            format!("{id}.preview.example.:8080"),
            format!("x.{id}.preview.example"),
            "nobody.preview.example".to_owned(),
        ] {
            let request = http::Request::get(path)
                .header("host", &host)
                .header("cookie", &entered.cookie)
                .header("authorization", world.bearer());
            let answer = world.answer(request, Body::empty()).await;
            assert!(
                !answer.text().contains("instructor's workshops") && answer.text() != "1",
                "{host} {path}"
            );
            assert_ne!(answer.text(), "main", "{host} {path}");
        }
    }
    let two =
        http::Request::get("/api/workshops").header("host", &entered.host).header("host", "workshop.example");
    assert_eq!(world.answer(two, Body::empty()).await.status, 400);
    let absolute = http::Request::get(format!("http://{}/api/workshops", entered.host))
        .header("host", "workshop.example");
    assert_eq!(world.answer(absolute, Body::empty()).await.status, 400);
    let main = http::Request::get("/api/workshops").header("host", "workshop.example");
    assert_eq!(world.answer(main, Body::empty()).await.text(), "the instructor's workshops");
}

#[tokio::test]
async fn other_pages_can_not_use_a_preview_s_cookie() {
    let world = world(Some("preview.example")).await;
    let entered = Entered::at(&world).await;
    let status = async |method: Method, extra: &[(&str, &str)]| {
        let mut request = entered.request(method, "/x");
        for (name, value) in extra {
            request = request.header(*name, *value);
        }
        world.answer(request, Body::empty()).await.status.as_u16()
    };
    let sibling = ("origin", "http://other.preview.example:8080");
    assert_eq!(status(Method::POST, &[sibling]).await, 403);
    assert_eq!(status(Method::POST, &[("origin", "null")]).await, 403);
    assert_eq!(status(Method::POST, &[("origin", "null"), ("sec-fetch-site", "same-origin")]).await, 200);
    assert_eq!(
        status(Method::GET, &[("sec-fetch-site", "same-site"), ("sec-fetch-mode", "no-cors")]).await,
        403
    );
    assert_eq!(
        status(Method::GET, &[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")]).await,
        200
    );
    assert_eq!(
        status(Method::POST, &[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")]).await,
        403
    );
    assert_eq!(status(Method::GET, &[]).await, 200);
}

#[tokio::test]
async fn websockets_of_a_preview_pass() {
    let world = world(Some("preview.example")).await;
    let entered = Entered::at(&world).await;
    let open = async |origin: &str| {
        let extra = [
            ("host", entered.host.as_str()),
            ("cookie", &entered.cookie),
            ("origin", origin),
            ("sec-websocket-protocol", "vite-hmr"),
        ];
        world.open("/hmr", &extra).await
    };
    assert_eq!(open("http://workshop.example").await.unwrap_err(), 403);
    let (mut socket, headers) = open(&entered.origin).await.unwrap();
    assert_eq!(headers["sec-websocket-protocol"], "vite-hmr");
    socket.send(Message::text("update")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("update"));
    // It ends with the session, like everything else.
    world.gateway.end_session(&session("s1"), &EndedWhy::Evicted);
    let Some(Ok(Message::Close(Some(frame)))) = socket.next().await else { panic!("no close frame") };
    assert_eq!(u16::from(frame.code), 4001);
    assert_eq!(entered.get(&world, "/x").await.status, 403);
}

#[tokio::test]
async fn a_port_where_nothing_listens_says_so() {
    let world = world(Some("preview.example")).await;
    let entered = Entered::at(&world).await;
    world.runtime.unset(1, SeatPort::App(PORT));
    let answer = entered.get(&world, "/").await;
    assert_eq!(answer.status, 502);
    assert!(answer.text().contains("listens on port 3000"));
}

#[tokio::test]
async fn with_https_the_cookie_belongs_to_its_host_alone() {
    let previews =
        Some(PreviewDomain { domain: "preview.example".into(), scheme: Scheme::Https, port: None });
    let world = World::with(GatewayConfig { previews, secure_cookies: true, ..config() }).await;
    let preview = ask(&world, r#"{"port":3000}"#).await.json()["preview"].clone();
    let host = preview["origin"].as_str().unwrap().strip_prefix("https://").unwrap().to_owned();
    let answer = enter(&world, &host, preview["capability"].as_str().unwrap()).await;
    let cookie = answer.header("set-cookie").unwrap();
    assert!(cookie.starts_with("__Host-clarateach_preview=") && cookie.ends_with("; Secure"), "{cookie}");
}

#[tokio::test]
async fn without_a_preview_domain_a_preview_is_sandboxed() {
    let world = world(None).await;
    let preview = ask(&world, r#"{"port":3000}"#).await.json()["preview"].clone();
    assert!(preview["origin"].is_null() && preview.get("capability").is_none());
    let url = preview["url"].as_str().unwrap();
    let path = url.strip_prefix(ORIGIN).unwrap();
    assert_eq!(path, format!("/proxy/w1/1/preview/{}/", preview["id"].as_str().unwrap()));
    // The page has an opaque origin: no cookie, no token, Origin null.
    let get = |path: &str| request(Method::GET, path).header("origin", "null");
    let answer = world.answer(get(path), Body::empty()).await;
    assert_eq!(answer.status, 200);
    let policies: Vec<_> =
        answer.headers.get_all("content-security-policy").iter().map(|v| v.to_str().unwrap()).collect();
    assert!(policies.contains(&"sandbox allow-scripts allow-forms"), "{policies:?}");
    for (name, value) in [
        ("set-cookie", None),
        ("service-worker-allowed", None),
        ("access-control-allow-credentials", None),
        ("access-control-allow-origin", Some("*")),
        ("cache-control", Some("no-store")),
        ("referrer-policy", Some("no-referrer")),
    ] {
        assert_eq!(answer.header(name), value, "{name}");
    }
    assert_eq!(
        world.answer(get(&format!("{path}moved")), Body::empty()).await.header("location"),
        Some(format!("{path}there?x=1").as_str())
    );
    let echoed = world
        .answer(
            get(&format!("{path}deep/er?q=1"))
                .header("cookie", "clarateach_seat=x; clarateach_admin=y")
                .header("authorization", "Bearer z"),
            Body::empty(),
        )
        .await;
    assert!(echoed.text().starts_with("GET /deep/er?q=1\n"), "{}", echoed.text());
    assert!(!echoed.text().contains("clarateach") && !echoed.text().contains("Bearer"));
    let slashless = world.answer(get(path.trim_end_matches('/')), Body::empty()).await;
    assert_eq!((slashless.status.as_u16(), slashless.header("location")), (308, Some(path)));
    let worker = get(&format!("{path}sw.js")).header("service-worker", "script");
    assert_eq!(world.answer(worker, Body::empty()).await.status, 403);
    // Not another seat's, not a guess, not after the end.
    let moved = path.replace("/w1/1/", "/w1/2/");
    for path in [moved.as_str(), "/proxy/w1/1/preview/", "/proxy/w1/1/preview/pguess/"] {
        assert_eq!(world.answer(get(path), Body::empty()).await.status, 404, "{path}");
    }
    world.gateway.end_session(&session("s1"), &EndedWhy::Evicted);
    let answer = world.answer(get(path), Body::empty()).await;
    assert_eq!(answer.status, 404);
    assert!(
        answer
            .headers
            .get_all("content-security-policy")
            .iter()
            .any(|v| v.as_bytes().starts_with(b"sandbox"))
    );
}

#[tokio::test]
async fn a_preview_lives_as_long_as_the_lease() {
    let world = world(None).await;
    let mut short = claims();
    short.exp = short.iat + 2;
    let request = request(Method::POST, "/proxy/w1/1/previews")
        .header("authorization", format!("Bearer {}", world.signer.sign(&short)));
    let preview = world.answer(request, r#"{"port":3000}"#).await.json()["preview"].clone();
    let path = preview["url"].as_str().unwrap().strip_prefix(ORIGIN).unwrap().to_owned();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(8);
    loop {
        let answer = world.answer(crate::harness::request(Method::GET, &path), Body::empty()).await;
        if answer.status == 404 {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "the preview outlives its lease");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    // The learner's page gets a new token, and the preview is there again.
    assert_eq!(world.get("/proxy/w1/1/who").await.status, 200);
    let answer = world.answer(crate::harness::request(Method::GET, &path), Body::empty()).await;
    assert_eq!(answer.status, 200);
}
