//! Into a VM by `/proxy`: learners with seat tokens, operators with the agent's.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use clarateach_ids::{Generation, InstallationId, KeyId, SessionId};
use clarateach_seatproto::token::{Role, SeatClaims};
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::EncodePrivateKey;
use futures_util::{SinkExt, StreamExt};
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use reqwest::Method;
use serde_json::json;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::harness::{Agent, Answer, TOKEN, UI, answer};

/// A control plane that signs.
pub(crate) struct Signer {
    installation: InstallationId,
    id: KeyId,
    key: SigningKey,
}

impl Signer {
    pub(crate) fn new(seed: u8) -> Self {
        let (installation, id) = (InstallationId::random(), KeyId::random());
        Self { installation, id, key: SigningKey::from_bytes(&[seed; 32]) }
    }

    pub(crate) async fn push(&self, agent: &Agent) {
        let key = BASE64_STANDARD.encode(self.key.verifying_key().as_bytes());
        let keys = json!({"installation_id": self.installation, "keys": [{"id": self.id, "key": key}]});
        agent.put("/keys", keys).await.is(204);
    }

    pub(crate) fn token(&self, seat: u32, session: &str) -> String {
        self.token_of(seat, session, 1, 300)
    }

    fn token_of(&self, seat: u32, session: &str, generation: u64, seconds: i64) -> String {
        let now = Timestamp::now().as_second();
        let claims = SeatClaims {
            aud: self.installation.clone(),
            workshop: "w".parse().unwrap(),
            seat: seat.try_into().unwrap(),
            generation: Generation(generation),
            session: session.parse::<SessionId>().unwrap(),
            role: Role::Learner,
            iat: now,
            exp: now + seconds,
        };
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(self.id.to_string());
        let der = self.key.to_pkcs8_der().unwrap();
        jsonwebtoken::encode(&header, &claims, &EncodingKey::from_ed_der(der.as_bytes())).unwrap()
    }
}

async fn files(agent: &Agent, seat: u32, token: &str) -> Answer {
    answer(agent.http.get(agent.url(&format!("/proxy/w/{seat}/files"))).bearer_auth(token)).await
}

#[tokio::test]
async fn a_learner_comes_in_with_a_pushed_key_s_token_only() {
    let mut agent = Agent::new().await;
    agent.vm("w", 1).await;
    agent.vm("w", 2).await;
    let (signer, stranger) = (Signer::new(1), Signer::new(2));
    let token = signer.token(1, "s1");
    files(&agent, 1, &token).await.refused(401, "UNAUTHORIZED");
    signer.push(&agent).await;
    files(&agent, 1, &token).await.is(200);
    files(&agent, 2, &token).await.refused(403, "FORBIDDEN");
    files(&agent, 3, &signer.token(3, "s1")).await.refused(404, "NOT_FOUND");
    files(&agent, 1, &stranger.token(1, "s1")).await.refused(401, "UNAUTHORIZED");
    files(&agent, 1, &signer.token_of(1, "s1", 1, -1)).await.refused(401, "UNAUTHORIZED");
    files(&agent, 1, &signer.token_of(1, "s1", 2, 300)).await.refused(401, "UNAUTHORIZED");
    // Keys are remembered; others replace them.
    agent.restart().await;
    let secretless = files(&agent, 1, &token).await;
    assert_ne!(secretless.status, 401, "{secretless:?}");
    stranger.push(&agent).await;
    files(&agent, 1, &token).await.refused(401, "UNAUTHORIZED");
}

#[tokio::test]
async fn keys_that_are_none_are_refused_and_change_nothing() {
    let agent = Agent::new().await;
    agent.vm("w", 1).await;
    let signer = Signer::new(1);
    signer.push(&agent).await;
    for keys in [
        json!({"installation_id": "i", "keys": [{"id": "k", "key": "short"}]}),
        json!({"installation_id": "i", "keys": [{"id": "k", "key": BASE64_STANDARD.encode([0; 31])}]}),
        json!({"installation_id": "../i", "keys": []}),
        json!({"installation_id": "i"}),
        json!({"installation_id": "i", "keys": vec![json!({"id": "k", "key": BASE64_STANDARD.encode([0; 32])}); 17]}),
    ] {
        agent.put("/keys", keys).await.refused(400, "invalid_request");
    }
    files(&agent, 1, &signer.token(1, "s1")).await.is(200);
}

