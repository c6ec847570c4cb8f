//! Telling a guest who it is, and finding out whether it is well.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clarateach_runtime::Reason;
use clarateach_runtime::probe::{self, Health};
use clarateach_seatproto::guest::{GuestConfig, GuestNetwork, GuestState, WORKSPACE_PORT};
use jiff::Timestamp;
use tokio::time::{sleep, timeout};

use super::{Phase, console, phase};
use crate::config::Readiness;
use crate::error::Fault;
use crate::guest::control::{Control, ControlError, Patience};
use crate::host::Host;
use crate::journal::{Event, Record};

/// Between attempts to reach the guest's control channel.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);
/// How long one question to a guest may take before it is asked anew: a guest that boots does not listen yet.
const ANSWER: Patience = Patience { quick: Duration::from_secs(10), configure: Duration::from_secs(60) };
/// How long a guest that was restored may take to answer: it is past everything that takes time.
const RESTORED: Duration = Duration::from_secs(10);
/// Bytes for the guest's entropy pool.
const ENTROPY: usize = 64;
const MTU: u32 = 1500;

/// Brings a guest that has run since `began` to be ready, and keeps asking whether it is; ends only with a fault of the
/// host's.
pub(super) async fn run(host: &Arc<Host>, record: &mut Record, restored: bool, began: Instant) -> Fault {
    let outcome = match record.readiness {
        Readiness::Health => health(host, record, began, restored).await,
        Readiness::Ping => ping(host, record, began).await,
    };
    match outcome {
        Ok(never) => match never {},
        Err(fault) => fault,
    }
}

async fn health(
    host: &Arc<Host>,
    record: &mut Record,
    began: Instant,
    restored: bool,
) -> Result<std::convert::Infallible, Fault> {
    if record.phase != Phase::Live {
        configure(host, record, began).await?;
        host.times.configure(restored).note(began.elapsed());
    }
    open(host, record).await?;
    let (network, address) = (host.network.clone(), record.slot.address);
    let dial = move || {
        let network = network.clone();
        async move { network.dial(address, WORKSPACE_PORT).await }
    };
    let report = reporter(host, record, began);
    probe::watch(dial, record.secret.clone().into(), host.config.probe, report).await;
    Err(Fault::new("PROBE_ENDED", "its probe has ended"))
}

/// The guest's network is opened, and it is written down that it knows who it is.
async fn open(host: &Host, record: &mut Record) -> Result<(), Fault> {
    host.network.open(&record.slot).await?;
    if record.phase != Phase::Live {
        record.phase = Phase::Live;
        let event = Event::Phase { instance: record.instance().to_owned(), phase: Phase::Live, reason: None };
        host.journal.write(event).map_err(|error| Fault::io("DISK_FAILED", "writing the journal", &error))?;
    }
    host.board.publish(&record.key(), |_, shown| *shown = Phase::Live);
    Ok(())
}

/// Publishes what a probe says.
fn reporter(host: &Arc<Host>, record: &Record, began: Instant) -> impl FnMut(Health) + Send + use<> {
    let (host, key, console) = (host.clone(), record.key(), record.spec.console.clone());
    let mut ready_before = false;
    move |mut health| {
        match &mut health {
            Health::Well if !ready_before => {
                ready_before = true;
                host.times.ready.note(began.elapsed());
            }
            Health::Well => {}
            Health::Silent(reason) => reason.message.push_str(&console::excerpt(&console)),
        }
        host.board.publish(&key, |vm, shown| {
            vm.state = phase::shown(*shown, Some(&health));
            vm.reason = match &health {
                Health::Well => None,
                Health::Silent(reason) => Some(reason.clone()),
            };
        });
    }
}

/// Waits until the guest is parked; false when it does not come that far in the probe's patience.
pub(super) async fn parked(host: &Arc<Host>, record: &Record) -> bool {
    timeout(host.config.probe.patience, state(host, record)).await == Ok(GuestState::Parked)
}

/// Whether a restored guest answers, parked as its snapshot was.
pub(super) async fn answers(host: &Arc<Host>, record: &Record) -> bool {
    timeout(RESTORED, state(host, record)).await == Ok(GuestState::Parked)
}

