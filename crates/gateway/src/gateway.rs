//! The gateway: admits a request to a seat and hands it on.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{RawPathParams, Request, State};
use axum::response::{IntoResponse, Response};
use clarateach_ids::{Generation, SeatKey, SessionId};
use clarateach_runtime::SeatPort;
use clarateach_seatproto::SECRET_HEADER;
use clarateach_seatproto::token::{SeatClaims, TokenError, Verifier};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use jiff::Timestamp;
use secrecy::ExposeSecret;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::credentials::{Credentials, SEAT_COOKIE, Source, check_origin, split_protocols};
use crate::ending::EndedWhy;
use crate::exchange::{Carrier, Upgrade};
use crate::headers;
use crate::lease::{Carries, Lease, Leases, Presence};
use crate::previews::{Previews, sandboxed};
use crate::upstream::Upstreams;
use crate::{GatewayConfig, Refusal, SeatDirectory, SeatRoute};

/// How often what is over is forgotten.
const SWEEP: Duration = Duration::from_secs(10);
/// Tokens remembered as verified.
const VERIFIED_TOKENS: usize = 4096;

/// The gateway of one server.
pub struct Gateway {
    pub(crate) config: GatewayConfig,
    pub(crate) directory: Arc<dyn SeatDirectory>,
    pub(crate) leases: Arc<Leases>,
    pub(crate) carrier: Carrier,
    pub(crate) previews: Previews,
    verifier: RwLock<Verifier>,
    /// Claims of tokens whose signature was checked: that costs more than everything else about a small request.
    verified: Mutex<HashMap<String, Arc<SeatClaims>>>,
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway").field("config", &self.config).finish_non_exhaustive()
    }
}

/// A request that may go to its seat.
#[derive(Debug)]
pub(crate) struct Admitted {
    pub(crate) claims: Arc<SeatClaims>,
    pub(crate) route: SeatRoute,
    pub(crate) lease: Arc<Lease>,
    source: Source,
    token: String,
}

impl Gateway {
    /// A gateway to the seats of `directory` that accepts the tokens of `verifier`. To be called inside a Tokio runtime:
    /// it starts a task that forgets what is over.
    #[must_use]
    pub fn new(config: GatewayConfig, directory: Arc<dyn SeatDirectory>, verifier: Verifier) -> Arc<Self> {
        let limits = config.limits.clone();
        let gateway = Arc::new(Self {
            config,
            directory,
            leases: Leases::new(limits.clone()),
            previews: Previews::default(),
            carrier: Carrier {
                upstreams: Upstreams::new(limits.clone()),
                tracker: TaskTracker::new(),
                limits,
            },
            verifier: RwLock::new(verifier),
            verified: Mutex::default(),
        });
        tokio::spawn(sweep(Arc::downgrade(&gateway)));
        gateway
    }

    /// What is to be nested at `/proxy/{workshop}/{seat}`, with these names of the parameters: by
    /// `Router::nest_service`, which also matches the endpoint with a slash and nothing behind it.
    pub fn router(self: &Arc<Self>) -> Router {
        Router::new().fallback(at_seat).with_state(self.clone())
    }

    /// Accepts other keys from now on.
    pub fn set_verifier(&self, verifier: Verifier) {
        *self.verifier.write().unwrap_or_else(PoisonError::into_inner) = verifier;
        self.verified().clear();
    }

    /// Ends a session: its streams are closed, WebSockets with code [`crate::CLOSE_ENDED`] and the reason, and its tokens
    /// issued up to now are refused with 410 and the reason. A token issued later opens it again.
    pub fn end_session(&self, session: &SessionId, why: &EndedWhy) {
        self.leases.end(session, why);
        self.previews.sweep();
    }

    /// Closes what is open to makes of the seat before `generation`, WebSockets with [`crate::CLOSE_SEAT_LOST`]. The
    /// gateway notices by itself when the first newer token comes; this is quicker.
    pub fn seat_rebuilt(&self, seat: &SeatKey, generation: Generation) {
        self.leases.rebuilt(seat, generation);
        self.carrier.upstreams.forget(seat, generation);
    }

    /// Learners who have used their seat lately: whether they are connected now and when they were last heard of.
    pub fn connected(&self) -> HashMap<SessionId, Presence> {
        self.leases.presence()
    }

    /// A number that changes whenever a session connects its first terminal or loses its last one.
    pub fn connection_changes(&self) -> watch::Receiver<u64> {
        self.leases.changes()
    }

    /// Closes every stream, WebSockets with [`crate::CLOSE_SEAT_LOST`] and this sentence of at most 123 bytes: the seats
    /// behind this gateway are about to go away. Whoever comes back is let in while they last.
    pub fn seats_leave(&self, sentence: &str) {
        self.leases.lose(sentence);
        self.carrier.upstreams.clear();
    }

    /// Closes every stream, WebSockets with [`crate::CLOSE_RESTART`], and takes no more. Returns when all of them are
    /// closed, or a few seconds later.
    pub async fn shutdown(&self) {
        self.leases.close();
        self.carrier.upstreams.clear();
        self.carrier.tracker.close();
        let patience = self.config.limits.goodbye * 3;
        if tokio::time::timeout(patience, self.carrier.tracker.wait()).await.is_err() {
            tracing::warn!("some streams did not end in time");
        }
    }

