//! Pulling from a registry, against one on loopback that does what registries do, and what they should not.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::collections::HashMap;
use std::fs;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use clarateach_rootfs::Digest;
use serde_json::{Value, json};
use support::layer::{Layer, base};
use support::oci::{Store, compress, config, descriptor, manifest};
use support::{Bench, fsck, have, names, refused, run};

const TOKEN: &str = "a-token-for-this-test";

/// How a registry behaves.
#[derive(Debug, Clone, Copy, Default)]
struct Behaviour {
    /// Wants a token, and gives one to everybody.
    token: bool,
    /// Wants a token, and gives one only to this user.
    login: bool,
    /// Breaks off the first time a layer is fetched.
    breaks_once: bool,
    /// Breaks off every layer.
    breaks: bool,
    /// Sends layers with a byte changed.
    damages: bool,
    /// Sends more than it said.
    too_much: bool,
    /// Answers with 503.
    down: bool,
    /// Answers with 429 the first time it is asked for anything.
    busy: bool,
    /// Answers with this instead of a layer.
    layers_give: Option<u16>,
    /// Sends another manifest than the one whose digest was asked for.
    swaps: bool,
}

#[derive(Debug)]
struct Registry {
    behaviour: Behaviour,
    address: String,
    blobs: HashMap<String, Vec<u8>>,
    manifests: HashMap<String, Vec<u8>>,
    layers: Vec<String>,
    requests: Mutex<Vec<String>>,
}

struct Running {
    registry: Arc<Registry>,
    _runtime: tokio::runtime::Runtime,
}

impl Running {
    fn image(&self) -> String {
        format!("docker://{}/team/image:v1", self.registry.address)
    }

    fn requests_for(&self, part: &str) -> usize {
        self.registry.requests.lock().unwrap().iter().filter(|path| path.contains(part)).count()
    }
}

/// Serves an image with these layers, behind an index for two machines.
fn serve(layers: &[(Vec<u8>, Store)], behaviour: Behaviour) -> Running {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let (mut blobs, mut manifests) = (HashMap::new(), HashMap::new());
    let mut descriptors = Vec::new();
    let mut layer_digests = Vec::new();
    for (tar, store) in layers {
        let blob = compress(tar, *store);
        let digest = Digest::of(&blob);
        descriptors.push(descriptor("application/vnd.oci.image.layer.v1.tar+gzip", &digest, blob.len()));
        layer_digests.push(digest.to_string());
        blobs.insert(digest.to_string(), blob);
    }
    let diff_ids: Vec<_> = layers.iter().map(|(tar, _)| Digest::of(tar).to_string()).collect();
    let config = config(&diff_ids);
    let config_digest = Digest::of(&config);
    let image = manifest(
        &descriptor("application/vnd.oci.image.config.v1+json", &config_digest, config.len()),
        &descriptors,
    );
    blobs.insert(config_digest.to_string(), config);
    let entry = |digest: &Digest, architecture: &str| {
        let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", digest, image.len());
        entry["platform"] = json!({"os": "linux", "architecture": architecture});
        entry
    };
    let list: Vec<Value> = vec![
        entry(&Digest::of(b"for another machine"), "s390x"),
        entry(&Digest::of(&image), clarateach_rootfs::manifest::architecture()),
    ];
    let index = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": list,
    });
    manifests.insert("v1".to_owned(), serde_json::to_vec(&index).unwrap());
    manifests.insert(Digest::of(&image).to_string(), image);
    let registry = Arc::new(Registry {
        behaviour,
        address: listener.local_addr().unwrap().to_string(),
        blobs,
        manifests,
        layers: layer_digests,
        requests: Mutex::default(),
    });
    let router = Router::new()
        .route("/token", get(token))
        .route("/v2/", get(root))
        .route("/v2/team/image/manifests/{reference}", get(get_manifest))
        .route("/v2/team/image/blobs/{digest}", get(get_blob))
        .with_state(Arc::clone(&registry));
    runtime.spawn(async move { axum::serve(listener, router).await.unwrap() });
    Running { registry, _runtime: runtime }
}

type Shared = State<Arc<Registry>>;

/// 401 with where to get a token, unless there is one.
fn challenge(registry: &Registry, headers: &HeaderMap) -> Option<Response> {
    if registry.behaviour.down {
        return Some(StatusCode::SERVICE_UNAVAILABLE.into_response());
    }
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let wanted = registry.behaviour.token || registry.behaviour.login;
    if !wanted || given == format!("Bearer {TOKEN}") {
        return None;
    }
    let value = format!(
        "Bearer realm=\"http://{}/token\",service=\"test\",scope=\"repository:team/image:pull\"",
        registry.address
    );
    Some((StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, value)], "{}").into_response())
}

async fn root(State(registry): Shared, headers: HeaderMap) -> Response {
    challenge(&registry, &headers).unwrap_or_else(|| "{}".into_response())
}

