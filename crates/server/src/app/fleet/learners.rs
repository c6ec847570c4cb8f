//! Learners who reach their seats at the workers themselves: where, with which keys, and until when.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use clarateach_api::agent::{RevokedSession, SeatKeys};
use clarateach_ids::{Generation, SeatKey, SessionId};
use jiff::Timestamp;

use super::{Fleet, lock};

impl Fleet {
    /// Whether learners reach any worker directly.
    #[must_use]
    pub fn has_public_workers(&self) -> bool {
        let members = self.members.read().unwrap_or_else(PoisonError::into_inner);
        members.values().any(|member| member.with(|seen| seen.record().public_url.is_some()))
    }

    /// Where learners reach a make of a seat directly; none: through this server's gateway.
    pub async fn public_url(&self, key: &SeatKey, generation: Generation) -> Option<String> {
        let keys = lock(&self.around.keys).clone();
        if !self.has_public_workers() {
            return None;
        }
        let member = self.find(key, Some(generation)).await?;
        member.with(|seen| seen.takes_learners(keys.as_ref()).map(str::to_owned))
    }

    /// The keys whose tokens workers accept from now on.
    pub fn set_keys(&self, keys: SeatKeys) {
        let differs = lock(&self.around.keys).replace(keys.clone()) != Some(keys);
        if differs {
            for member in self.members().into_values() {
                member.tell();
            }
        }
    }

    /// Learners who use their seats at the workers themselves, and when they were last heard of.
    #[must_use]
    pub fn learners(&self) -> BTreeMap<SessionId, Timestamp> {
        self.members().into_values().flat_map(|member| member.learners()).collect()
    }

    /// Has all workers that learners reach directly end these sessions.
    pub fn revoke(&self, sessions: &[RevokedSession]) {
        if sessions.is_empty() {
            return;
        }
        for member in self.members().into_values() {
            if member.with(|seen| seen.record().public_url.is_some()) {
                member.revoke(sessions);
            }
        }
    }
}
