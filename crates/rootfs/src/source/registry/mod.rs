//! Images of a registry, pulled directly.
//!
//! Source: OCI distribution-spec. The client library does names, tokens and requests; blobs stream into nameless files that
//! the build reads while they grow.

mod fault;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use docker_credential::DockerCredential;
use futures_util::StreamExt;
use oci_client::client::{BlobResponse, ClientConfig, ClientProtocol};
use oci_client::errors::OciDistributionError;
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference, RegistryOperation};
use tokio::sync::Semaphore;

use self::fault::{ATTEMPTS, broken, describe, patiently, pause};
use super::{Found, Image, SourceError, in_manifest};
use crate::digest::Digest;
use crate::layer::blob::Bytes;
use crate::layer::cache::Cache;
use crate::layer::spool::Spool;
use crate::layer::{Layer, no_room};
use crate::manifest::{self, Config, Descriptor, Manifest};

const CONNECT: Duration = Duration::from_secs(10);
/// Without a byte for this long, a registry is taken to be gone.
const SILENCE: Duration = Duration::from_secs(30);
const AT_ONCE: usize = 3;
/// Indexes in indexes, at most this deep.
const DEEPEST: usize = 4;

const ACCEPTED: &[&str] = &[
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// Downloads that are going on; dropping it ends them.
#[derive(Debug)]
pub struct Fetching(#[expect(dead_code, reason = "held for its drop")] tokio::runtime::Runtime);

#[derive(Clone)]
struct Registry {
    client: Client,
    reference: Reference,
    host: String,
}

/// Looks an image up: manifests are read, layers are not.
pub(super) fn find(name: &str) -> Result<Found, SourceError> {
    let reference: Reference = name.parse().map_err(|error: oci_client::ParseError| {
        SourceError::BadName { name: name.to_owned(), reason: error.to_string() }
    })?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| SourceError::Registry {
        registry: reference.registry().to_owned(),
        reason: error.to_string(),
    })?;
    let registry = Registry::new(reference)?;
    let (config, layers) = runtime.block_on(registry.manifest())?;
    Ok(Found::new(config.digest, move |cache| registry.open(runtime, &config, &layers, cache)))
}

impl Registry {
    fn new(reference: Reference) -> Result<Self, SourceError> {
        let host = reference.resolve_registry().to_owned();
        let protocol = if is_loopback(&host) { ClientProtocol::Http } else { ClientProtocol::Https };
        let config = ClientConfig {
            protocol,
            connect_timeout: Some(CONNECT),
            read_timeout: Some(SILENCE),
            user_agent: concat!("clarateach-rootfs-builder/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        let client = Client::try_from(config)
            .map_err(|error| SourceError::Registry { registry: host.clone(), reason: error.to_string() })?;
        Ok(Self { client, reference, host })
    }

    /// The manifest for this machine.
    async fn manifest(&self) -> Result<(Descriptor, Vec<Descriptor>), SourceError> {
        let auth = credentials(&self.host);
        let ask = || self.client.auth(&self.reference, &auth, RegistryOperation::Pull);
        patiently(ask).await.map_err(|error| describe(&self.reference, "asking for a token", error))?;
        let mut reference = self.reference.clone();
        for _ in 0..DEEPEST {
            let pulled = patiently(|| self.client.pull_manifest_raw(&reference, &auth, ACCEPTED)).await;
            let (json, _) =
                pulled.map_err(|error| describe(&self.reference, "getting the manifest", error))?;
            match Manifest::parse(&json).map_err(in_manifest(&reference))? {
                Manifest::Image { config, layers } => return Ok((config, layers)),
                Manifest::Index(list) => {
                    let chosen = manifest::select(&list, None).map_err(in_manifest(&reference))?;
                    reference = self.reference.clone_with_digest(chosen.digest.to_string());
                }
            }
        }
        Err(SourceError::damaged(&self.reference, format!("more than {DEEPEST} indexes within one another")))
    }

    fn open(
        self,
        runtime: tokio::runtime::Runtime,
        config: &Descriptor,
        layers: &[Descriptor],
        cache: &Cache,
    ) -> Result<Image, SourceError> {
        let json = runtime.block_on(self.config(config))?;
        let parsed = Config::parse(&json).map_err(in_manifest(&self.reference))?;
        if parsed.diff_ids.len() != layers.len() {
            return Err(SourceError::damaged(
                &self.reference,
                "manifest and configuration disagree on the layers",
            ));
        }
        let mut opened = Vec::with_capacity(layers.len());
        let mut wanted = Vec::new();
        for (descriptor, &diff_id) in layers.iter().zip(&parsed.diff_ids) {
            if let Some(bytes) = cache.get(&diff_id).and_then(|file| Bytes::whole(file).ok()) {
                opened.push(Layer { bytes, digest: None, diff_id, plain: false });
                continue;
            }
            let file = cache.nameless_file().map_err(SourceError::NoRoom)?;
            let spool = Arc::new(Spool::new(file));
            wanted.push((descriptor.clone(), Arc::clone(&spool)));
            opened.push(Layer {
                bytes: Bytes::Spool(spool),
                digest: Some(descriptor.digest),
                diff_id,
                plain: false,
            });
        }
        let slots = Arc::new(Semaphore::new(AT_ONCE));
        // From the top, as the merge wants them.
        let registry = Arc::new(self);
        let fetch_all = {
            let registry = Arc::clone(&registry);
            async move {
                for (descriptor, spool) in wanted.into_iter().rev() {
                    let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
                    let registry = Arc::clone(&registry);
                    tokio::spawn(async move {
                        let done = registry.fetch(&descriptor, &spool).await;
                        spool.finish(done.as_ref().copied());
                        drop(slot);
                    });
                }
            }
        };
        runtime.spawn(fetch_all);
        let origin = format!("docker://{}", registry.reference);
        let Config { created, platform, .. } = parsed;
        let fetching = Some(Fetching(runtime));
        Ok(Image { config: config.digest, created, platform, layers: opened, origin, fetching })
    }

    async fn config(&self, descriptor: &Descriptor) -> Result<Vec<u8>, SourceError> {
        if descriptor.size > manifest::LARGEST {
            return Err(SourceError::damaged(&self.reference, "its configuration is too large"));
        }
        let digest = descriptor.digest.to_string();
        let stream = patiently(|| self.client.pull_blob_stream(&self.reference, &digest[..])).await;
        let stream = stream.map_err(|error| describe(&self.reference, "getting the configuration", error));
        let mut stream = stream?.stream;
        let mut json = Vec::new();
        while let Some(piece) = stream.next().await {
            let piece = piece.map_err(|error| match broken(&self.host, &error) {
                error if error.kind() == io::ErrorKind::InvalidData => {
                    SourceError::damaged(&self.reference, format!("its configuration: {error}"))
                }
                error => {
                    let reason = format!("getting the configuration: {error}");
                    SourceError::Registry { registry: self.host.clone(), reason }
                }
            })?;
            json.extend_from_slice(&piece);
            if json.len() as u64 > descriptor.size {
                break;
            }
        }
        if Digest::of(&json) != descriptor.digest {
            return Err(SourceError::damaged(&self.reference, "its configuration has a wrong digest"));
        }
        Ok(json)
    }

    /// Fetches a blob, going on where it broke off. Its digest is checked by whoever reads it.
    async fn fetch(&self, descriptor: &Descriptor, spool: &Spool) -> io::Result<()> {
        let mut last = io::Error::other("it was not tried");
        for attempt in 0..ATTEMPTS {
            tokio::time::sleep(pause(attempt)).await;
            let done = self.fetch_rest(descriptor, spool).await;
            if spool.len() == descriptor.size {
                return Ok(());
            }
            last = match done {
                Ok(()) => {
                    let reason = format!("it is cut off after {} of {} bytes", spool.len(), descriptor.size);
                    io::Error::new(io::ErrorKind::InvalidData, reason)
                }
                Err(Fetch::Broken(error)) => error,
                Err(Fetch::Final(error)) => return Err(error),
            };
        }
        Err(last)
    }

    async fn fetch_rest(&self, descriptor: &Descriptor, spool: &Spool) -> Result<(), Fetch> {
        let (digest, have) = (descriptor.digest.to_string(), spool.len());
        let request = async {
            if have == 0 {
                let stream = self.client.pull_blob_stream(&self.reference, &digest[..]).await?;
                return Ok((0, stream.stream));
            }
            match self.client.pull_blob_stream_partial(&self.reference, &digest[..], have, None).await? {
                BlobResponse::Partial(stream) => Ok((0, stream.stream)),
                BlobResponse::Full(stream) => Ok((have, stream.stream)),
            }
        };
        let (mut skip, mut stream) = request.await.map_err(|error: OciDistributionError| {
            if fault::is_missing(&error) {
                let reason =
                    format!("registry {} does not have it, although the manifest names it", self.host);
                return Fetch::Final(io::Error::new(io::ErrorKind::NotFound, reason));
            }
            let again = fault::passes(&error) || fault::is_silence(&error);
            let reason = io::Error::other(describe(&self.reference, "getting a layer", error).to_string());
            if again { Fetch::Broken(reason) } else { Fetch::Final(reason) }
        })?;
        while let Some(piece) = stream.next().await {
            let piece = piece.map_err(|error| Fetch::Broken(broken(&self.host, &error)))?;
            let known = skip.min(piece.len() as u64);
            skip -= known;
            if spool.len() + (piece.len() as u64 - known) > descriptor.size {
                let reason =
                    format!("registry {} sends more than the {} bytes it said", self.host, descriptor.size);
                return Err(Fetch::Final(io::Error::new(io::ErrorKind::InvalidData, reason)));
            }
            spool
                .append(&piece[known as usize..])
                .map_err(|error| Fetch::Final(io::Error::new(error.kind(), no_room(&error))))?;
        }
        Ok(())
    }
}

/// Why a blob, or the rest of it, did not come.
enum Fetch {
    /// Another attempt would end the same way.
    Final(io::Error),
    /// Another attempt may go on from here.
    Broken(io::Error),
}

/// Registries on this machine speak HTTP without TLS.
fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// What `docker login` stored; nobody's if nothing is stored.
fn credentials(host: &str) -> RegistryAuth {
    match docker_credential::get_credential(login(host)) {
        Ok(DockerCredential::UsernamePassword(user, password)) => RegistryAuth::Basic(user, password),
        Ok(DockerCredential::IdentityToken(_)) | Err(_) => RegistryAuth::Anonymous,
    }
}

/// The name under which `docker login` stores what is meant for a host.
fn login(host: &str) -> &str {
    if host == "docker.io" || host.ends_with(".docker.io") { "https://index.docker.io/v1/" } else { host }
}

#[cfg(test)]
mod tests {
    #[test]
    fn docker_hub_s_login_is_for_docker_hub_alone() {
        for host in ["docker.io", "index.docker.io", "registry-1.docker.io"] {
            assert_eq!(super::login(host), "https://index.docker.io/v1/", "{host}");
        }
        for host in ["evildocker.io", "docker.io.example.org", "docker.io:5000", "ghcr.io"] {
            assert_eq!(super::login(host), host);
        }
    }

    #[test]
    fn only_this_machine_is_spoken_to_without_tls() {
        for host in ["localhost", "localhost:5000", "127.0.0.1:80", "[::1]:5000"] {
            assert!(super::is_loopback(host), "{host}");
        }
        for host in ["docker.io", "localhost.example.org", "10.0.0.1:5000", "127.0.0.1.example.org"] {
            assert!(!super::is_loopback(host), "{host}");
        }
    }
}
