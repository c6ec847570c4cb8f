//! Leases: how long a session's streams may live, and who is connected.
//!
//! Every valid token that is seen extends the lease of its session. A stream holds a [`Stream`] guard and closes when
//! [`Stream::over`] says so: the lease ran out, the session was ended, the seat was made anew or the gateway stops.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clarateach_ids::{Generation, SeatKey, SessionId};
use clarateach_seatproto::token::{Role, SEAT_TOKEN_SECONDS, SeatClaims};
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::ending::{EndedWhy, Ending};
use crate::{Limits, Refusal};

/// How long a lapsed lease is remembered, so that a learner who comes back finds the same previews.
const REMEMBERED: Duration = Duration::from_secs(600);

/// Whose lease: an instructor who looks in doesn't extend the learner's.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct LeaseKey {
    session: SessionId,
    seat: SeatKey,
    instructor: bool,
}

#[derive(Debug, Clone)]
struct Terms {
    until: Instant,
    until_unix: i64,
    generation: Generation,
    ended: Option<Ending>,
}

/// What a stream carries; each kind has its own bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Carries {
    /// A request to the workspace.
    Request,
    /// An upgraded stream to the workspace: counts as being connected.
    Upgrade,
    /// Anything of a preview.
    Preview,
}

impl Carries {
    /// The count of streams of this kind, over all sessions.
    fn open_now(self) -> metrics::Gauge {
        let kind = match self {
            Self::Request => "request",
            Self::Upgrade => "upgrade",
            Self::Preview => "preview",
        };
        metrics::gauge!("clarateach_gateway_streams", "kind" => kind)
    }
}

/// One session's lease on one seat.
#[derive(Debug)]
pub(crate) struct Lease {
    key: LeaseKey,
    terms: watch::Sender<Terms>,
    workspace_streams: AtomicUsize,
    preview_streams: AtomicUsize,
    upgrades: AtomicUsize,
    last_seen: AtomicI64,
}

impl Lease {
    /// Notes that its holder did something just now.
    pub(crate) fn touch(&self) {
        self.last_seen.store(Timestamp::now().as_second(), Ordering::Relaxed);
    }

    /// Whether it holds now.
    pub(crate) fn holds(&self, generation: Generation) -> bool {
        let terms = self.terms.borrow();
        terms.ended.is_none() && terms.until > Instant::now() && terms.generation <= generation
    }

    /// Whether it is over for good: ended, or lapsed so long ago that nobody comes back to it.
    pub(crate) fn is_forgotten(&self) -> bool {
        let terms = self.terms.borrow();
        terms.ended.is_some() || terms.until + REMEMBERED < Instant::now()
    }

    fn streams(&self, carries: Carries) -> &AtomicUsize {
        if carries == Carries::Preview { &self.preview_streams } else { &self.workspace_streams }
    }

    fn is_idle(&self) -> bool {
        self.workspace_streams.load(Ordering::Relaxed) + self.preview_streams.load(Ordering::Relaxed) == 0
    }
}

/// Somebody's presence at a seat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presence {
    /// The seat.
    pub seat: SeatKey,
    /// Upgraded streams open now: terminals.
    pub streams: usize,
    /// When anything last came from them.
    pub last_seen: Timestamp,
}

#[derive(Debug)]
struct Tombstone {
    ending: Ending,
    /// Tokens issued up to this Unix second are dead.
    issued_until: i64,
    forget: Instant,
}

#[derive(Debug, Default)]
struct Table {
    leases: HashMap<LeaseKey, Arc<Lease>>,
    ended: HashMap<SessionId, Tombstone>,
    closing: bool,
}

/// All leases of a gateway.
#[derive(Debug)]
pub(crate) struct Leases {
    table: Mutex<Table>,
    changes: watch::Sender<u64>,
    limits: Limits,
}