async fn token(
    State(registry): Shared,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    // "user:secret"
    if registry.behaviour.login && given != "Basic dXNlcjpzZWNyZXQ=" {
        return (StatusCode::UNAUTHORIZED, "no").into_response();
    }
    assert_eq!(query.get("scope").map(String::as_str), Some("repository:team/image:pull"));
    axum::Json(json!({"token": TOKEN})).into_response()
}

async fn get_manifest(
    State(registry): Shared,
    Path(reference): Path<String>,
    headers: HeaderMap,
) -> Response {
    if let Some(refusal) = challenge(&registry, &headers) {
        return refusal;
    }
    if registry.behaviour.busy {
        let mut requests = registry.requests.lock().unwrap();
        if !requests.contains(&reference) {
            requests.push(reference);
            return StatusCode::TOO_MANY_REQUESTS.into_response();
        }
    }
    match registry.manifests.get(&reference) {
        Some(json) if registry.behaviour.swaps && reference != "v1" => {
            [&json[..], b" "].concat().into_response()
        }
        Some(json) => {
            let media_type = if reference == "v1" { "index" } else { "manifest" };
            let media_type = format!("application/vnd.oci.image.{media_type}.v1+json");
            ([(header::CONTENT_TYPE, media_type)], json.clone()).into_response()
        }
        None => {
            let error = json!({"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown", "detail": {}}]});
            (StatusCode::NOT_FOUND, axum::Json(error)).into_response()
        }
    }
}

async fn get_blob(State(registry): Shared, Path(digest): Path<String>, headers: HeaderMap) -> Response {
    if let Some(refusal) = challenge(&registry, &headers) {
        return refusal;
    }
    let first = {
        let mut requests = registry.requests.lock().unwrap();
        let first = !requests.contains(&digest);
        requests.push(digest.clone());
        first
    };
    let Some(blob) = registry.blobs.get(&digest) else { return StatusCode::NOT_FOUND.into_response() };
    let mut blob = blob.clone();
    let is_layer = registry.layers.contains(&digest);
    let behaviour = registry.behaviour;
    if behaviour.busy && first {
        return StatusCode::TOO_MANY_REQUESTS.into_response();
    }
    if let Some(code) = behaviour.layers_give.filter(|_| is_layer) {
        return StatusCode::from_u16(code).unwrap().into_response();
    }
    if is_layer && behaviour.damages {
        let middle = blob.len() / 2;
        blob[middle] ^= 1;
    }
    if is_layer && behaviour.too_much {
        blob.extend_from_slice(b"more");
    }
    let range = headers
        .get(header::RANGE)
        .and_then(|value| value.to_str().ok())
        .map(|text| text.trim_start_matches("bytes=").trim_end_matches('-').parse::<usize>().unwrap());
    let (status, rest) = match range {
        Some(from) => (StatusCode::PARTIAL_CONTENT, blob[from..].to_vec()),
        None => (StatusCode::OK, blob),
    };
    if is_layer && (behaviour.breaks || behaviour.breaks_once && first) {
        // The stated length is right, and the connection ends half-way.
        let half = rest[..rest.len() / 2].to_vec();
        let pieces = [Ok(half), Err(std::io::Error::other("gone"))];
        let body = Body::from_stream(tokio_stream_of(pieces));
        return (status, [(header::CONTENT_LENGTH, rest.len().to_string())], body).into_response();
    }
    (status, rest).into_response()
}

fn tokio_stream_of<const N: usize>(
    pieces: [Result<Vec<u8>, std::io::Error>; N],
) -> impl futures_util::Stream<Item = Result<Vec<u8>, std::io::Error>> + Send + 'static {
    futures_util::stream::iter(pieces)
}

