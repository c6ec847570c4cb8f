//! Who may import whom: the crate map of docs/ARCHITECTURE.md, checked against `cargo metadata`.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// Each crate with the workspace crates it may name in `[dependencies]`. Tests may use more ([dev-dependencies]), as
/// long as it stays among these plus `testkit`, the runtimes' doubles and the conformance suite.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("ids", &[]),
    ("api", &["ids"]),
    ("seatproto", &["ids"]),
    ("lifecycle", &["ids"]),
    ("ext4", &[]),
    ("tls", &[]),
    ("store", &["ids", "lifecycle", "tls"]),
    ("runtime", &["ids", "seatproto"]),
    ("gcp", &[]),
    ("vmctl", &["gcp"]),
    ("rootfs", &["ext4"]),
    ("runtime-docker", &["ids", "runtime"]),
    ("runtime-process", &["ids", "runtime"]),
    ("runtime-simulated", &["ids", "runtime", "seatproto"]),
    ("runtime-worker", &["ids", "api", "runtime", "tls"]),
    ("gateway", &["ids", "api", "seatproto", "runtime"]),
    ("microvm", &["ids", "ext4", "runtime", "seatproto"]),
    ("workspace", &["seatproto"]),
    ("agent", &["ids", "api", "seatproto", "runtime", "microvm", "gateway"]),
    (
        "server",
        &[
            "ids",
            "api",
            "seatproto",
            "lifecycle",
            "store",
            "runtime",
            "runtime-docker",
            "runtime-process",
            "runtime-simulated",
            "runtime-worker",
            "microvm",
            "gateway",
            "gcp",
        ],
    ),
    ("testkit", &["ids", "runtime", "runtime-simulated"]),
    ("tests", &["testkit"]),
];

/// What tests use beyond that: a client is tried against the real other side.
const TESTS_MAY_IMPORT: &[(&str, &str)] = &[("runtime-worker", "agent")];

fn metadata() -> serde_json::Value {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn short(name: &str) -> Option<String> {
    name.strip_prefix("clarateach-").map(str::to_owned)
}

#[test]
fn imports_point_downwards() {
    let allowed: BTreeMap<&str, BTreeSet<&str>> =
        MAY_IMPORT.iter().map(|(name, may)| (*name, may.iter().copied().collect())).collect();
    let metadata = metadata();
    let mut wrong = Vec::new();
    for package in metadata["packages"].as_array().unwrap() {
        let name = short(package["name"].as_str().unwrap()).expect("every crate is called clarateach-…");
        let Some(may) = allowed.get(name.as_str()) else {
            wrong.push(format!("{name} is not on the crate map"));
            continue;
        };
        for dependency in package["dependencies"].as_array().unwrap() {
            let Some(imported) = short(dependency["name"].as_str().unwrap()) else { continue };
            let is_dev = dependency["kind"] == "dev";
            let test_only = ["testkit", "runtime-simulated", "runtime", "ids"].contains(&imported.as_str())
                || TESTS_MAY_IMPORT.contains(&(name.as_str(), imported.as_str()));
            if !may.contains(imported.as_str()) && !(is_dev && (test_only || imported == name)) {
                wrong.push(format!("{name} imports {imported}"));
            }
        }
    }
    assert!(wrong.is_empty(), "against docs/ARCHITECTURE.md: {wrong:#?}");
}

/// Crates that the rules keep to one place.
#[test]
fn some_libraries_belong_to_one_crate() {
    const KEPT: &[(&str, &[&str])] = &[
        ("rusqlite", &["store"]),
        ("tokio-postgres", &["store"]),
        ("bollard", &["runtime-docker", "rootfs"]),
        ("rustls-native-certs", &["tls"]),
        ("jsonwebtoken", &["seatproto", "server"]),
    ];
    let mut wrong = Vec::new();
    for package in metadata()["packages"].as_array().unwrap() {
        let name = short(package["name"].as_str().unwrap()).unwrap();
        for dependency in package["dependencies"].as_array().unwrap() {
            let library = dependency["name"].as_str().unwrap();
            if dependency["kind"] == "dev" {
                continue;
            }
            for (kept, by) in KEPT {
                if library == *kept && !by.contains(&name.as_str()) {
                    wrong.push(format!("{name} imports {library}, which belongs to {by:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
