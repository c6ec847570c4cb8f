//! What goes wrong, and is put right again.

use std::time::Duration;

use crate::chance::Chance;
use crate::cluster::{Cluster, SERVERS, WORKERS};
use crate::wires::{self, Cut};

/// From then on a control plane counts a worker as lost, see docs/operations.md.
const LOST_AFTER: usize = 60_000;

/// One thing that goes wrong.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    KillAgent(usize),
    KillServer(usize),
    KillPostgres,
    CutWorker(usize, Cut),
    CutServer(usize, Cut),
    /// PostgreSQL runs, and nothing that is said to it arrives.
    CutPostgres,
}

/// The kinds of faults.
const KINDS: usize = 6;
/// Rounds of the short form: each kind once but the last, which PostgreSQL's death stands for there.
pub(crate) const SHORT: usize = 5;

impl Fault {
    /// One of a kind, somewhere.
    fn draw(kind: usize, chance: &mut Chance) -> Self {
        let cut = [Cut::Unplugged, Cut::Deaf, Cut::Mute][chance.below(3)];
        match kind {
            0 => Self::KillAgent(chance.below(WORKERS)),
            1 => Self::CutWorker(chance.below(WORKERS), cut),
            2 => Self::KillServer(chance.below(SERVERS)),
            3 => Self::KillPostgres,
            4 => Self::CutServer(chance.below(SERVERS), cut),
            _ => Self::CutPostgres,
        }
    }

    pub(crate) fn begin(self, cluster: &mut Cluster) {
        match self {
            Self::KillAgent(n) => cluster.workers[n].agent.kill(),
            Self::KillServer(n) => cluster.servers[n].kill(),
            Self::KillPostgres => cluster.postgres.kill(),
            Self::CutWorker(n, how) => cluster.workers[n].place.cut(how),
            Self::CutServer(n, how) => cluster.servers[n].place.cut(how),
            Self::CutPostgres => wires::cut_port(cluster.postgres.port()),
        }
    }

    pub(crate) fn end(self, cluster: &mut Cluster) {
        match self {
            Self::KillAgent(n) => cluster.workers[n].agent.start(),
            Self::KillServer(n) => cluster.servers[n].start(),
            Self::KillPostgres => cluster.postgres.resume(),
            Self::CutWorker(n, how) => cluster.workers[n].place.mend(how),
            Self::CutServer(n, how) => cluster.servers[n].place.mend(how),
            Self::CutPostgres => wires::mend_port(),
        }
    }
}

/// What goes wrong in a round, and for how long: first each kind once, then one or two at a time; now and then a worker
/// is away for so long that it counts as lost.
pub(crate) fn draw(round: usize, chance: &mut Chance) -> (Vec<Fault>, Duration) {
    let lasts = 300 + chance.below(6000);
    if round < KINDS {
        return (vec![Fault::draw(round, chance)], Duration::from_millis(lasts as u64));
    }
    let first = chance.below(KINDS);
    let mut faults = vec![Fault::draw(first, chance)];
    if chance.below(3) == 0 {
        faults.push(Fault::draw((first + 1 + chance.below(KINDS - 1)) % KINDS, chance));
    }
    let is_worker = matches!(faults[0], Fault::KillAgent(_) | Fault::CutWorker(..));
    let long = is_worker && chance.below(10) == 0;
    let lasts = if long { LOST_AFTER + 2 * lasts } else { lasts };
    (faults, Duration::from_millis(lasts as u64))
}
