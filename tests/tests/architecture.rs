//! Who may import whom: the crate map of docs/ARCHITECTURE.md, and `cargo metadata` held to it.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

const PAGE: &str = include_str!("../../docs/ARCHITECTURE.md");

type Map = BTreeMap<String, BTreeSet<String>>;

/// Each crate with those that it imports, as the page's table says.
fn map() -> Map {
    let mut map = Map::new();
    for row in PAGE.lines().filter(|line| line.starts_with("| `crates/") || line.starts_with("| `tests`")) {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [crates, _, imports] = cells[..] else { panic!("three cells: {row}") };
        let imports: BTreeSet<String> = match imports.strip_prefix("all of the above but ") {
            Some(others) => {
                let others = names(others);
                map.keys().filter(|name| !others.contains(*name)).cloned().collect()
            }
            None => names(imports),
        };
        for name in crates.split(", ").map(|name| name.trim_matches('`')) {
            map.insert(name.trim_start_matches("crates/").replace("runtimes/", "runtime-"), imports.clone());
        }
    }
    assert!(map.len() > 15, "the table is not read: {map:?}");
    map
}

fn names(cell: &str) -> BTreeSet<String> {
    cell.split(", ").filter(|name| *name != "–").map(|name| name.replace("runtimes/", "runtime-")).collect()
}

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
fn imports_are_as_on_the_map() {
    let mut map = map();
    let mut wrong = Vec::new();
    for package in metadata()["packages"].as_array().unwrap() {
        let name = short(package["name"].as_str().unwrap()).expect("every crate is called clarateach-…");
        let Some(told) = map.remove(&name) else {
            wrong.push(format!("{name} is not on the map"));
            continue;
        };
        let mut imports = BTreeSet::new();
        for dependency in package["dependencies"].as_array().unwrap() {
            let Some(imported) = short(dependency["name"].as_str().unwrap()) else { continue };
            if dependency["kind"] != "dev" {
                imports.insert(imported);
                continue;
            }
            let for_tests = ["testkit", "runtime-simulated", "runtime", "ids"].contains(&imported.as_str())
                || TESTS_MAY_IMPORT.contains(&(name.as_str(), imported.as_str()));
            if !told.contains(&imported) && !for_tests && imported != name {
                wrong.push(format!("tests of {name} import {imported}"));
            }
        }
        if imports != told {
            wrong.push(format!("{name} imports {imports:?}, and the map says {told:?}"));
        }
    }
    wrong.extend(map.keys().map(|name| format!("there is no {name}")));
    assert!(wrong.is_empty(), "against docs/ARCHITECTURE.md: {wrong:#?}");
}

/// A row may only name crates of rows above it: the table is in order.
#[test]
fn the_map_points_upwards() {
    let above = |line: &str| PAGE.find(&format!("`crates/{}`", line.replace("runtime-", "runtimes/")));
    for (name, imports) in map() {
        for imported in imports {
            let (own, its) = (above(&name).unwrap_or(usize::MAX), above(&imported));
            assert!(its.is_some_and(|its| its < own), "{name} imports {imported}, which stands below it");
        }
    }
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
