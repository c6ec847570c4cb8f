//! The `workspace` under test, and what processes cost.

use std::{
    fs, io,
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command},
    time::{Duration, Instant},
};

use crate::http::Target;

/// A running `workspace` with a directory of its own.
pub(crate) struct Workspace {
    child: Child,
    port: u16,
    directory: PathBuf,
}

impl Workspace {
    /// Starts `WORKSPACE_BIN`, or the static binary where `scripts/build-workspace.sh` puts it.
    pub(crate) fn start() -> io::Result<Workspace> {
        let binary = std::env::var_os("WORKSPACE_BIN").map_or_else(
            || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/release/workspace")),
            PathBuf::from,
        );
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let directory = std::env::temp_dir().join(format!("clarateach-bench-{}", std::process::id()));
        fs::create_dir_all(&directory)?;
        let child = Command::new(binary)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("CLARATEACH_SECRET", "bench")
            .env("CLARATEACH_LISTEN", format!("tcp:127.0.0.1:{port}"))
            .env("CLARATEACH_ROOT", &directory)
            .env("CLARATEACH_SHELL", "/bin/sh")
            .spawn()?;
        let workspace = Workspace { child, port, directory };
        let deadline = Instant::now() + Duration::from_secs(5);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            if Instant::now() > deadline {
                return Err(io::Error::other("workspace does not listen"));
            }
            std::thread::yield_now();
        }
        Ok(workspace)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn target(&self) -> Target {
        let secret = ("x-clarateach-secret".to_owned(), "bench".to_owned());
        Target { address: format!("127.0.0.1:{}", self.port), base: String::new(), headers: vec![secret] }
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process(
            rustix::process::Pid::from_child(&self.child),
            rustix::process::Signal::TERM,
        );
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Resident and proportional memory of a process. Needs root, for the process is closed to others.
pub(crate) fn memory(pid: u32) -> io::Result<String> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let field = |name: &str| {
        let line = rollup.lines().find(|l| l.starts_with(name)).unwrap_or_default();
        let kib =
            line.split_ascii_whitespace().nth(1).and_then(|v| v.parse::<f64>().ok()).unwrap_or(f64::NAN);
        kib / 1024.0
    };
    Ok(format!("RSS {:.2} MiB, PSS {:.2} MiB", field("Rss:"), field("Pss:")))
}

/// What a process is called.
pub(crate) fn name(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).map_or_else(|_| pid.to_string(), |c| c.trim().to_owned())
}

/// Clock ticks of /proc, per second; the same on every Linux that Rust runs on.
const USER_HZ: f64 = 100.0;

/// CPU time used so far: by each process, by this one, and by the whole machine, the kernel's own threads included.
pub(crate) struct Cpu(Vec<(String, f64)>);

impl Cpu {
    pub(crate) fn now(pids: &[u32]) -> io::Result<Cpu> {
        let mut all = Vec::new();
        for pid in pids {
            all.push((name(*pid), used(&format!("/proc/{pid}/stat"))?));
        }
        all.push(("client".to_owned(), used("/proc/self/stat")?));
        let stat = fs::read_to_string("/proc/stat")?;
        // user, nice, system, idle, iowait, irq, softirq: proc_stat(5).
        let ticks: Vec<f64> =
            stat.lines().next().unwrap_or_default().split(' ').filter_map(|t| t.parse().ok()).collect();
        let busy: f64 = [0, 1, 2, 5, 6].iter().filter_map(|n| ticks.get(*n)).sum();
        all.push(("everything".to_owned(), busy / USER_HZ));
        Ok(Cpu(all))
    }

    pub(crate) fn since(&self, before: &Cpu) -> Cpu {
        let difference =
            |((name, now), (_, then)): (&(String, f64), &(String, f64))| (name.clone(), now - then);
        Cpu(self.0.iter().zip(&before.0).map(difference).collect())
    }

    pub(crate) fn describe(&self, factor: f64) -> String {
        let each: Vec<String> =
            self.0.iter().map(|(name, used)| format!("{name} {:.2}", used * factor)).collect();
        each.join(", ")
    }
}

fn used(stat: &str) -> io::Result<f64> {
    let stat = fs::read_to_string(stat)?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace().collect();
    let ticks: f64 = fields[11..13].iter().filter_map(|t| t.parse::<f64>().ok()).sum();
    Ok(ticks / USER_HZ)
}
