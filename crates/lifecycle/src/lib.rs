//! Pure state machines of workshop, seat and session: no I/O, no clock, no async.
//!
//! What is **wanted** ([`Wanted`]), what is **so** ([`WorkshopStatus`], [`SeatState`]) and what is **shown**
//! ([`SeatStatus`]) are three types: nobody can ask a seat to be "starting".
//!
//! ```text
//! workshop   created ──▶ provisioning ──▶ running ──▶ stopping ──▶ stopped ──▶ (start) provisioning
//!               │             │ nothing could be made      ▲
//!               │             └──▶ error ──(a seat works)──┼──▶ running
//!               └── from every state ──▶ deleting ──▶ gone
//!
//! seat       pending ──▶ starting ──▶ ready ◀──▶ unreachable
//!               ▲            │          │            │ free: made anew; held: restarted in place
//!               └── retry ── failed ◀───┴────────────┘
//! ```

mod seat;
mod session;
mod workshop;

pub use seat::{EnvironmentSight, SeatState, SeatStatus, observe_seat, seat_status};
pub use session::{EndReason, SessionState};
pub use workshop::{SeatTally, Wanted, WorkshopStatus, shown_status, workshop_status};

/// A stored word that isn't one of a state's names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{word:?} is not a {kind}")]
pub struct UnknownWord {
    kind: &'static str,
    word: String,
}

/// Gives an enum its stored words: `as_str`, `Display` and `FromStr`.
macro_rules! words {
    ($type:ident, $kind:literal, { $($variant:ident = $word:literal),+ $(,)? }) => {
        impl $type {
            /// The word that is stored and shown.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            /// Every value.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl std::str::FromStr for $type {
            type Err = $crate::UnknownWord;
            fn from_str(word: &str) -> Result<Self, Self::Err> {
                Self::ALL.iter().copied().find(|value| value.as_str() == word).ok_or_else(|| {
                    $crate::UnknownWord { kind: $kind, word: word.to_owned() }
                })
            }
        }
    };
}
pub(crate) use words;