#[tokio::test]
async fn a_revoked_session_stays_out_also_after_a_restart() {
    let mut agent = Agent::new().await;
    agent.vm("w", 1).await;
    let signer = Signer::new(1);
    signer.push(&agent).await;
    let (out, other) = (signer.token(1, "s-out"), signer.token(1, "s-other"));
    files(&agent, 1, &out).await.is(200);
    let wish = json!({"sessions": [{"session_id": "s-out", "reason": "the class is over"}]});
    agent.post("/revocations", wish).await.is(204);
    let refused = files(&agent, 1, &out).await.refused(410, "ENDED");
    assert_eq!(refused.body["error"]["message"], "the class is over");
    files(&agent, 1, &other).await.is(200);
    agent.restart().await;
    files(&agent, 1, &out).await;
    let long = json!({"sessions": [{"session_id": "s", "reason": "x".repeat(124)}]});
    agent.post("/revocations", long).await.refused(400, "invalid_request");
}

#[tokio::test]
async fn an_operator_sees_a_learner_s_files_with_the_agent_s_token() {
    let agent = Agent::new().await;
    agent.vm("w", 1).await;
    let path = "/proxy/w/1/files/hello.txt";
    agent.put(path, json!({"content": "hi", "encoding": "utf-8"})).await.is(200);
    assert_eq!(agent.get(path).await.is(200).body["content"], "hi");
    agent.get("/proxy/w/2/files").await.refused(404, "NOT_FOUND");
    agent.get("/proxy/a.b/1/files").await.refused(404, "NOT_FOUND");
    // What the seat is told carries its secret and nothing of the caller.
    let mirrored = agent.get("/proxy/w/1/anything?x=1").await.is(200);
    assert_eq!(mirrored.body["uri"], "/anything?x=1");
    assert!(!mirrored.body.to_string().contains(TOKEN), "{mirrored:?}");
}

#[tokio::test]
async fn cookies_open_nothing_and_are_not_given() {
    let agent = Agent::new().await;
    agent.vm("w", 1).await;
    let signer = Signer::new(1);
    signer.push(&agent).await;
    let token = signer.token(1, "s1");
    let by_cookie =
        agent.http.get(agent.url("/proxy/w/1/files")).header("cookie", format!("clarateach_seat={token}"));
    answer(by_cookie).await.refused(401, "UNAUTHORIZED");
    for token in [token.as_str(), TOKEN] {
        let asked = answer(agent.http.post(agent.url("/proxy/w/1/auth")).bearer_auth(token)).await;
        let asked = asked.refused(404, "NOT_FOUND");
        assert!(!asked.headers.contains_key("set-cookie"));
    }
}

#[tokio::test]
async fn only_listed_pages_may_call() {
    let agent = Agent::new().await;
    agent.vm("w", 1).await;
    let url = agent.url("/proxy/w/1/files");
    let preflight = |origin: &'static str| {
        let request = agent.http.request(Method::OPTIONS, &url).header("origin", origin);
        let request = request.header("access-control-request-method", "PUT");
        answer(request.header("access-control-request-headers", "authorization,content-type"))
    };
    let allowed = preflight(UI).await.is(200);
    assert_eq!(allowed.headers["access-control-allow-origin"], UI);
    assert!(!allowed.headers.contains_key("access-control-allow-credentials"));
    assert!(!preflight("https://evil.example").await.headers.contains_key("access-control-allow-origin"));
    let call = |origin: &'static str| {
        answer(agent.request(Method::GET, "/proxy/w/1/files").header("origin", origin))
    };
    assert_eq!(call(UI).await.is(200).headers["access-control-allow-origin"], UI);
    call("https://worker.example").await.is(200);
    for foreign in ["https://evil.example", "null", "http://class.example"] {
        let refused = call(foreign).await.refused(403, "FORBIDDEN");
        assert!(!refused.headers.contains_key("access-control-allow-origin"));
    }
    // The API itself is for programs: no page may read it.
    let api = answer(agent.request(Method::GET, "/vms").header("origin", UI)).await;
    assert!(!api.headers.contains_key("access-control-allow-origin"));
}