    /// Serves a request for a caller whom the owner of this gateway has authenticated by other means than a seat token.
    /// The request's path is that within the seat, as [`Gateway::router`] sees it. `claims` say who it is and how long
    /// streams may stay open; as no page can be behind it by accident, it counts as shown by `Authorization`.
    pub async fn serve_trusted(&self, claims: SeatClaims, request: Request) -> Response {
        match self.trust(claims, request).await {
            Ok(response) => response,
            Err(refusal) => refusal.into_response(),
        }
    }

    async fn trust(&self, claims: SeatClaims, request: Request) -> Result<Response, Refusal> {
        headers::check_size(request.headers(), self.config.limits.header_bytes)?;
        check_method(request.method())?;
        let key = claims.seat_key();
        if let Some(rest) = request.uri().path().strip_prefix("/preview/") {
            let rest = rest.to_owned();
            return sandboxed::serve(self, &key, &rest, request).await;
        }
        let is_upgrade = request.headers().contains_key(header::UPGRADE);
        let source = Source::Authorization;
        check_origin(&self.config, request.method(), request.headers(), source, is_upgrade)?;
        let route = self.locate(&claims).await?;
        let lease = self.leases.extend(&claims)?;
        // Without a token there is nothing to put into a cookie, which only a token shown by `Authorization` gets.
        let source = Source::Subprotocol;
        let admitted = Admitted { claims: Arc::new(claims), route, lease, source, token: String::new() };
        self.dispatch(&key, admitted, request).await
    }

    async fn dispatch(
        &self,
        key: &SeatKey,
        admitted: Admitted,
        request: Request,
    ) -> Result<Response, Refusal> {
        match (request.uri().path(), request.method()) {
            ("/auth", &Method::POST) => self.set_cookie(key, &admitted),
            ("/previews", &Method::POST) => {
                let (parts, body) = request.into_parts();
                crate::previews::create(self, key, &admitted, &parts.headers, body).await
            }
            ("/auth" | "/previews", _) => Err(Refusal::method_not_allowed("only POST is for this path")),
            _ => self.to_workspace(admitted, request).await,
        }
    }

    fn verified(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<SeatClaims>>> {
        self.verified.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn verify(&self, token: &str) -> Result<Arc<SeatClaims>, TokenError> {
        let now = Timestamp::now().as_second();
        if let Some(claims) = self.verified().get(token) {
            return if claims.exp > now { Ok(claims.clone()) } else { Err(TokenError::Expired) };
        }
        let verifier = self.verifier.read().unwrap_or_else(PoisonError::into_inner);
        let claims = Arc::new(verifier.verify(token)?);
        let mut verified = self.verified();
        if verified.len() >= VERIFIED_TOKENS {
            verified.retain(|_, claims| claims.exp > now);
        }
        if verified.len() < VERIFIED_TOKENS {
            verified.insert(token.to_owned(), claims.clone());
        }
        Ok(claims)
    }

    /// Checks token, seat, origin, generation and session, in that order, and extends the lease.
    async fn admit(&self, key: &SeatKey, parts: &Parts, is_upgrade: bool) -> Result<Admitted, Refusal> {
        let shown = Credentials::of(&parts.headers)?;
        let mut refused = TokenError::Invalid;
        let mut foreign = false;
        let mut good = None;
        for token in &shown.tokens {
            match self.verify(token) {
                Ok(claims) if claims.workshop == key.workshop && claims.seat == key.seat => {
                    good = Some((claims, *token));
                    break;
                }
                Ok(_) => foreign = true,
                Err(TokenError::Expired) => refused = TokenError::Expired,
                Err(TokenError::Invalid) => {}
            }
        }
        let Some((claims, token)) = good else {
            return Err(if foreign {
                Refusal::forbidden("this token is for another seat")
            } else {
                Refusal::unauthorized(refused.to_string())
            });
        };
        check_origin(&self.config, &parts.method, &parts.headers, shown.source, is_upgrade)?;
        let route = self.locate(&claims).await?;
        let lease = self.leases.extend(&claims)?;
        Ok(Admitted { claims, route, lease, source: shown.source, token: token.to_owned() })
    }

    pub(crate) async fn locate(&self, claims: &SeatClaims) -> Result<SeatRoute, Refusal> {
        let route = self.directory.locate(claims).await?;
        if route.generation != claims.generation {
            return Err(Refusal::unauthorized("the seat was made anew; ask for a new token"));
        }
        Ok(route)
    }

    fn set_cookie(&self, key: &SeatKey, admitted: &Admitted) -> Result<Response, Refusal> {
        if admitted.source != Source::Authorization {
            return Err(Refusal::unauthorized("show the seat token by Authorization: Bearer"));
        }
        let age = (admitted.claims.exp - Timestamp::now().as_second()).max(0);
        let secure = if self.config.secure_cookies { "; Secure" } else { "" };
        let cookie = format!(
            "{SEAT_COOKIE}={}; Path={}; Max-Age={age}; HttpOnly; SameSite=Strict{secure}",
            admitted.token,
            endpoint_path(key)
        );
        let mut value = HeaderValue::from_str(&cookie)
            .map_err(|_| Refusal::unauthorized("the seat token is not valid"))?;
        value.set_sensitive(true);
        let mut response = StatusCode::NO_CONTENT.into_response();
        response.headers_mut().insert(header::SET_COOKIE, value);
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Ok(response)
    }

    async fn to_workspace(&self, admitted: Admitted, mut request: Request) -> Result<Response, Refusal> {
        let upgrade = Upgrade::take(&mut request, true)?;
        let carries = if upgrade.is_some() { Carries::Upgrade } else { Carries::Request };
        let stream = self.leases.open(&admitted.lease, carries, admitted.route.generation)?;
        let (mut parts, body) = request.into_parts();
        let (offered, bearer) = split_protocols(&parts.headers);
        headers::for_workspace(&mut parts.headers);
        let mut secret = HeaderValue::from_str(admitted.route.secret.expose_secret())
            .map_err(|_| Refusal::seat_unreachable("the seat's secret can't be sent"))?;
        secret.set_sensitive(true);
        parts.headers.insert(SECRET_HEADER, secret);
        let is_upgrade = upgrade.is_some();
        if let Some(upgrade) = &upgrade {
            upgrade.ask(&mut parts.headers);
            if let Some(offered) = offered {
                parts.headers.insert(header::SEC_WEBSOCKET_PROTOCOL, offered);
            }
        }
        let request = outgoing(parts, if is_upgrade { Body::empty() } else { body });
        let mut response =
            self.carrier.exchange(&admitted.route, SeatPort::Workspace, request, upgrade, stream).await?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            answer_protocol(response.headers_mut(), bearer);
        } else {
            headers::from_workspace(response.headers_mut());
        }
        Ok(response)
    }
}

/// A browser gives up a WebSocket when it offered subprotocols and none was chosen (WHATWG WebSockets, "establish a
/// WebSocket connection"). So when the seat chose none, the offer that carried the token is given back to its sender.
fn answer_protocol(headers: &mut HeaderMap, bearer: Option<HeaderValue>) {
    if let Some(mut bearer) = bearer
        && !headers.contains_key(header::SEC_WEBSOCKET_PROTOCOL)
    {
        bearer.set_sensitive(true);
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, bearer);
    }
}

