//! What is under way at Google's: several things at once, one for each machine.

use std::collections::BTreeMap;

use clarateach_gcp::fleet::Found;
use clarateach_gcp::fleet::plan::Machine;
use clarateach_gcp::{GcpError, ResourceName};
use tokio::task::JoinSet;

/// More are begun when some have ended: Google counts calls by the minute.
const AT_ONCE: usize = 20;

/// What is done to a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Create,
    Start,
    Delete,
}

impl What {
    pub(super) const fn begun(self) -> &'static str {
        match self {
            Self::Create => "a worker is made",
            Self::Start => "the worker is started again",
            Self::Delete => "the worker's machine is deleted",
        }
    }

    pub(super) const fn done(self) -> &'static str {
        match self {
            Self::Create => "the worker's machine runs",
            Self::Start => "the worker's machine runs again",
            Self::Delete => "the worker's machine is gone, and its disk",
        }
    }
}

/// One thing that is done.
#[derive(Debug, Clone)]
pub(super) struct Doing {
    pub(super) what: What,
    pub(super) name: ResourceName,
    pub(super) zone: ResourceName,
    /// What it is to [`super::trouble::Troubles`].
    pub(super) key: String,
}

/// And what came of it: whether it is so now, as the API says.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) doing: Doing,
    pub(super) outcome: Result<bool, GcpError>,
}

/// All that is under way. Whatever it is at ends when this is dropped; Google goes on with it.
#[derive(Debug, Default)]
pub(super) struct Underway {
    tasks: JoinSet<(ResourceName, Result<bool, GcpError>)>,
    by_name: BTreeMap<ResourceName, Doing>,
}

impl Underway {
    pub(super) fn is_at(&self, name: &ResourceName) -> bool {
        self.by_name.contains_key(name)
    }

    pub(super) fn is_full(&self) -> bool {
        self.by_name.len() >= AT_ONCE
    }

    pub(super) fn begin(
        &mut self,
        doing: Doing,
        work: impl Future<Output = Result<bool, GcpError>> + Send + 'static,
    ) {
        let name = doing.name.clone();
        self.by_name.insert(name.clone(), doing);
        self.tasks.spawn(async move { (name, work.await) });
    }

    /// The next thing that has ended; waits for ever while nothing is under way.
    pub(super) async fn ended(&mut self) -> Ended {
        loop {
            match self.tasks.join_next().await {
                Some(Ok((name, outcome))) => {
                    if let Some(doing) = self.by_name.remove(&name) {
                        return Ended { doing, outcome };
                    }
                }
                Some(Err(error)) => tracing::error!(%error, "a step of the fleet broke off"),
                // What broke off is decided anew.
                None => {
                    self.by_name.clear();
                    std::future::pending::<()>().await;
                }
            }
        }
    }

    /// What there will be, over what there is: machines that are on their way and that no list shows yet, or shows as they
    /// were before.
    pub(super) fn expect(&self, found: &mut BTreeMap<ResourceName, Found>) {
        for (name, doing) in &self.by_name {
            let machine = match doing.what {
                What::Create | What::Start => Machine::Starting,
                What::Delete => Machine::Stopping,
            };
            match found.get_mut(name) {
                Some(there) => there.machine = machine,
                None if doing.what == What::Create => {
                    let zone = doing.zone.clone();
                    found.insert(name.clone(), Found { zone, machine, internal_ip: None, agent_token: None });
                }
                None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doing(what: What, name: &str) -> Doing {
        let zone = "us-central1-a".parse().unwrap();
        Doing { what, name: name.parse().unwrap(), zone, key: name.to_owned() }
    }

    #[tokio::test]
    async fn what_is_under_way_counts_until_it_has_ended() {
        let mut underway = Underway::default();
        let (tell, told) = tokio::sync::oneshot::channel::<()>();
        underway.begin(doing(What::Create, "new"), async move {
            told.await.unwrap();
            Ok(true)
        });
        underway.begin(doing(What::Delete, "old"), std::future::pending());
        let old = Found {
            zone: "us-central1-a".parse().unwrap(),
            machine: Machine::Running,
            internal_ip: None,
            agent_token: None,
        };
        let mut found = BTreeMap::from([("old".parse().unwrap(), old)]);
        underway.expect(&mut found);
        let machines: Vec<_> = found.iter().map(|(name, found)| (name.as_str(), found.machine)).collect();
        assert_eq!(machines, [("new", Machine::Starting), ("old", Machine::Stopping)]);
        tell.send(()).unwrap();
        let ended = underway.ended().await;
        assert_eq!((ended.doing.name.as_str(), ended.outcome.unwrap()), ("new", true));
        assert!(!underway.is_at(&"new".parse().unwrap()) && underway.is_at(&"old".parse().unwrap()));
    }
}
