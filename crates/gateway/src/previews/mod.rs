//! Previews: what a learner's own server shows, where it can't act as the learner or the instructor.
//!
//! With a preview domain every preview has an origin of its own ([`own_origin`]); without one it is served beneath the
//! seat's endpoint in a sandbox ([`sandboxed`]). Either way it lives on the lease of the session that made it.

pub(crate) mod host;
pub(crate) mod own_origin;
mod page;
pub(crate) mod sandboxed;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use clarateach_ids::{SeatKey, SessionId};
use clarateach_runtime::SeatPort;
use clarateach_seatproto::ports::FIRST_PORT;
use clarateach_seatproto::token::{Role, SeatClaims};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use crate::gateway::{Admitted, Gateway, endpoint_path};
use crate::lease::Lease;
use crate::{Refusal, WebOrigin};

/// How long a capability may be used to enter a preview.
const CAPABILITY_LIFE: Duration = Duration::from_secs(60);
/// Capabilities of a preview that wait to be used; the oldest goes.
const CAPABILITIES: usize = 8;
/// Characters of an id: 5 bits each.
const ID_CHARACTERS: usize = 26;
/// Largest body of a call about previews.
const BODY_BYTES: usize = 4096;

/// `POST {endpoint}/previews`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewPreview {
    port: u32,
}

/// Its answer.
#[derive(Debug, Serialize)]
struct PreviewBody {
    preview: PreviewView,
}

#[derive(Debug, Serialize)]
struct PreviewView {
    id: String,
    port: u16,
    /// Where it lives, with a preview domain.
    origin: Option<String>,
    /// To be posted to `{origin}/.clarateach/enter` once, within a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    capability: Option<String>,
    /// Where it is served, without a preview domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
}

/// Whose preview of which port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Owner {
    session: SessionId,
    seat: SeatKey,
    instructor: bool,
    port: u16,
}

/// One preview.
#[derive(Debug)]
pub(crate) struct Preview {
    owner: Owner,
    pub(crate) id: String,
    pub(crate) port: u16,
    pub(crate) claims: Arc<SeatClaims>,
    pub(crate) lease: Arc<Lease>,
    /// What the preview origin's cookie holds.
    cookie: String,
    capabilities: Arc<Mutex<Vec<(String, Instant)>>>,
}

impl Preview {
    /// Whether the session it belongs to may still use its seat.
    pub(crate) fn lives(&self) -> bool {
        self.lease.holds(self.claims.generation)
    }

    /// A new right to enter, once.
    fn issue(&self) -> String {
        let capability = random_label(52);
        let mut waiting = self.capabilities.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= CAPABILITIES {
            waiting.remove(0);
        }
        waiting.push((capability.clone(), Instant::now()));
        capability
    }

    /// Uses up a right to enter: the cookie's value.
    fn enter(&self, shown: &str) -> Option<&str> {
        let mut waiting = self.capabilities.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|(_, since)| since.elapsed() < CAPABILITY_LIFE);
        let place = waiting.iter().position(|(capability, _)| is_same(capability, shown))?;
        waiting.remove(place);
        Some(&self.cookie)
    }

    fn knows_cookie(&self, shown: &str) -> bool {
        is_same(&self.cookie, shown)
    }
}

fn is_same(secret: &str, shown: &str) -> bool {
    secret.as_bytes().ct_eq(shown.as_bytes()).into()
}

/// All previews of a gateway, in memory.
#[derive(Debug, Default)]
pub(crate) struct Previews {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    by_id: HashMap<String, Arc<Preview>>,
    by_owner: HashMap<Owner, String>,
}

