//! A network of the test's own: one namespace for each host, wires between them that can be cut.
//!
//! The thread that makes it lives in the middle, in a namespace without a name, and so does all that it starts there. The
//! others are named after the test and its process, and are removed with the guard, or by the next run.

use std::fs;
use std::process::Command;

use clarateach_testkit::leaks;
use nix::sched::{CloneFlags, unshare};

const PREFIX: &str = "ctkills-";
/// Where the middle is found; hosts are counted from 11.
pub(crate) const MIDDLE: &str = "10.231.0.1";

/// How a host is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// The wire is out: its end is seen at once by its own host.
    Unplugged,
    /// What comes is dropped, and nobody is told.
    Deaf,
    /// What goes is dropped, and nobody is told.
    Mute,
}

/// The network; all of it goes when this is dropped.
#[derive(Debug)]
pub(crate) struct Net {
    hosts: Vec<Place>,
}

/// Where a host's processes run.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) namespace: String,
    pub(crate) address: String,
}

fn ip(arguments: &str) {
    let _ = leaks::run("ip", &arguments.split(' ').collect::<Vec<_>>());
}

impl Net {
    /// Moves the calling thread into a network of its own; to be called before it starts others.
    pub(crate) fn enter() -> Self {
        sweep();
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
        ip("link set lo up");
        ip("link add middle type bridge");
        ip(&format!("addr add {MIDDLE}/24 dev middle"));
        ip("link set middle up");
        Self { hosts: Vec::new() }
    }

    /// One more host on the wire.
    pub(crate) fn host(&mut self, name: &str) -> Place {
        let number = self.hosts.len() + 11;
        let namespace = format!("{PREFIX}{}-{name}", std::process::id());
        ip(&format!("netns add {namespace}"));
        let place = Place { namespace, address: format!("10.231.0.{number}") };
        self.hosts.push(place.clone());
        let ns = &place.namespace;
        ip(&format!("link add to-{name} type veth peer name wire netns {ns}"));
        ip(&format!("link set to-{name} master middle"));
        ip(&format!("link set to-{name} up"));
        ip(&format!("-n {ns} link set lo up"));
        ip(&format!("-n {ns} addr add {}/24 dev wire", place.address));
        ip(&format!("-n {ns} link set wire up"));
        place
    }
}

/// Drops what comes over the wire to a port of the middle, and tells nobody. To be called in the test's own network.
pub(crate) fn cut_port(port: u16) {
    let statement = format!(
        "add table inet cut; add chain inet cut drops {{ type filter hook input priority -300; }}; \
         add rule inet cut drops iifname middle tcp dport {port} drop"
    );
    let _ = leaks::run("nft", &[&statement]);
}

/// Undoes [`cut_port`].
pub(crate) fn mend_port() {
    let _ = leaks::run("nft", &["delete table inet cut"]);
}

impl Drop for Net {
    fn drop(&mut self) {
        for place in &self.hosts {
            remove(&place.namespace);
        }
    }
}

impl Place {
    /// A command that runs at this place, and dies with whoever starts it.
    pub(crate) fn command(&self, program: &std::path::Path) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig=KILL", "--", "ip", "netns", "exec", &self.namespace]).arg(program);
        command
    }

    fn nft(&self, statement: &str) {
        let _ = leaks::run("ip", &["netns", "exec", &self.namespace, "nft", statement]);
    }

    pub(crate) fn cut(&self, how: Cut) {
        let chain = |hook: &str, interface: &str| {
            self.nft(&format!(
                "add table inet cut; add chain inet cut drops {{ type filter hook {hook} priority -300; }}; \
                 add rule inet cut drops {interface} wire drop"
            ));
        };
        match how {
            Cut::Unplugged => ip(&format!("-n {} link set wire down", self.namespace)),
            Cut::Deaf => chain("input", "iifname"),
            Cut::Mute => chain("output", "oifname"),
        }
    }

    pub(crate) fn mend(&self, how: Cut) {
        match how {
            Cut::Unplugged => ip(&format!("-n {} link set wire up", self.namespace)),
            Cut::Deaf | Cut::Mute => self.nft("delete table inet cut"),
        }
    }
}

/// Ends what runs in a namespace, and removes it.
fn remove(namespace: &str) {
    let pids = Command::new("ip").args(["netns", "pids", namespace]).output();
    let pids = pids.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    for pid in pids.split_whitespace().filter_map(|pid| pid.parse().ok()) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
    }
    let _ = Command::new("ip").args(["netns", "del", namespace]).output();
}

/// Namespaces of test processes that were killed.
fn sweep() {
    for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|pid| !fs::exists(format!("/proc/{pid}")).unwrap_or(true)) {
            remove(&name);
        }
    }
}
