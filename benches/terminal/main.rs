//! What the seat's server costs beside a bare PTY, in one run: echo round trips, flood, Ctrl-C, memory, files.
//!
//! `benches/terminal/run.sh` builds the static `workspace` and runs this against it. Pointed at a learner's session with
//! `--session http://HOST/api/session/CODE`, as benches/terminal/gateway.sh does, it measures the same way through a server's
//! gateway; memory and CPU are left out then, unless `--pid` names the server to watch.

#![allow(clippy::print_stdout, reason = "a bench reports on standard output")]

mod client;
mod files;
mod measure;
mod process;
mod raw;

use std::time::Duration;

use client::Target;
use measure::Latencies;
use process::Workspace;

/// Sessions at once, in turn.
const SESSIONS: [usize; 3] = [1, 10, 30];
/// Between two keys of one person.
const KEY_EVERY: Duration = Duration::from_millis(100);

struct Options {
    session: Option<String>,
    pid: Option<u32>,
    seconds: u64,
    megabytes: usize,
}

fn options() -> Result<Options, String> {
    let mut options = Options { session: None, pid: None, seconds: 5, megabytes: 100 };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        // cargo bench says so to every bench.
        if argument == "--bench" {
            continue;
        }
        let value = arguments.next().ok_or_else(|| format!("{argument} takes a value"))?;
        let number = |v: &str| v.parse::<u64>().map_err(|_| format!("{argument} takes a number, not {v}"));
        match argument.as_str() {
            "--session" => options.session = Some(value),
            "--pid" => options.pid = Some(u32::try_from(number(&value)?).map_err(|e| e.to_string())?),
            "--seconds" => options.seconds = number(&value)?,
            "--megabytes" => {
                options.megabytes = usize::try_from(number(&value)?).map_err(|e| e.to_string())?
            }
            other => return Err(format!("unknown option {other}")),
        }
    }
    Ok(options)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = options()?;
    let flood = measure::flood_file(options.megabytes)?;
    let workspace = if options.session.is_none() { Some(Workspace::start()?) } else { None };
    let pid = options.pid.or(workspace.as_ref().map(Workspace::pid));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let time = Duration::from_secs(options.seconds);
    // Asked before each measurement: a seat token lives for five minutes.
    let target = || match (&options.session, &workspace) {
        (Some(session), _) => runtime.block_on(Target::of_session(session)),
        (None, Some(workspace)) => Ok(workspace.target()),
        (None, None) => Err("no workspace".into()),
    };

    if let Some(pid) = pid {
        println!("{:44} {}", "memory, idle", process::memory(pid)?);
    }
    for sessions in SESSIONS {
        let raw = raw::echo(sessions, time, Some(KEY_EVERY))?;
        let ours = runtime.block_on(client::echo(&target()?, sessions, time, Some(KEY_EVERY)))?;
        report(&format!("echo, {sessions} at 10 keys/s"), &raw, &ours);
    }
    if let Some(pid) = pid {
        println!("{:44} {}", "memory, 30 terminals", process::memory(pid)?);
    }
    for sessions in SESSIONS {
        let raw = raw::echo(sessions, time, None)?;
        let ours = runtime.block_on(client::echo(&target()?, sessions, time, None))?;
        report(&format!("echo, {sessions} flat out"), &raw, &ours);
    }
    runtime.block_on(client::put(&target()?, &flood))?;
    for (sessions, round) in
        SESSIONS.into_iter().flat_map(|sessions| (1..=3).map(move |round| (sessions, round)))
    {
        let raw = raw::flood(&flood, sessions)?;
        let before = pid.map(process::cpu_seconds).transpose()?;
        let text = runtime.block_on(client::flood(&target()?, &flood, false, sessions))?;
        let between = pid.map(process::cpu_seconds).transpose()?;
        let binary = runtime.block_on(client::flood(&target()?, &flood, true, sessions))?;
        let after = pid.map(process::cpu_seconds).transpose()?;
        println!(
            "{:44} raw {raw:5.1}   text {text:5.1} ({:.0} %)   binary {binary:5.1} ({:.0} %) MB/s",
            format!("flood, {sessions} × {} MB, round {round}", options.megabytes / sessions),
            text / raw * 100.0,
            binary / raw * 100.0
        );
        if let (Some(before), Some(between), Some(after)) = (before, between, after) {
            let per_100 = 100.0 / options.megabytes as f64;
            println!(
                "{:44} text {:.2} s, binary {:.2} s per 100 MB",
                "  CPU of the server",
                (between - before) * per_100,
                (after - between) * per_100
            );
        }
    }
    for _ in 0..3 {
        let took = runtime.block_on(client::interrupt(&target()?, 5_000_000))?;
        println!("{:44} {:.1} ms", "Ctrl-C until seen, reader at 5 MB/s", took.as_secs_f64() * 1e3);
    }
    runtime.block_on(client::take_away(&target()?))?;
    let (rate, latencies) = runtime.block_on(files::list(&target()?, 200, 16, time))?;
    println!("{:44} {rate:.0}/s, p99 {:.2} ms", "list 200 files, 16 connections", latencies.percentile(99.0));
    let (rate, latencies) = runtime.block_on(files::read(&target()?, 10 << 10, 16, time))?;
    println!("{:44} {rate:.0}/s, p99 {:.2} ms", "read 10 KB, 16 connections", latencies.percentile(99.0));
    if let Some(pid) = pid {
        println!("{:44} {}", "memory, after all of it", process::memory(pid)?);
    }
    Ok(())
}

fn report(what: &str, raw: &Latencies, ours: &Latencies) {
    println!(
        "{what:44} raw p50 {:.3} p99 {:.3}   ours p50 {:.3} p99 {:.3} ms   ({} keys)",
        raw.percentile(50.0),
        raw.percentile(99.0),
        ours.percentile(50.0),
        ours.percentile(99.0),
        ours.count()
    );
}
