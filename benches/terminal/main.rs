//! What the seat's server costs beside a bare PTY, in one run: echo round trips, flood, Ctrl-C, memory, files.
//!
//! `benches/terminal/run.sh` builds the static `workspace` and runs this against it. Pointed at a learner's session with
//! `--session http://HOST/api/session/CODE`, as benches/terminal/gateway.sh does, it measures the same way through a server's
//! gateway; every `--pid` names a process whose memory and CPU time are to be told.

#![allow(clippy::print_stdout, reason = "a bench reports on standard output")]

mod client;
mod files;
mod http;
mod measure;
mod process;
mod raw;
mod websocket;

use std::time::Duration;

use http::Target;
use measure::{Failure, Flood};
use process::{Cpu, Workspace};

/// Sessions at once, in turn.
const SESSIONS: [usize; 3] = [1, 10, 30];
/// Between two keys of one person.
const KEY_EVERY: Duration = Duration::from_millis(100);

struct Options {
    session: Option<String>,
    pids: Vec<u32>,
    only: Option<String>,
    seconds: u64,
    megabytes: usize,
}

fn options() -> Result<Options, Failure> {
    let mut options = Options { session: None, pids: Vec::new(), only: None, seconds: 5, megabytes: 100 };
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
            "--pid" => options.pids.push(u32::try_from(number(&value)?)?),
            "--only" => options.only = Some(value),
            "--seconds" => options.seconds = number(&value)?,
            "--megabytes" => options.megabytes = usize::try_from(number(&value)?)?,
            other => return Err(format!("unknown option {other}").into()),
        }
    }
    Ok(options)
}

fn main() -> Result<(), Failure> {
    let options = options()?;
    let workspace = if options.session.is_none() { Some(Workspace::start()?) } else { None };
    let mut pids = options.pids.clone();
    pids.extend(workspace.as_ref().map(Workspace::pid));
    let time = Duration::from_secs(options.seconds);
    // Asked before each measurement: a seat token lives for five minutes.
    let target = || match (&options.session, &workspace) {
        (Some(session), _) => Target::of_session(session),
        (None, Some(workspace)) => Ok(workspace.target()),
        (None, None) => Err("no workspace".into()),
    };

    let wanted = |what: &str| options.only.as_deref().is_none_or(|only| only == what);

    memory("idle", &pids)?;
    if wanted("echo") {
        echo(&target, time)?;
        memory("after 30 terminals", &pids)?;
    }
    if wanted("flood") {
        let content = measure::flood_file(options.megabytes)?;
        flood(&target, &content, &pids)?;
        memory("after floods", &pids)?;
    }
    if wanted("files") {
        files(&target, time)?;
        memory("after files", &pids)?;
    }
    Ok(())
}

fn echo(target: &dyn Fn() -> Result<Target, Failure>, time: Duration) -> Result<(), Failure> {
    for every in [Some(KEY_EVERY), None] {
        for sessions in SESSIONS {
            let raw = measure::echo(&mut several(sessions, raw::Terminal::cat)?, time, every)?;
            let target = target()?;
            let ours =
                measure::echo(&mut several(sessions, || client::Terminal::cat(&target))?, time, every)?;
            let how = if every.is_some() { "at 10 keys/s" } else { "flat out" };
            println!(
                "{:44} raw p50 {:.3} p99 {:.3}   ours p50 {:.3} p99 {:.3} ms   ({} keys)",
                format!("echo, {sessions} {how}"),
                raw.percentile(50.0),
                raw.percentile(99.0),
                ours.percentile(50.0),
                ours.percentile(99.0),
                ours.count()
            );
        }
    }
    Ok(())
}

fn flood(target: &dyn Fn() -> Result<Target, Failure>, flood: &Flood, pids: &[u32]) -> Result<(), Failure> {
    let megabytes = flood.content.len() as f64 / 1e6;
    client::put(&target()?, flood)?;
    for (sessions, round) in
        SESSIONS.into_iter().flat_map(|sessions| (1..=3).map(move |round| (sessions, round)))
    {
        let share = flood.content.len() / sessions;
        let flooded = |lines: &dyn Fn(&Target) -> Result<Flooders, Failure>| {
            let lines = lines(&target()?)?;
            let before = Cpu::now(pids)?;
            let rate = match lines {
                Flooders::Raw(lines) => measure::flood(lines, &flood.content),
                Flooders::Ours(lines) => measure::flood(lines, &flood.content),
            }?;
            Ok::<_, Failure>((rate, Cpu::now(pids)?.since(&before).describe(100.0 / megabytes)))
        };
        let bare =
            |_: &Target| several(sessions, || raw::Terminal::flooder(&flood.path, share)).map(Flooders::Raw);
        let ours = |binary: bool| {
            move |target: &Target| {
                several(sessions, || client::Terminal::flooder(target, binary, share)).map(Flooders::Ours)
            }
        };
        let (raw, raw_cpu) = flooded(&bare)?;
        let (text, text_cpu) = flooded(&ours(false))?;
        let (binary, binary_cpu) = flooded(&ours(true))?;
        println!(
            "{:44} raw {raw:5.1}   text {text:5.1} ({:.0} %)   binary {binary:5.1} ({:.0} %) MB/s",
            format!("flood, {sessions} × {:.0} MB, round {round}", megabytes / sessions as f64),
            text / raw * 100.0,
            binary / raw * 100.0
        );
        for (name, cpu) in [("raw", raw_cpu), ("text", text_cpu), ("binary", binary_cpu)] {
            println!("{:44} {name}: {cpu}", "  CPU seconds per 100 MB");
        }
    }
    for _ in 0..3 {
        let took = client::interrupt(&target()?, 5_000_000)?;
        println!("{:44} {:.1} ms", "Ctrl-C until seen, reader at 5 MB/s", took.as_secs_f64() * 1e3);
    }
    client::take_away(&target()?)
}

fn files(target: &dyn Fn() -> Result<Target, Failure>, time: Duration) -> Result<(), Failure> {
    let (rate, latencies) = files::list(&target()?, 200, 16, time)?;
    println!("{:44} {rate:.0}/s, p99 {:.2} ms", "list 200 files, 16 connections", latencies.percentile(99.0));
    let (rate, latencies) = files::read(&target()?, 10 << 10, 16, time)?;
    println!("{:44} {rate:.0}/s, p99 {:.2} ms", "read 10 KB, 16 connections", latencies.percentile(99.0));
    Ok(())
}

enum Flooders {
    Raw(Vec<raw::Terminal>),
    Ours(Vec<client::Terminal>),
}

fn several<L, E: Into<Failure>>(count: usize, one: impl Fn() -> Result<L, E>) -> Result<Vec<L>, Failure> {
    (0..count).map(|_| one().map_err(Into::into)).collect()
}

fn memory(when: &str, pids: &[u32]) -> Result<(), Failure> {
    for pid in pids {
        let name = process::name(*pid);
        println!("{:44} {}", format!("memory of {name}, {when}"), process::memory(*pid)?);
    }
    Ok(())
}
