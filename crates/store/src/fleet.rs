//! Records of several workers and several servers: who is there, who holds what, who decides.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use clarateach_ids::{Generation, SeatKey};
use jiff::Timestamp;

/// A stored word that is none of those known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{word:?} is no {what}")]
pub struct UnknownWord {
    what: &'static str,
    word: String,
}

macro_rules! words {
    ($(#[$meta:meta])* $name:ident, $what:literal, { $($(#[$doc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$doc])* $variant),+
        }

        impl $name {
            /// As it is stored and shown.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word),+
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = UnknownWord;

            fn from_str(word: &str) -> Result<Self, UnknownWord> {
                match word {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(UnknownWord { what: $what, word: word.to_owned() }),
                }
            }
        }
    };
}

words! {
    /// Where a worker came from.
    WorkerSource, "source of a worker", {
        /// The setting `WORKER_AGENTS`.
        Setting = "setting",
        /// The admin API.
        Api = "api",
        /// An instance that this installation made on Compute Engine.
        Gcp = "gcp",
    }
}

words! {
    /// What is wanted of a worker.
    WorkerWish, "wish for a worker", {
        /// It takes seats.
        Active = "active",
        /// It keeps those that it has and takes no more.
        Draining = "draining",
        /// It is gone, or given up. Its row stays as a tombstone, so that what comes back is known.
        Forgotten = "forgotten",
    }
}

/// A worker.
#[derive(Clone, PartialEq, Eq)]
pub struct WorkerRecord {
    /// 1 to 63 of `a-zA-Z0-9._:-`: the address unless another one was given; on GCP the instance's name.
    pub id: String,
    /// `HOST:PORT`; unique among workers that are not forgotten.
    pub address: String,
    /// Its agent's token, sealed by the server; the store can't read it.
    pub token_sealed: Vec<u8>,
    /// Where learners reach it directly.
    pub public_url: Option<String>,
    /// For people, and for choosing.
    pub labels: BTreeMap<String, String>,
    /// How many seats it is to have; its agent may say less.
    pub capacity: Option<u32>,
    /// PEM of a CA or certificate to pin; `None` is plain HTTP.
    pub tls: Option<String>,
    /// Where it came from.
    pub source: WorkerSource,
    /// What is wanted of it.
    pub wish: WorkerWish,
    /// Kind of its runtime when it was last seen, so that a server that starts while it is away knows.
    pub kind: Option<String>,
    /// When it was first recorded.
    pub created_at: Timestamp,
}

impl fmt::Debug for WorkerRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerRecord")
            .field("id", &self.id)
            .field("address", &self.address)
            .field("source", &self.source)
            .field("wish", &self.wish)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

/// A worker may hold something of a seat, up to a generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// The seat.
    pub key: SeatKey,
    /// The highest generation that it may hold.
    pub generation: Generation,
    /// The worker's id.
    pub worker: String,
}

/// Proof of a lease, carried by what is written on its strength: refused once another has it, or it was released.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Fence {
    /// The lease's name.
    pub lease: String,
    /// Its token when it was had.
    pub token: u64,
}

/// The right to decide something, for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// What it is for.
    pub name: String,
    /// Who has it.
    pub holder: String,
    /// Grows whenever it changes hands or has expired.
    pub token: u64,
    /// By the clock that the store compares with: the given `now` in SQLite, the database's own in PostgreSQL. A holder
    /// had better count its time from before it asked, by a clock that nobody sets.
    pub expires_at: Timestamp,
}

impl Lease {
    /// What is to go with each write.
    #[must_use]
    pub fn fence(&self) -> Fence {
        Fence { lease: self.name.clone(), token: self.token }
    }
}
