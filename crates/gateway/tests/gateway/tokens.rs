//! Who may come in.

use axum::body::Body;
use clarateach_gateway::Refusal;
use clarateach_ids::Generation;
use clarateach_seatproto::token::Verifier;
use http::Method;

use crate::harness::*;

#[tokio::test]
async fn nothing_passes_without_a_token() {
    let world = World::new().await;
    for (method, path) in [
        (Method::GET, "/proxy/w1/1/health"),
        (Method::GET, "/proxy/w1/1"),
        (Method::GET, "/proxy/w1/1/"),
        (Method::PUT, "/proxy/w1/1/files/a"),
        (Method::POST, "/proxy/w1/1/auth"),
        (Method::POST, "/proxy/w1/1/previews"),
        (Method::GET, "/proxy/none/1/health"),
        (Method::GET, "/proxy/w1/1/tunnel/22"),
    ] {
        let answer = world.answer(request(method, path), Body::empty()).await;
        assert_eq!(answer.refusal(), (401, "UNAUTHORIZED".into()), "{path}");
    }
    assert_eq!(world.open("/proxy/w1/1/terminal", &[]).await.unwrap_err(), 401);
    assert_eq!(world.runtime.dials.load(std::sync::atomic::Ordering::SeqCst), 0, "no seat was asked");
}

#[tokio::test]
async fn a_token_in_the_url_is_no_token() {
    let world = World::new().await;
    let token = world.token();
    for query in ["token", "access_token", "bearer", "authorization"] {
        let path = format!("/proxy/w1/1/who?{query}={token}");
        assert_eq!(world.answer(request(Method::GET, &path), Body::empty()).await.status, 401);
    }
}

#[tokio::test]
async fn a_bearer_token_opens_its_own_seat_only() {
    let world = World::new().await;
    assert_eq!(world.get("/proxy/w1/1/who").await.text(), "1");
    for path in ["/proxy/w1/2/who", "/proxy/w2/1/who"] {
        assert_eq!(world.get(path).await.refusal(), (403, "FORBIDDEN".into()), "{path}");
    }
    for path in ["/proxy/w1/0/who", "/proxy/w1/01/who", "/proxy/w1/x/who", "/proxy/..%2fw1/1/who"] {
        assert_eq!(world.get(path).await.refusal(), (404, "NOT_FOUND".into()), "{path}");
    }
}

#[tokio::test]
async fn bad_tokens_are_refused() {
    let world = World::new().await;
    let good = world.token();
    let mut expired = claims();
    expired.exp = expired.iat - 1;
    let mut elsewhere = claims();
    elsewhere.aud = "i2".parse().unwrap();
    let mut tampered = good.clone().into_bytes();
    let last = tampered.len() - 10;
    tampered[last] = if tampered[last] == b'A' { b'B' } else { b'A' };
    let unsigned = format!("eyJhbGciOiJub25lIn0.{}.", good.split('.').nth(1).unwrap());
    for token in [
        "",
        "x",
        "a.b.c",
        &world.signer.sign(&expired),
        &world.signer.sign(&elsewhere),
        &Signer::new(2).sign(&claims()),
        std::str::from_utf8(&tampered).unwrap(),
        &unsigned,
        &"a".repeat(4000),
    ] {
        let request =
            request(Method::GET, "/proxy/w1/1/who").header("authorization", format!("Bearer {token}"));
        assert_eq!(
            world.answer(request, Body::empty()).await.refusal(),
            (401, "UNAUTHORIZED".into()),
            "{token}"
        );
    }
    for value in [format!("Basic {good}"), good.clone(), format!("Bearer {good}, Bearer {good}")] {
        let request = request(Method::GET, "/proxy/w1/1/who").header("authorization", value);
        assert_eq!(world.answer(request, Body::empty()).await.status, 401);
    }
    let twice = request(Method::GET, "/proxy/w1/1/who")
        .header("authorization", format!("Bearer {good}"))
        .header("authorization", format!("Bearer {good}"));
    assert_eq!(world.answer(twice, Body::empty()).await.status, 401);
}