impl Leases {
    pub(crate) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self { table: Mutex::default(), changes: watch::Sender::new(0), limits })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lease of the claims' session, made or extended by them.
    pub(crate) fn extend(&self, claims: &SeatClaims) -> Result<Arc<Lease>, Refusal> {
        let key = LeaseKey {
            session: claims.session.clone(),
            seat: claims.seat_key(),
            instructor: claims.role == Role::Instructor,
        };
        let now = Instant::now();
        let left = u64::try_from(claims.exp * 1000 - Timestamp::now().as_millisecond()).unwrap_or(0);
        let terms = Terms {
            until: now + Duration::from_millis(left),
            until_unix: claims.exp,
            generation: claims.generation,
            ended: None,
        };
        let mut table = self.table();
        if table.closing {
            return Err(Refusal::unavailable("the server is stopping; try again in a moment"));
        }
        match table.ended.get(&claims.session) {
            Some(grave) if claims.iat <= grave.issued_until => {
                return Err(Refusal::ended(grave.ending.reason.to_string()));
            }
            // A token from after the end: the session goes on, in a workshop that was started again.
            Some(_) => drop(table.ended.remove(&claims.session)),
            None => {}
        }
        if let Some(lease) = table.leases.get(&key) {
            lease.terms.send_if_modified(|held| {
                let newer = terms.until_unix > held.until_unix || terms.generation > held.generation;
                if newer {
                    held.generation = held.generation.max(terms.generation);
                    if terms.until_unix > held.until_unix {
                        held.until = terms.until;
                        held.until_unix = terms.until_unix;
                    }
                }
                newer
            });
            lease.touch();
            return Ok(lease.clone());
        }
        let lease = Arc::new(Lease {
            key: key.clone(),
            terms: watch::Sender::new(terms),
            workspace_streams: AtomicUsize::new(0),
            preview_streams: AtomicUsize::new(0),
            upgrades: AtomicUsize::new(0),
            last_seen: AtomicI64::new(Timestamp::now().as_second()),
        });
        table.leases.insert(key, lease.clone());
        Ok(lease)
    }

    /// Counts a stream in, or refuses it.
    pub(crate) fn open(
        self: &Arc<Self>,
        lease: &Arc<Lease>,
        carries: Carries,
        generation: Generation,
    ) -> Result<Stream, Refusal> {
        let limit = match carries {
            Carries::Preview => self.limits.preview_streams_per_session,
            Carries::Request | Carries::Upgrade => self.limits.streams_per_session,
        };
        let count = lease.streams(carries);
        if count.fetch_add(1, Ordering::Relaxed) >= limit {
            count.fetch_sub(1, Ordering::Relaxed);
            return Err(Refusal::too_many_streams(format!(
                "this session has {limit} connections open already; close some"
            )));
        }
        if carries == Carries::Upgrade && lease.upgrades.fetch_add(1, Ordering::Relaxed) == 0 {
            self.changed();
        }
        carries.open_now().increment(1.0);
        Ok(Stream { leases: self.clone(), lease: lease.clone(), carries, generation })
    }

    fn changed(&self) {
        self.changes.send_modify(|revision| *revision += 1);
    }

    /// Changes whenever somebody connects their first or loses their last terminal.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Ends a session's streams and refuses its tokens issued up to now.
    pub(crate) fn end(&self, session: &SessionId, why: &EndedWhy) {
        let ending = Ending::session(why);
        let mut table = self.table();
        table.leases.retain(|key, lease| {
            let hit = key.session == *session;
            if hit {
                lease.terms.send_modify(|terms| terms.ended = Some(ending.clone()));
            }
            !hit
        });
        let tombstone = Tombstone {
            ending,
            issued_until: Timestamp::now().as_second(),
            forget: Instant::now() + Duration::from_secs(SEAT_TOKEN_SECONDS.unsigned_abs() + 60),
        };
        table.ended.insert(session.clone(), tombstone);
    }

    /// Closes the streams to makes of the seat before `generation`.
    pub(crate) fn rebuilt(&self, seat: &SeatKey, generation: Generation) {
        for lease in self.table().leases.values().filter(|lease| lease.key.seat == *seat) {
            lease.terms.send_if_modified(|terms| {
                let newer = generation > terms.generation;
                terms.generation = terms.generation.max(generation);
                newer
            });
        }
    }

    /// Ends every stream in these words; whoever comes back is let in.
    pub(crate) fn lose(&self, sentence: &str) {
        for (_, lease) in self.table().leases.drain() {
            lease.terms.send_modify(|terms| terms.ended = Some(Ending::seat_taken(sentence)));
        }
    }

    /// Ends every stream and takes no more.
    pub(crate) fn close(&self) {
        let mut table = self.table();
        table.closing = true;
        for (_, lease) in table.leases.drain() {
            lease.terms.send_modify(|terms| terms.ended = Some(Ending::restart()));
        }
    }

    /// Learners who have used their seat and whose lease is remembered.
    pub(crate) fn presence(&self) -> HashMap<SessionId, Presence> {
        let table = self.table();
        let learners = table.leases.values().filter(|lease| !lease.key.instructor);
        learners
            .map(|lease| {
                let presence = Presence {
                    seat: lease.key.seat.clone(),
                    streams: lease.upgrades.load(Ordering::Relaxed),
                    last_seen: Timestamp::from_second(lease.last_seen.load(Ordering::Relaxed))
                        .unwrap_or(Timestamp::UNIX_EPOCH),
                };
                (lease.key.session.clone(), presence)
            })
            .collect()
    }

    /// Forgets what has been over for long.
    pub(crate) fn sweep(&self) {
        let now = Instant::now();
        let mut table = self.table();
        table.ended.retain(|_, grave| grave.forget > now);
        table.leases.retain(|_, lease| !lease.is_idle() || !lease.is_forgotten());
    }
}

/// An open stream of a session; counted out when dropped.
#[derive(Debug)]
pub(crate) struct Stream {
    leases: Arc<Leases>,
    lease: Arc<Lease>,
    carries: Carries,
    generation: Generation,
}

impl Stream {
    /// The lease it lives on.
    pub(crate) fn lease(&self) -> &Arc<Lease> {
        &self.lease
    }

    /// Completes when the stream has to be closed.
    pub(crate) fn over(&self) -> impl Future<Output = Ending> + Send + 'static {
        let mut terms = self.lease.terms.subscribe();
        let (generation, grace) = (self.generation, self.leases.limits.lease_grace);
        async move {
            loop {
                let until = {
                    let terms = terms.borrow_and_update();
                    if let Some(ending) = &terms.ended {
                        return ending.clone();
                    }
                    if terms.generation > generation {
                        return Ending::seat_rebuilt();
                    }
                    terms.until + grace
                };
                tokio::select! {
                    () = tokio::time::sleep_until(until) => return Ending::lease_over(),
                    changed = terms.changed() => if changed.is_err() { return Ending::lease_over() },
                }
            }
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.carries.open_now().decrement(1.0);
        self.lease.streams(self.carries).fetch_sub(1, Ordering::Relaxed);
        if self.carries == Carries::Upgrade && self.lease.upgrades.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.leases.changed();
        }
    }
}
