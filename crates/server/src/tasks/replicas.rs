//! What a server does because others share its database: it keeps its leases, and heeds what others changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use clarateach_gateway::EndedWhy;
use clarateach_ids::{SeatKey, SessionId, WorkshopId};
use clarateach_lifecycle::Wanted;
use clarateach_store::{StoreError, WorkshopRecord};
use tokio::sync::Notify;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::app::leases::RENEWAL;

/// After a renewal that failed, try again so soon: leases don't last long.
const RETRY: Duration = Duration::from_secs(1);
/// A class that joins changes something all the time: whoever decides is not woken more often than this for it.
const DECIDE_PAUSE: Duration = Duration::from_millis(400);
/// Changes that come one after the other are heeded together.
const GATHER: Duration = Duration::from_millis(50);

/// Renews this server's leases until `stop`.
pub(super) async fn keep_leases(app: Arc<App>, stop: CancellationToken) {
    loop {
        let pause = match app.leases.renew(&*app.store, app.clock.now()).await {
            Ok(gained) => {
                if gained {
                    app.wake.notify_one();
                }
                RENEWAL
            }
            Err(error) => {
                tracing::warn!(%error, "the leases could not be renewed");
                RETRY
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Heeds what happens in workshops, whichever server did it, until `stop`.
pub(super) async fn heed(app: Arc<App>, stop: CancellationToken) {
    let mut wakes = app.store.event_wakes();
    let decide = Arc::new(Notify::new());
    let (asked, decider, stopped) = (Arc::clone(&decide), Arc::clone(&app), stop.clone());
    let deciding = async move {
        loop {
            tokio::select! {
                biased;
                () = stopped.cancelled() => return,
                () = asked.notified() => decider.wake.notify_one(),
            }
            tokio::time::sleep(DECIDE_PAUSE).await;
        }
    };
    let heeding = heed_all(&app, &mut wakes, &decide, &stop);
    tokio::join!(deciding, heeding);
}

async fn heed_all(app: &App, wakes: &mut Receiver<WorkshopId>, decide: &Notify, stop: &CancellationToken) {
    loop {
        let first = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            woken = wakes.recv() => woken,
        };
        let mut changed = BTreeSet::new();
        let mut lagged = false;
        match first {
            Ok(id) => drop(changed.insert(id)),
            Err(RecvError::Lagged(_)) => lagged = true,
            Err(RecvError::Closed) => return,
        }
        tokio::time::sleep(GATHER).await;
        loop {
            match wakes.try_recv() {
                Ok(id) => drop(changed.insert(id)),
                Err(TryRecvError::Lagged(_)) => lagged = true,
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
        let connected = connected(app);
        if lagged {
            changed.extend(connected.keys().cloned());
        }
        for id in &changed {
            app.directory.forget_workshop(id);
            if let Some(sessions) = connected.get(id)
                && let Err(error) = close_ended(app, id, sessions).await
            {
                tracing::warn!(%error, workshop = %id, "who is to be let go could not be read");
            }
        }
        if lagged || changed.iter().any(|id| app.leases.owns(id)) {
            decide.notify_one();
        }
    }
}

/// Sessions and the seats that they use.
type Connected = Vec<(SessionId, SeatKey)>;

/// Learners with a lease at this server's gateway, by workshop.
fn connected(app: &App) -> BTreeMap<WorkshopId, Connected> {
    let mut by_workshop: BTreeMap<WorkshopId, Connected> = BTreeMap::new();
    for (session, presence) in app.gateway.connected() {
        by_workshop.entry(presence.seat.workshop.clone()).or_default().push((session, presence.seat));
    }
    by_workshop
}

/// Closes the streams of sessions that hold no seat any more, and of makes of seats that are gone.
async fn close_ended(app: &App, id: &WorkshopId, sessions: &Connected) -> Result<(), StoreError> {
    let why = match app.store.workshop(id).await {
        Ok(workshop) if workshop.wanted == Wanted::Running => None,
        Ok(workshop) => Some(over(&workshop, app)),
        Err(StoreError::NotFound { .. }) => Some(EndedWhy::WorkshopEnded),
        Err(error) => return Err(error),
    };
    if let Some(why) = why {
        for (session, _) in sessions {
            app.gateway.end_session(session, &why);
        }
        return Ok(());
    }
    let mut holders = BTreeSet::new();
    let used: BTreeSet<_> = sessions.iter().map(|(_, seat)| seat).collect();
    for (seat, holder) in app.store.seats(id).await? {
        if used.contains(&seat.key) {
            app.gateway.seat_rebuilt(&seat.key, seat.generation);
        }
        holders.extend(holder.map(|session| session.id));
    }
    for (session, _) in sessions.iter().filter(|(session, _)| !holders.contains(session)) {
        app.gateway.end_session(session, &EndedWhy::Evicted);
    }
    Ok(())
}

fn over(workshop: &WorkshopRecord, app: &App) -> EndedWhy {
    match workshop.wanted {
        Wanted::Deleted => EndedWhy::WorkshopEnded,
        _ if workshop.ends_at.is_some_and(|end| end <= app.clock.now()) => EndedWhy::DeadlinePassed,
        _ => EndedWhy::WorkshopStopped,
    }
}