#[tokio::test]
async fn the_directory_s_refusals_reach_the_caller() {
    let world = World::new().await;
    *world.directory.refusal.lock().unwrap() = Some(Refusal::ended("the workshop has ended"));
    let answer = world.get("/proxy/w1/1/who").await;
    assert_eq!(answer.refusal(), (410, "ENDED".into()));
    assert_eq!(answer.json()["error"]["message"], "the workshop has ended");
    *world.directory.refusal.lock().unwrap() = None;
    *world.directory.generation.lock().unwrap() = Generation(2);
    assert_eq!(world.get("/proxy/w1/1/who").await.refusal(), (401, "UNAUTHORIZED".into()));
}

#[tokio::test]
async fn keys_can_be_changed_while_it_runs() {
    let world = World::new().await;
    assert_eq!(world.get("/proxy/w1/1/who").await.status, 200);
    let next = Signer::new(3);
    world.gateway.set_verifier(Verifier::new(audience(), std::slice::from_ref(&next.public)));
    assert_eq!(world.get("/proxy/w1/1/who").await.status, 401, "also a token that was verified before");
    let request = request(Method::GET, "/proxy/w1/1/who")
        .header("authorization", format!("bearer {}", next.sign(&claims())));
    assert_eq!(world.answer(request, Body::empty()).await.status, 200);
}

/// `clarateach_seat=…` as a browser would send it back.
async fn cookie(world: &World) -> String {
    let request = request(Method::POST, "/proxy/w1/1/auth").header("authorization", world.bearer());
    let answer = world.answer(request, Body::empty()).await;
    assert_eq!(answer.status, 204);
    let cookie = answer.header("set-cookie").unwrap().to_owned();
    let (pair, attributes) = cookie.split_once("; ").unwrap();
    for attribute in ["Path=/proxy/w1/1", "HttpOnly", "SameSite=Strict"] {
        assert!(attributes.split("; ").any(|a| a == attribute), "{cookie}");
    }
    let age: i64 = attributes.split("Max-Age=").nth(1).unwrap().split(';').next().unwrap().parse().unwrap();
    assert!((290..=300).contains(&age), "{cookie}");
    pair.to_owned()
}

#[tokio::test]
async fn the_cookie_is_given_for_an_authorization_and_good_for_reading() {
    let world = World::new().await;
    let cookie = cookie(&world).await;
    let get = |path: &str| request(Method::GET, path).header("cookie", format!("other=1; {cookie}"));
    assert_eq!(world.answer(get("/proxy/w1/1/who"), Body::empty()).await.text(), "1");
    assert_eq!(world.answer(get("/proxy/w1/2/who"), Body::empty()).await.status, 403);
    // A planted cookie of the same name changes nothing.
    let planted =
        request(Method::GET, "/proxy/w1/1/who").header("cookie", format!("clarateach_seat=x; {cookie}"));
    assert_eq!(world.answer(planted, Body::empty()).await.status, 200);
    let renewed =
        request(Method::POST, "/proxy/w1/1/auth").header("cookie", &cookie).header("origin", ORIGIN);
    assert_eq!(world.answer(renewed, Body::empty()).await.status, 401, "a cookie doesn't renew itself");
}

#[tokio::test]
async fn the_cookie_is_secure_over_https() {
    let world = World::with(clarateach_gateway::GatewayConfig { secure_cookies: true, ..config() }).await;
    let request = request(Method::POST, "/proxy/w1/1/auth").header("authorization", world.bearer());
    let answer = world.answer(request, Body::empty()).await;
    assert!(answer.header("set-cookie").unwrap().ends_with("; Secure"));
}