impl Previews {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self, id: &str) -> Option<Arc<Preview>> {
        self.table().by_id.get(id).cloned()
    }

    /// The preview of `port` for the holder of `claims`: the same id each time, so that the origin stays.
    fn open(
        &self,
        claims: &Arc<SeatClaims>,
        lease: &Arc<Lease>,
        port: u16,
        limit: usize,
    ) -> Result<Arc<Preview>, Refusal> {
        let owner = Owner {
            session: claims.session.clone(),
            seat: claims.seat_key(),
            instructor: claims.role == Role::Instructor,
            port,
        };
        let mut table = self.table();
        let old = table.by_owner.get(&owner).and_then(|id| table.by_id.get(id)).cloned();
        if let Some(old) = &old
            && Arc::ptr_eq(&old.lease, lease)
            && old.claims.generation == claims.generation
        {
            return Ok(old.clone());
        }
        let own = |other: &&Owner| (&other.session, &other.seat) == (&owner.session, &owner.seat);
        if old.is_none() && table.by_owner.keys().filter(own).count() >= limit {
            return Err(Refusal::too_many_streams(format!(
                "this session has previews of {limit} ports already"
            )));
        }
        let preview = Arc::new(Preview {
            id: old.as_ref().map_or_else(|| random_label(ID_CHARACTERS), |old| old.id.clone()),
            cookie: old.as_ref().map_or_else(|| random_label(52), |old| old.cookie.clone()),
            capabilities: old.map_or_else(Arc::default, |old| old.capabilities.clone()),
            owner: owner.clone(),
            port,
            claims: claims.clone(),
            lease: lease.clone(),
        });
        table.by_owner.insert(owner, preview.id.clone());
        table.by_id.insert(preview.id.clone(), preview.clone());
        Ok(preview)
    }

    /// Forgets previews whose lease is forgotten.
    pub(crate) fn sweep(&self) {
        let mut table = self.table();
        let Table { by_id, by_owner } = &mut *table;
        by_id.retain(|_, preview| {
            let keep = !preview.lease.is_forgotten();
            if !keep {
                by_owner.remove(&preview.owner);
            }
            keep
        });
    }
}

/// A random DNS label: a letter first, then letters and digits that are hard to misread.
fn random_label(characters: usize) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let mut bytes = vec![0u8; characters];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    let random = bytes.iter().map(|byte| char::from(ALPHABET[usize::from(byte & 31)]));
    std::iter::once('p').chain(random).collect()
}