#[tokio::test]
async fn who_uses_a_seat_is_told_to_whoever_made_it() {
    let agent = Agent::new().await;
    agent.vm("w", 1).await;
    let signer = Signer::new(1);
    signer.push(&agent).await;
    assert_eq!(agent.get("/sessions").await.is(200).body, json!({"sessions": []}));
    files(&agent, 1, &signer.token(1, "s2")).await.is(200);
    let mut learner = format!("ws://{}/proxy/w/1/terminal", agent.authority()).into_client_request().unwrap();
    let protocol = format!("bearer.{}", signer.token(1, "s1"));
    learner.headers_mut().insert("sec-websocket-protocol", protocol.parse().unwrap());
    learner.headers_mut().insert("origin", UI.parse().unwrap());
    let (mut socket, _) = tokio_tungstenite::connect_async(learner).await.unwrap();
    socket.next().await.unwrap().unwrap();
    // An operator who looks is no learner.
    agent.get("/proxy/w/1/files").await.is(200);
    let told = agent.get("/sessions").await.is(200);
    let sessions = told.body["sessions"].as_array().unwrap();
    let ids: Vec<_> = sessions.iter().map(|session| session["session_id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["s1", "s2"], "{told:?}");
    assert!(sessions.iter().all(|session| session["idle_seconds"].as_u64().unwrap() < 60), "{told:?}");

    // What one control plane made is not told to another.
    let as_if = |installation: &'static str, method: Method, path: &str| {
        agent.request(method, path).header("x-clarateach-installation", installation)
    };
    answer(as_if("one", Method::PUT, "/vms/w/2").json(&super::vms::desired(1))).await.is(204);
    agent.has_status("/vms/w/2", "ready").await;
    files(&agent, 2, &signer.token(2, "s3")).await.is(200);
    for (installation, count) in [("one", 3), ("other", 2)] {
        let told = answer(as_if(installation, Method::GET, "/sessions")).await.is(200);
        assert_eq!(told.body["sessions"].as_array().unwrap().len(), count, "{installation}: {told:?}");
    }
    answer(agent.http.get(agent.url("/sessions"))).await.refused(401, "unauthorized");

    let wish = json!({"sessions": [{"session_id": "s1", "reason": "over"}]});
    agent.post("/revocations", wish).await.is(204);
    let told = agent.get("/sessions").await.is(200);
    assert!(!told.body.to_string().contains("\"s1\""), "{told:?}");
}

#[tokio::test]
async fn a_terminal_opens_with_either_token() {
    let agent = Agent::new().await;
    agent.vm("w", 1).await;
    let signer = Signer::new(1);
    signer.push(&agent).await;
    let request = || format!("ws://{}/proxy/w/1/terminal", agent.authority()).into_client_request().unwrap();

    let mut learner = request();
    let protocol = format!("bearer.{}", signer.token(1, "s1"));
    learner.headers_mut().insert("sec-websocket-protocol", protocol.parse().unwrap());
    learner.headers_mut().insert("origin", UI.parse().unwrap());
    let mut operator = request();
    operator.headers_mut().insert("authorization", format!("Bearer {TOKEN}").parse().unwrap());
    for request in [learner, operator] {
        let (mut socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
        let hello = socket.next().await.unwrap().unwrap().into_text().unwrap();
        assert!(hello.contains("\"hello\""), "{hello}");
        let typed = json!({"type": "input", "data": "echo"}).to_string();
        socket.send(Message::Text(typed.into())).await.unwrap();
        let shown = socket.next().await.unwrap().unwrap().into_text().unwrap();
        assert!(shown.contains("\"echo\""), "{shown}");
    }
    let Err(Error::Http(refused)) = tokio_tungstenite::connect_async(request()).await else {
        panic!("a terminal opened without a token")
    };
    assert_eq!(refused.status(), 401);
}