#[tokio::test]
async fn a_request_by_cookie_must_come_from_our_page() {
    let world = World::new().await;
    let cookie = cookie(&world).await;
    let status = async |method: Method, extra: &[(&str, &str)]| {
        let mut request = request(method, "/proxy/w1/1/seen").header("cookie", &cookie);
        for (name, value) in extra {
            request = request.header(*name, *value);
        }
        world.answer(request, Body::empty()).await.status.as_u16()
    };
    for method in [Method::POST, Method::PUT, Method::DELETE, Method::PATCH] {
        assert_eq!(status(method.clone(), &[]).await, 403, "{method} without Origin");
        assert_eq!(status(method.clone(), &[("origin", ORIGIN)]).await, 200, "{method}");
        for foreign in [
            "null",
            "https://workshop.example",
            "http://workshop.example:81",
            "http://workshop.example.evil",
            "http://evil.workshop.example",
            "http://localhost",
            "",
        ] {
            assert_eq!(
                status(method.clone(), &[("origin", foreign)]).await,
                403,
                "{method} from {foreign:?}"
            );
        }
    }
    assert_eq!(status(Method::GET, &[("origin", "http://evil.example")]).await, 403);
    assert_eq!(status(Method::GET, &[("sec-fetch-site", "same-origin")]).await, 200);
    assert_eq!(status(Method::GET, &[("sec-fetch-site", "none")]).await, 200);
    // A preview on a sibling domain is the same site to a browser: SameSite=Strict doesn't stop it.
    assert_eq!(status(Method::GET, &[("sec-fetch-site", "same-site")]).await, 403);
    assert_eq!(status(Method::GET, &[("sec-fetch-site", "cross-site")]).await, 403);
}

#[tokio::test]
async fn a_foreign_origin_is_refused_even_with_a_token() {
    let world = World::new().await;
    let with = async |method: Method, origin: &str| {
        let request = request(method, "/proxy/w1/1/seen")
            .header("authorization", world.bearer())
            .header("origin", origin);
        world.answer(request, Body::empty()).await.status.as_u16()
    };
    assert_eq!(with(Method::PUT, "http://evil.example").await, 403);
    assert_eq!(with(Method::PUT, ORIGIN).await, 200);
}

#[tokio::test]
async fn without_a_public_url_the_host_counts_as_ours() {
    let world = World::with(clarateach_gateway::GatewayConfig {
        public_origins: Vec::new(),
        same_host_origin: true,
        ..config()
    })
    .await;
    let cookie = cookie(&world).await;
    let put = |origin: &str| {
        request(Method::PUT, "/proxy/w1/1/seen").header("cookie", &cookie).header("origin", origin)
    };
    assert_eq!(world.answer(put("http://workshop.example"), Body::empty()).await.status, 200);
    assert_eq!(world.answer(put("http://workshop.example:8080"), Body::empty()).await.status, 403);
}

#[tokio::test]
async fn errors_are_not_kept_by_caches() {
    let world = World::new().await;
    let answer = world.answer(request(Method::GET, "/proxy/w1/1/who"), Body::empty()).await;
    assert_eq!(answer.header("cache-control"), Some("no-store"));
}

#[tokio::test]
async fn it_can_be_nested_either_way() {
    let world = World::new().await;
    let at = "/proxy/{workshop}/{seat}";
    let every = ["/proxy/w1/1", "/proxy/w1/1/who", "/proxy/w1/1//who", "/proxy/w1/1/"];
    for (router, paths) in [
        // `nest` doesn't match a slash with nothing behind it.
        (axum::Router::new().nest(at, world.gateway.router()), &every[..3]),
        (axum::Router::new().nest_service(at, world.gateway.router()), &every[..]),
    ] {
        let address = serve(router).await;
        for path in paths {
            let request = request(Method::GET, path).body(Body::empty()).unwrap();
            let answer = Answer::of(Client::connect(address).await.send(request).await).await;
            assert_eq!(answer.status, 401, "{path}");
        }
    }
}
