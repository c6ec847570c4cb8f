//! Running `nft`: one process per transaction, JSON in and out.
//!
//! The schema is the `nftables` crate's; its runner isn't used, because it doesn't catch what `nft` says when it refuses.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use nftables::schema::Nftables;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use super::NetError;

/// `nft` takes milliseconds, or seconds where a host has a hundred thousand rules.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between looks at an `nft` that nobody waits for any more.
const LOOK: Duration = Duration::from_millis(5);
/// Names the process that runs an `nft`, in that one's environment.
const MAKER: &str = "CLARATEACH_NFT_OF";

/// Does a batch: all of it or nothing.
pub(crate) async fn apply(what: &str, batch: &Nftables<'_>) -> Result<(), NetError> {
    let refused = |message: String| NetError::Refused {
        operation: "change firewall",
        object: what.to_owned(),
        message,
    };
    let batch = serde_json::to_vec(batch).map_err(|error| refused(error.to_string()))?;
    run(&["--json", "--file", "-"], &batch).await.map(drop).map_err(refused)
}

/// Both families' table of this name, with the elements of their sets.
pub(crate) async fn table(name: &str) -> Result<Vec<Value>, NetError> {
    let mut objects = list(&["list", "table", "bridge", name]).await?;
    objects.extend(list(&["list", "table", "inet", name]).await?);
    Ok(objects)
}

/// Every chain and rule on this host, without the elements of sets.
pub(crate) async fn ruleset() -> Result<Vec<Value>, NetError> {
    list(&["--terse", "list", "ruleset"]).await
}

/// What `nft --json list …` says: its objects, without the first, which names nft's version.
async fn list(what: &[&str]) -> Result<Vec<Value>, NetError> {
    let refused = |message| NetError::Refused { operation: "list firewall", object: what.join(" "), message };
    let listing: Value = match run(&[&["--json"], what].concat(), &[]).await {
        Ok(text) if text.is_empty() => return Ok(Vec::new()),
        Ok(text) => serde_json::from_slice(&text).map_err(|error| refused(error.to_string()))?,
        Err(message) => return Err(refused(message)),
    };
    let objects = listing.get("nftables").and_then(Value::as_array).cloned().unwrap_or_default();
    Ok(objects.into_iter().filter(|object| object.get("metainfo").is_none()).collect())
}

/// Whether nft is there and may change the firewall.
pub(crate) async fn check() -> Result<String, String> {
    run(&["list", "tables"], &[]).await?;
    let version = run(&["--version"], &[]).await?;
    Ok(String::from_utf8_lossy(&version).trim().to_owned())
}

/// Waits for the `nft` of a process that was killed meanwhile: what it has been told to change it still changes, and until then
/// nothing that is read of the firewall holds.
pub(crate) async fn orphans_ended() {
    let deadline = Instant::now() + PATIENCE;
    while orphan_runs() {
        if Instant::now() >= deadline {
            tracing::warn!("an nft of an earlier process does not end; going on without waiting for it");
            return;
        }
        sleep(LOOK).await;
    }
}

/// Whether there is one in this network namespace.
fn orphan_runs() -> bool {
    let ours = fs::read_link("/proc/thread-self/ns/net").ok();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path());
    processes
        .filter(|process| fs::read(process.join("comm")).is_ok_and(|name| name == b"nft\n"))
        .filter(|process| fs::read_link(process.join("ns/net")).ok() == ours)
        .any(|process| maker(&process).is_some_and(|maker| parent(&process).is_some_and(|is| is != maker)))
}

/// Who began this `nft`, if it was one of ours.
fn maker(process: &Path) -> Option<u32> {
    let environment = fs::read(process.join("environ")).ok()?;
    let named =
        |variable: &[u8]| variable.strip_prefix(MAKER.as_bytes())?.strip_prefix(b"=").map(<[u8]>::to_vec);
    let maker = environment.split(|byte| *byte == 0).find_map(named)?;
    String::from_utf8(maker).ok()?.parse().ok()
}

/// Its parent by now: the fourth field of proc_pid_stat(5), after a name that may hold anything.
fn parent(process: &Path) -> Option<u32> {
    let stat = fs::read_to_string(process.join("stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

async fn run(arguments: &[&str], input: &[u8]) -> Result<Vec<u8>, String> {
    let spawned = Command::new("nft")
        .args(arguments)
        .env(MAKER, std::process::id().to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err("nft is not installed (package nftables)".to_owned());
        }
        Err(error) => return Err(format!("nft can't be run: {error}")),
    };
    let mut stdin = child.stdin.take();
    let feed = async move {
        if let Some(stdin) = stdin.as_mut() {
            // If it went away already, its own words say why.
            let _ = stdin.write_all(input).await;
        }
        drop(stdin);
    };
    let both = async { tokio::join!(feed, child.wait_with_output()).1 };
    let output = tokio::time::timeout(PATIENCE, both)
        .await
        .map_err(|_| format!("nft did not end within {} s", PATIENCE.as_secs()))?
        .map_err(|error| format!("nft: {error}"))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let words = String::from_utf8_lossy(&output.stderr);
    if words.contains("Operation not permitted") {
        return Err("no right to change the firewall: it takes root, or CAP_NET_ADMIN".to_owned());
    }
    Err(format!("nft: {}", words.lines().next().unwrap_or("failed without a word")))
}