async fn state(host: &Arc<Host>, record: &Record) -> GuestState {
    let mut pause = FIRST_PAUSE;
    loop {
        if let Ok(stream) = host.vmm.control(&record.spec).await
            && let Ok(state) = Control::new(stream).with_patience(ANSWER).hello().await
        {
            return state;
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Tells the guest who it is. Tries for as long as the VM lives; the probe's patience after `began` it shows as
/// unresponsive.
async fn configure(host: &Arc<Host>, record: &Record, began: Instant) -> Result<(), Fault> {
    let mut why = "its control channel does not answer".to_owned();
    let patience = sleep(host.config.probe.patience.saturating_sub(began.elapsed()));
    tokio::pin!(patience);
    let mut report = Some(reporter(host, record, Instant::now()));
    let mut pause = FIRST_PAUSE;
    loop {
        let attempt = attempt(host, record);
        tokio::pin!(attempt);
        let outcome = loop {
            tokio::select! {
                outcome = &mut attempt => break outcome,
                () = &mut patience, if report.is_some() => {
                    let seconds = host.config.probe.patience.as_secs();
                    let message = format!("Its guest is not ready {seconds} s after it was started: {why}");
                    if let Some(mut report) = report.take() {
                        report(Health::Silent(Reason::new("UNRESPONSIVE", message)));
                    }
                }
            }
        };
        match outcome {
            Ok(()) => return Ok(()),
            Err(Unconfigured::Refused(message)) => {
                // Asked again it says the same; it is kept for a look.
                if let Some(mut report) = report.take() {
                    report(Health::Silent(Reason::new("GUEST_REFUSED", message)));
                }
                return std::future::pending().await;
            }
            Err(Unconfigured::NotYet(message)) => why = message,
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Why a guest does not know who it is.
enum Unconfigured {
    /// It has not answered.
    NotYet(String),
    /// It has said no.
    Refused(String),
}

impl From<ControlError> for Unconfigured {
    fn from(error: ControlError) -> Self {
        match error {
            ControlError::Refused { .. } | ControlError::TooLong { .. } => Self::Refused(error.to_string()),
            ControlError::Silent { .. } | ControlError::Broken { .. } => Self::NotYet(error.to_string()),
        }
    }
}

/// One conversation with the guest.
async fn attempt(host: &Host, record: &Record) -> Result<(), Unconfigured> {
    let not_yet = |error: io::Error| Unconfigured::NotYet(error.to_string());
    let stream = host.vmm.control(&record.spec).await.map_err(not_yet)?;
    let mut control = Control::new(stream).with_patience(ANSWER);
    match control.hello().await? {
        // Configured by a process that has not lived to write it down.
        GuestState::Running => Ok(()),
        GuestState::Ending => Err(Unconfigured::NotYet("the guest is shutting down".to_owned())),
        GuestState::Parked => {
            let config = config(host, record).map_err(not_yet)?;
            Ok(control.configure(&config).await?)
        }
    }
}

/// Who a guest is: all of it new for every start.
fn config(host: &Host, record: &Record) -> io::Result<GuestConfig> {
    let mut entropy = [0; ENTROPY];
    getrandom::fill(&mut entropy).map_err(|error| io::Error::other(error.to_string()))?;
    let (gateway, prefix) = host.network.gateway();
    Ok(GuestConfig {
        instance: record.instance().to_owned(),
        hostname: format!("seat-{}", record.seat),
        network: Some(GuestNetwork {
            address: record.slot.address,
            prefix,
            gateway,
            dns: vec![gateway],
            mac: record.slot.mac.to_string(),
            mtu: MTU,
        }),
        unix_ms: Timestamp::now().as_millisecond(),
        entropy: STANDARD.encode(entropy),
        secret: record.secret.clone(),
        env: record.env.clone(),
    })
}

/// Asks by ping whether the guest is well, as `probe::watch` does by HTTP.
async fn ping(
    host: &Arc<Host>,
    record: &mut Record,
    began: Instant,
) -> Result<std::convert::Infallible, Fault> {
    open(host, record).await?;
    let policy = host.config.probe;
    let mut report = reporter(host, record, began);
    let mut known: Option<bool> = None;
    let mut misses = 0;
    loop {
        let answers = host.network.ping(record.slot.address).await.unwrap_or(false);
        if answers {
            misses = 0;
            if known != Some(true) {
                known = Some(true);
                report(Health::Well);
            }
        } else {
            misses += 1;
            let silent = match known {
                None => began.elapsed() >= policy.patience,
                Some(true) => misses >= policy.misses,
                Some(false) => false,
            };
            if silent {
                let message = match known {
                    None => format!("It has not answered a ping in {} s", policy.patience.as_secs()),
                    Some(_) => "It has stopped answering pings".to_owned(),
                };
                known = Some(false);
                report(Health::Silent(Reason::new("UNRESPONSIVE", message)));
            }
        }
        // Until it is there it is asked as soon as it can be: `Network::ping` itself waits for up to a second.
        sleep(if known == Some(true) { policy.interval } else { LONGEST_PAUSE }).await;
    }
}
