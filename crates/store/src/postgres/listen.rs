//! Hearing of events that other replicas wrote: one connection that listens, and is made again when it is lost.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use clarateach_ids::WorkshopId;
use futures_util::FutureExt;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_postgres::{AsyncMessage, Client, Config};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::database::Database;
use super::events::CHANNEL;
use super::failure::Outcome;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);
/// So often the connection is asked for a sign of life, and so long it may take.
const PERIOD: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(5);

/// A connection that listens. Without its client it ends.
pub(super) struct Ear {
    client: Client,
    notified: mpsc::UnboundedReceiver<String>,
}

impl Ear {
    pub(super) async fn open(
        config: &Config,
        tls: &MakeRustlsConnect,
    ) -> Result<Self, tokio_postgres::Error> {
        let (client, connection) = config.connect(tls.clone()).await?;
        let (sender, notified) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut connection = pin!(connection);
            while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
                if let AsyncMessage::Notification(notification) = message
                    && sender.send(notification.payload().to_owned()).is_err()
                {
                    break;
                }
            }
        });
        client.batch_execute(&format!("LISTEN {CHANNEL}")).await?;
        Ok(Self { client, notified })
    }

    /// The next notification; `None` when the connection is lost.
    async fn hear(&mut self) -> Option<String> {
        loop {
            match timeout(PERIOD, self.notified.recv()).await {
                Ok(heard) => return heard,
                Err(_) => match timeout(PATIENCE, self.client.batch_execute("")).await {
                    Ok(Ok(())) => {}
                    _ => return None,
                },
            }
        }
    }
}

/// Passes on what is heard, until it is stopped. After each gap everything may have changed.
pub(super) async fn listen(database: Arc<Database>, config: Config, tls: MakeRustlsConnect, mut ear: Ear) {
    loop {
        while let Some(payload) = ear.hear().await {
            pass_on(&database, &payload);
            // What has come meanwhile often names the same workshop.
            while let Some(Some(payload)) = ear.notified.recv().now_or_never() {
                pass_on(&database, &payload);
            }
        }
        tracing::warn!("lost the connection to PostgreSQL that hears of events; opening it again");
        let mut pause = FIRST_PAUSE;
        ear = loop {
            if let Ok(Ok(ear)) = timeout(PATIENCE, Ear::open(&config, &tls)).await {
                break ear;
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        };
        wake_everybody(&database).await;
        tracing::info!("hearing of events in PostgreSQL again");
    }
}

/// `<workshop> <who wrote it>`.
fn pass_on(database: &Database, payload: &str) {
    let (workshop, origin) = payload.split_once(' ').unwrap_or((payload, ""));
    if origin != database.origin
        && let Ok(id) = workshop.parse::<WorkshopId>()
    {
        // Nobody may be watching.
        let _ = database.wakes.send(id);
    }
}

/// Tells those who watch any workshop to look. Who watches one that has gone meanwhile finds that out by its timer.
async fn wake_everybody(database: &Database) {
    let ids = database.read("list workshops", |db| async move {
        let ids = db.query("SELECT id FROM workshops ORDER BY id", &[]).await?;
        ids.iter().map(|row| super::rows::word::<WorkshopId>(row, "id")).collect::<Outcome<Vec<_>>>()
    });
    match ids.await {
        Ok(ids) => {
            for id in ids {
                let _ = database.wakes.send(id);
            }
        }
        Err(error) => tracing::warn!(%error, "can't tell which workshops to look at"),
    }
}
