//! OCI image layouts in a directory.

use std::fs;
use std::io::Write;
use std::path::Path;

use clarateach_rootfs::Digest;
use serde_json::{Value, json};

/// How a layer is stored.
#[derive(Debug, Clone, Copy)]
pub enum Store {
    Plain,
    Gzip,
    Zstd,
}

pub fn compress(tar: &[u8], store: Store) -> Vec<u8> {
    match store {
        Store::Plain => tar.to_vec(),
        Store::Gzip => {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            gzip.write_all(tar).unwrap();
            gzip.finish().unwrap()
        }
        Store::Zstd => zstd::encode_all(tar, 1).unwrap(),
    }
}

/// A layout with one image for this machine; returns the digests of its blobs: layers, configuration, manifest.
pub fn layout(dir: &Path, layers: &[(Vec<u8>, Store)]) -> Vec<Digest> {
    fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
    let mut digests = Vec::new();
    let (mut diff_ids, mut descriptors) = (Vec::new(), Vec::new());
    for (tar, store) in layers {
        diff_ids.push(Digest::of(tar).to_string());
        let blob = compress(tar, *store);
        let digest = put(dir, &blob);
        descriptors.push(descriptor("application/vnd.oci.image.layer.v1.tar", &digest, blob.len()));
        digests.push(digest);
    }
    let config = config(&diff_ids);
    let config_digest = put(dir, &config);
    let manifest = manifest(
        &descriptor("application/vnd.oci.image.config.v1+json", &config_digest, config.len()),
        &descriptors,
    );
    let manifest_digest = put(dir, &manifest);
    let list = [descriptor("application/vnd.oci.image.manifest.v1+json", &manifest_digest, manifest.len())];
    index(dir, &list);
    digests.extend([config_digest, manifest_digest]);
    digests
}

pub fn config(diff_ids: &[String]) -> Vec<u8> {
    let config = json!({
        "created": "2026-01-02T03:04:05.678Z", "architecture": "amd64", "os": "linux",
        "config": {"Env": ["A=b"]}, "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    serde_json::to_vec(&config).unwrap()
}

pub fn manifest(config: &Value, layers: &[Value]) -> Vec<u8> {
    serde_json::to_vec(&json!({"schemaVersion": 2, "config": config, "layers": layers})).unwrap()
}

pub fn descriptor(media_type: &str, digest: &Digest, size: usize) -> Value {
    json!({"mediaType": media_type, "digest": digest.to_string(), "size": size})
}

pub fn index(dir: &Path, manifests: &[Value]) {
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let index = json!({"schemaVersion": 2, "manifests": manifests});
    fs::write(dir.join("index.json"), serde_json::to_vec(&index).unwrap()).unwrap();
}

pub fn put(dir: &Path, blob: &[u8]) -> Digest {
    let digest = Digest::of(blob);
    fs::write(blob_path(dir, &digest), blob).unwrap();
    digest
}

pub fn blob_path(dir: &Path, digest: &Digest) -> std::path::PathBuf {
    dir.join("blobs/sha256").join(digest.hex())
}

/// What `docker save` of old writes: a directory per layer, the manifest last.
pub fn docker_archive(path: &Path, layers: &[Vec<u8>]) {
    let diff_ids: Vec<_> = layers.iter().map(|tar| Digest::of(tar).to_string()).collect();
    let config = config(&diff_ids);
    let config_name = format!("{}.json", Digest::of(&config).hex());
    let mut names = Vec::new();
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    for (number, tar) in layers.iter().enumerate() {
        let name = format!("{}/layer.tar", Digest::of(&[number as u8]).hex());
        files.push((name.clone(), tar.clone()));
        names.push(name);
    }
    files.push((config_name.clone(), config));
    let manifest = json!([{"Config": config_name, "RepoTags": ["test:latest"], "Layers": names}]);
    files.push(("manifest.json".to_owned(), serde_json::to_vec(&manifest).unwrap()));
    let mut archive = tar::Builder::new(fs::File::create(path).unwrap());
    for (name, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        archive.append_data(&mut header, name, &content[..]).unwrap();
    }
    archive.finish().unwrap();
}
