//! One host that is registered under several addresses.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use super::member::{Member, Seen};
use super::{Fleet, lock};

impl Fleet {
    /// Finds out which other workers are the same host as those that have just said who they are. No seat enters or
    /// leaves a worker before that, or its host would lose seats to itself.
    pub(super) fn compare_newcomers(&self) {
        let is_newcomer = |member: &Arc<Member>| member.with(Seen::is_newcomer);
        if self.members.read().unwrap_or_else(PoisonError::into_inner).values().any(is_newcomer) {
            self.find_doubles();
        }
    }

    /// Two workers that are one host: the one with seats goes first, then the one that was there first.
    pub(super) fn find_doubles(&self) {
        let members = self.members();
        let names: Vec<_> = members
            .values()
            .map(|member| member.with(|seen| seen.sighting().map(|s| s.info.worker_id.to_string())))
            .collect();
        let doubles = self.doubles(members.values().zip(names.iter().map(Option::as_deref)));
        let mut differs = false;
        for (member, name) in members.values().zip(&names) {
            differs |= member.set_same_as(name.as_deref(), doubles.get(member.id()).cloned());
        }
        if differs {
            self.changed();
        }
    }

    /// Workers that are another one under a second address, each with that one, by the names they give themselves.
    pub(super) fn doubles<'a>(
        &self,
        named: impl Iterator<Item = (&'a Arc<Member>, Option<&'a str>)>,
    ) -> BTreeMap<String, String> {
        let mut by_name: BTreeMap<&str, Vec<&Arc<Member>>> = BTreeMap::new();
        for (member, name) in named {
            if let Some(name) = name {
                by_name.entry(name).or_default().push(member);
            }
        }
        let mut doubles = BTreeMap::new();
        for mut same in by_name.into_values().filter(|same| same.len() > 1) {
            same.sort_by_cached_key(|member| {
                let seats = lock(&self.table).seats_on(member.id());
                (u32::MAX - seats, member.with(|seen| seen.record().created_at), member.id().to_owned())
            });
            let first = same[0].id();
            doubles.extend(same[1..].iter().map(|double| (double.id().to_owned(), first.to_owned())));
        }
        doubles
    }
}