fn layers() -> Vec<(Vec<u8>, Store)> {
    let noise: Vec<u8> = (0..400_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
    vec![
        (base().file("noise", noise).done(), Store::Gzip),
        (Layer::new().file("etc/motd", "hello").done(), Store::Zstd),
        (Layer::new().file("plain", "plain").done(), Store::Plain),
    ]
}

fn builder(bench: &Bench, image: &str) -> std::process::Command {
    let mut command = bench.builder(image, &bench.out().join("rootfs.ext4"));
    // Nobody's credentials but the test's.
    command
        .args(["--size", "64M"])
        .env("DOCKER_CONFIG", bench.path("docker"))
        .env("HOME", bench.path("home"));
    command
}

#[test]
fn an_image_is_pulled_with_a_token_and_only_once() {
    let bench = Bench::new();
    let served = serve(&layers(), Behaviour { token: true, ..Behaviour::default() });
    run(&mut builder(&bench, &served.image()));
    let output = bench.out().join("rootfs.ext4");
    if have("an_image_is_pulled_with_a_token_and_only_once", "e2fsck", "e2fsprogs") {
        fsck(&output);
    }
    // The same bytes as from a directory.
    let dir = bench.path("oci");
    support::oci::layout(&dir, &layers());
    let other = bench.path("other.ext4");
    run(bench.builder(&format!("oci:{}", dir.display()), &other).args(["--size", "64M"]));
    assert!(fs::read(&output).unwrap() == fs::read(&other).unwrap());

    assert_eq!(
        served.registry.layers.iter().map(|digest| served.requests_for(digest)).collect::<Vec<_>>(),
        [1, 1, 1]
    );
    let text = run(&mut builder(&bench, &served.image()));
    assert!(text.contains("unchanged"), "{text}");
    // With the output gone, the layers come from the cache.
    fs::remove_file(&output).unwrap();
    run(&mut builder(&bench, &served.image()));
    assert_eq!(served.requests_for(&served.registry.layers[0]), 1);
}

#[test]
fn a_login_is_used_and_its_lack_is_said() {
    let bench = Bench::new();
    let served = serve(&layers(), Behaviour { login: true, ..Behaviour::default() });
    let out = builder(&bench, &served.image()).output().unwrap();
    refused(&out, 3, &["may not be pulled", "docker login"]);
    fs::create_dir(bench.path("docker")).unwrap();
    let auth = json!({"auths": {&served.registry.address: {"auth": "dXNlcjpzZWNyZXQ="}}});
    fs::write(bench.path("docker/config.json"), auth.to_string()).unwrap();
    let out = builder(&bench, &served.image()).arg("--verbose").output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "{said}");
    assert!(!said.contains("secret") && !said.contains(TOKEN), "{said}");
}

#[test]
fn a_connection_that_breaks_off_is_taken_up_again() {
    let bench = Bench::new();
    let served = serve(&layers(), Behaviour { breaks_once: true, token: true, ..Behaviour::default() });
    run(&mut builder(&bench, &served.image()));
    assert_eq!(served.requests_for(&served.registry.layers[0]), 2);
}

#[test]
fn a_registry_that_is_busy_is_asked_again() {
    let bench = Bench::new();
    let served = serve(&layers(), Behaviour { busy: true, token: true, ..Behaviour::default() });
    run(&mut builder(&bench, &served.image()));
    assert_eq!(served.requests_for(&served.registry.layers[0]), 2);
}

#[test]
fn faults_of_a_registry_are_named() {
    let cases: [(Behaviour, i32, &[&str]); 8] = [
        (Behaviour { layers_give: Some(500), ..Behaviour::default() }, 3, &["layer sha256:", "answers 500"]),
        (Behaviour { layers_give: Some(404), ..Behaviour::default() }, 3, &["does not have it"]),
        (Behaviour { layers_give: Some(403), ..Behaviour::default() }, 3, &["docker login"]),
        (Behaviour { swaps: true, ..Behaviour::default() }, 4, &["getting the manifest", "digest"]),
        (Behaviour { breaks: true, ..Behaviour::default() }, 3, &["layer sha256:", "registry "]),
        (Behaviour { damages: true, ..Behaviour::default() }, 4, &["layer sha256:"]),
        (Behaviour { too_much: true, ..Behaviour::default() }, 4, &["layer sha256:"]),
        (Behaviour { down: true, ..Behaviour::default() }, 3, &["503"]),
    ];
    for (behaviour, code, parts) in cases {
        let bench = Bench::new();
        let output = bench.out().join("rootfs.ext4");
        fs::write(&output, "the old one").unwrap();
        let served = serve(&layers(), behaviour);
        let out = builder(&bench, &served.image()).output().unwrap();
        refused(&out, code, parts);
        assert_eq!(fs::read_to_string(&output).unwrap(), "the old one");
        assert_eq!(names(&bench.out()), ["rootfs.ext4"]);
        assert!(
            names(&bench.path("cache/layers")).len() < 3,
            "a layer that is not what it should be was kept"
        );
    }
}

#[test]
fn what_a_registry_does_not_have_is_not_found() {
    let bench = Bench::new();
    let served = serve(&layers(), Behaviour::default());
    let image = format!("docker://{}/team/image:v2", served.registry.address);
    refused(&builder(&bench, &image).output().unwrap(), 3, &["not found", "check name and tag"]);
    // Nobody listens there.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let image = format!("docker://{closed}/team/image:v1");
    refused(&builder(&bench, &image).output().unwrap(), 3, &[&closed.to_string(), "can't be reached"]);
    // A plain name goes to the daemon first; there is none here.
    let mut plain = builder(&bench, &format!("{closed}/team/image:v1"));
    plain.env("DOCKER_HOST", "unix:///nowhere/docker.sock");
    refused(&plain.output().unwrap(), 3, &["no Docker daemon", "/nowhere/docker.sock", "can't be reached"]);
    let mut found = builder(&bench, &format!("{}/team/image:v1", served.registry.address));
    run(found.env("DOCKER_HOST", "unix:///nowhere/docker.sock"));
}