/// `POST {endpoint}/previews`.
pub(crate) async fn create(
    gateway: &Gateway,
    key: &SeatKey,
    admitted: &Admitted,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let bytes = axum::body::to_bytes(body, BODY_BYTES).await.map_err(|_| {
        Refusal::too_large(format!("the body has more than {BODY_BYTES} bytes, or broke off"))
    })?;
    let wanted: NewPreview = serde_json::from_slice(&bytes).map_err(|error| {
        let problem = if error.is_data() { Refusal::invalid_field } else { Refusal::bad_request };
        problem(format!("send {{\"port\": n}}: {error}"))
    })?;
    let port = u16::try_from(wanted.port).ok().filter(|port| *port >= FIRST_PORT).ok_or_else(|| {
        Refusal::invalid_field(format!(
            "port must be from {FIRST_PORT} to 65535: others are not a learner's own"
        ))
    })?;
    let limit = gateway.config.limits.previews_per_session;
    let preview = gateway.previews.open(&admitted.claims, &admitted.lease, port, limit)?;
    let view = match &gateway.config.previews {
        Some(domain) => PreviewView {
            origin: Some(domain.origin(&preview.id).to_string()),
            capability: Some(preview.issue()),
            url: None,
            id: preview.id.clone(),
            port,
        },
        None => PreviewView {
            origin: None,
            capability: None,
            url: Some(format!(
                "{}{}/preview/{}/",
                public_base(gateway, headers),
                endpoint_path(key),
                preview.id
            )),
            id: preview.id.clone(),
            port,
        },
    };
    let mut response = (StatusCode::CREATED, axum::Json(PreviewBody { preview: view })).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// The public origin by which the caller came, else the canonical one, else none: a URL relative to the caller's.
fn public_base(gateway: &Gateway, headers: &HeaderMap) -> String {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let origins = &gateway.config.public_origins;
    let came_by = origins.iter().find(|origin| origin.authority().eq_ignore_ascii_case(host));
    came_by.or(origins.first()).map(ToString::to_string).unwrap_or_default()
}

/// What an app believes its origin to be. Development servers trust `localhost` and no other name, and compare `Host`
/// with `Origin`; so both say this, and redirects to it are turned back.
fn app_origin(port: u16) -> String {
    format!("http://localhost:{port}")
}

/// Where a redirect of the app leads, as a path, when it leads to the app itself.
fn own_path(location: &str, port: u16) -> Option<&str> {
    let (scheme, rest) = location.split_once("://")?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let (host, at) = authority.rsplit_once(':')?;
    let own = matches!(scheme, "http" | "https")
        && matches!(host, "localhost" | "127.0.0.1" | "0.0.0.0" | "[::1]")
        && at.parse() == Ok(port);
    own.then_some(path)
}

/// Points `Host`, `Origin` and `Referer` at the app itself.
fn point_at_app(headers: &mut HeaderMap, port: u16, own: Option<&WebOrigin>) {
    let set = |headers: &mut HeaderMap, name, text: &str| {
        if let Ok(value) = HeaderValue::from_str(text) {
            headers.insert(name, value);
        }
    };
    let app = app_origin(port);
    set(headers, header::HOST, &app["http://".len()..]);
    if headers.contains_key(header::ORIGIN) {
        set(headers, header::ORIGIN, &app);
    }
    let referer = headers.remove(header::REFERER);
    let path = referer.as_ref().zip(own).and_then(|(referer, own)| {
        referer.to_str().ok()?.strip_prefix(own.as_str()).filter(|path| path.starts_with('/'))
    });
    if let Some(path) = path {
        set(headers, header::REFERER, &format!("{app}{path}"));
    }
}

/// Turns a redirect to the app itself into one that works where the preview is seen: beneath `prefix`.
fn turn_location(headers: &mut HeaderMap, port: u16, prefix: &str) {
    let Some(location) = headers.get(header::LOCATION).and_then(|value| value.to_str().ok()) else { return };
    let path = match own_path(location, port) {
        Some(path) if path.starts_with('/') => path,
        Some(path) => &format!("/{path}"),
        None if location.starts_with('/') && !location.starts_with("//") => location,
        None => return,
    };
    // "//" would lead to another host.
    let path = path.trim_start_matches('/');
    if let Ok(value) = HeaderValue::from_str(&format!("{prefix}/{path}")) {
        headers.insert(header::LOCATION, value);
    }
}

/// The port to dial.
const fn seat_port(preview: &Preview) -> SeatPort {
    SeatPort::App(preview.port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_dns_labels_that_nobody_guesses() {
        let id = random_label(ID_CHARACTERS);
        assert!(id.len() >= 26 && id.len() < 64);
        assert!(id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()));
        assert_ne!(id, random_label(ID_CHARACTERS));
    }

    #[test]
    fn redirects_to_the_app_itself_stay_in_the_preview() {
        let turned = |location: &str, prefix: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::LOCATION, location.parse().unwrap());
            turn_location(&mut headers, 3000, prefix);
            headers[header::LOCATION].to_str().unwrap().to_owned()
        };
        assert_eq!(turned("http://localhost:3000/a?b#c", ""), "/a?b#c");
        assert_eq!(turned("http://127.0.0.1:3000", ""), "/");
        assert_eq!(turned("http://localhost:3000?x", "/p"), "/p/?x");
        assert_eq!(turned("/login", "/p"), "/p/login");
        assert_eq!(turned("login", "/p"), "login");
        assert_eq!(turned("http://localhost:3000//evil.example", ""), "/evil.example");
        assert_eq!(turned("http://localhost:4000/", ""), "http://localhost:4000/");
        assert_eq!(turned("https://example.org/", "/p"), "https://example.org/");
    }
}