/// The path of a seat's endpoint.
pub(crate) fn endpoint_path(key: &SeatKey) -> String {
    format!("/proxy/{}/{}", key.workshop, key.seat)
}

/// A request in origin form, as HTTP/1.1, without anything that was tied to the client's connection.
pub(crate) fn outgoing(parts: Parts, body: Body) -> Request {
    let mut request = Request::new(body);
    *request.method_mut() = parts.method;
    *request.headers_mut() = parts.headers;
    if let Some(path) = parts.uri.path_and_query() {
        *request.uri_mut() = Uri::from(path.clone());
    }
    request
}

async fn at_seat(State(gateway): State<Arc<Gateway>>, params: RawPathParams, request: Request) -> Response {
    match serve(&gateway, &params, request).await {
        Ok(response) => response,
        Err(refusal) => refusal.into_response(),
    }
}

async fn serve(gateway: &Gateway, params: &RawPathParams, request: Request) -> Result<Response, Refusal> {
    headers::check_size(request.headers(), gateway.config.limits.header_bytes)?;
    let key = seat_of(params).ok_or_else(|| Refusal::not_found("there is no such seat"))?;
    let path = request.uri().path();
    if let Some(rest) = path.strip_prefix("/preview/") {
        let rest = rest.to_owned();
        return sandboxed::serve(gateway, &key, &rest, request).await;
    }
    check_method(request.method())?;
    let is_upgrade = request.headers().contains_key(header::UPGRADE);
    let (parts, body) = request.into_parts();
    let admitted = gateway.admit(&key, &parts, is_upgrade).await?;
    gateway.dispatch(&key, admitted, Request::from_parts(parts, body)).await
}

fn check_method(method: &Method) -> Result<(), Refusal> {
    if matches!(*method, Method::CONNECT | Method::TRACE) {
        return Err(Refusal::method_not_allowed("this method is not for seats"));
    }
    Ok(())
}

fn seat_of(params: &RawPathParams) -> Option<SeatKey> {
    let find = |wanted: &str| params.iter().find(|(name, _)| *name == wanted).map(|(_, value)| value);
    Some(SeatKey { workshop: find("workshop")?.parse().ok()?, seat: find("seat")?.parse().ok()? })
}

async fn sweep(gateway: Weak<Gateway>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        let Some(gateway) = gateway.upgrade() else { return };
        gateway.leases.sweep();
        gateway.carrier.upstreams.sweep();
        gateway.previews.sweep();
        let now = Timestamp::now().as_second();
        gateway.verified().retain(|_, claims| claims.exp > now);
    }
}
