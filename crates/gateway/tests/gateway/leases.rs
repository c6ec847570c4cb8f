//! What a lease's end does to plain HTTP.

use std::time::{Duration, Instant};

use axum::body::Body;
use clarateach_gateway::EndedWhy;
use http::Method;
use http_body_util::BodyExt;

use crate::harness::*;

async fn read_until_it_breaks(body: &mut hyper::body::Incoming) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        assert!(Instant::now() < deadline, "the answer goes on");
        match tokio::time::timeout(Duration::from_secs(10), body.frame()).await.unwrap() {
            Some(Ok(_)) => {}
            Some(Err(_)) => return,
            None => panic!("the answer looks whole"),
        }
    }
}

#[tokio::test]
async fn answers_that_go_on_are_cut_off_with_the_session() {
    for path in ["/proxy/w1/1/events", "/proxy/w1/1/endless"] {
        let world = World::new().await;
        let request = request(Method::GET, path).header("authorization", world.bearer());
        let mut body = world.send(request.body(Body::empty()).unwrap()).await.into_body();
        body.frame().await.unwrap().unwrap();
        world.gateway.end_session(&session("s1"), &EndedWhy::WorkshopStopped);
        read_until_it_breaks(&mut body).await;
    }
}

#[tokio::test]
async fn answers_that_go_on_are_cut_off_with_the_lease() {
    for path in ["/proxy/w1/1/events", "/proxy/w1/1/endless"] {
        let world = World::new().await;
        let mut short = claims();
        short.exp = short.iat + 1;
        let request = request(Method::GET, path)
            .header("authorization", format!("Bearer {}", world.signer.sign(&short)));
        let mut body = world.send(request.body(Body::empty()).unwrap()).await.into_body();
        read_until_it_breaks(&mut body).await;
    }
}

#[tokio::test]
async fn an_upload_ends_with_the_session() {
    let world = World::new().await;
    let endless = futures_util::stream::unfold((), async |()| {
        tokio::time::sleep(Duration::from_millis(5)).await;
        Some((Ok::<_, std::io::Error>(bytes::Bytes::from_static(b"more")), ()))
    });
    let request = request(Method::PUT, "/proxy/w1/1/upload").header("authorization", world.bearer());
    let sent = world.send(request.body(Body::from_stream(endless)).unwrap());
    let ended = async {
        eventually("the upload has begun", || world.gateway.connected().contains_key(&session("s1"))).await;
        world.gateway.end_session(&session("s1"), &EndedWhy::Evicted);
    };
    let (response, ()) =
        tokio::time::timeout(Duration::from_secs(10), async { tokio::join!(sent, ended) }).await.unwrap();
    assert_eq!(response.status(), 410);
}

#[tokio::test]
async fn a_session_that_goes_on_later_comes_in_with_a_later_token() {
    let world = World::new().await;
    assert_eq!(world.get("/proxy/w1/1/who").await.status, 200);
    world.gateway.end_session(&session("s1"), &EndedWhy::WorkshopStopped);
    assert_eq!(world.get("/proxy/w1/1/who").await.status, 410);
    let mut later = claims();
    later.iat += 2;
    let request = request(Method::GET, "/proxy/w1/1/who")
        .header("authorization", format!("Bearer {}", world.signer.sign(&later)));
    assert_eq!(world.answer(request, Body::empty()).await.status, 200);
}

#[tokio::test]
async fn one_who_never_came_can_be_ended_too() {
    let world = World::new().await;
    world.gateway.end_session(&session("s1"), &EndedWhy::Other("taken by somebody else".into()));
    let answer = world.get("/proxy/w1/1/who").await;
    assert_eq!(answer.json()["error"]["message"], "taken by somebody else");
}
