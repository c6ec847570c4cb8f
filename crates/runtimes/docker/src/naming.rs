//! What our containers, volumes, networks and bridges are called, and the labels by which they are found again.
//!
//! Names are for people and for uniqueness; only labels are ever parsed. Whatever lacks this installation's label is
//! none of ours, whatever its name.

use std::collections::HashMap;

use clarateach_ids::{Generation, InstallationId, SeatKey, WorkshopId};
use clarateach_runtime::Egress;
use jiff::Timestamp;

pub(crate) const INSTALLATION: &str = "io.clarateach.installation";
const ROLE: &str = "io.clarateach.role";
const WORKSHOP: &str = "io.clarateach.workshop";
const SEAT: &str = "io.clarateach.seat";
const GENERATION: &str = "io.clarateach.generation";
const NOT_AFTER: &str = "io.clarateach.not-after";

/// What a labelled thing is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// A seat's container, or its disk.
    Seat,
    /// The volume that carries `workspace`, and the container that fills it.
    Tools,
    /// A workshop's network.
    Network,
}

impl Role {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Seat => "seat",
            Self::Tools => "tools",
            Self::Network => "network",
        }
    }
}

pub(crate) type Labels = HashMap<String, String>;

/// Names and labels of one installation.
#[derive(Debug, Clone)]
pub(crate) struct Naming {
    installation: InstallationId,
    short: String,
}

/// Lowercase letters and digits, five bits each.
fn digest(text: &str, characters: usize) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let hash = blake3::hash(text.as_bytes());
    hash.as_bytes().iter().take(characters).map(|b| char::from(ALPHABET[usize::from(b & 31)])).collect()
}

impl Naming {
    pub(crate) fn new(installation: InstallationId) -> Self {
        let short = digest(installation.as_str(), 5);
        Self { installation, short }
    }

    /// The container of one make of a seat, and the volume that is its disk.
    pub(crate) fn seat(&self, key: &SeatKey, generation: Generation) -> String {
        format!("clarateach-{}-{}-{}-g{generation}", self.short, key.workshop, key.seat)
    }

    pub(crate) fn network(&self, workshop: &WorkshopId, egress: Egress) -> String {
        match egress {
            Egress::Internet => format!("clarateach-{}-{workshop}", self.short),
            Egress::None => format!("clarateach-{}-{workshop}-closed", self.short),
        }
    }

    /// At most 15 characters, which is all that the kernel takes.
    pub(crate) fn bridge(&self, workshop: &WorkshopId, egress: Egress) -> String {
        format!("{}{}", self.bridge_prefix(egress), digest(workshop.as_str(), 7))
    }

    /// What the bridges of all workshops with this egress start with: firewall rules match on it.
    pub(crate) fn bridge_prefix(&self, egress: Egress) -> String {
        let kind = match egress {
            Egress::Internet => 'i',
            Egress::None => 'n',
        };
        format!("ct{}{kind}", self.short)
    }

    pub(crate) fn firewall_table(&self) -> String {
        format!("clarateach_{}", self.short)
    }

    pub(crate) fn tools(&self, binary: &str) -> String {
        format!("clarateach-{}-workspace-{binary}", self.short)
    }

    fn labels(&self, role: Role) -> Labels {
        Labels::from([
            (INSTALLATION.to_owned(), self.installation.to_string()),
            (ROLE.to_owned(), role.as_str().to_owned()),
        ])
    }

    pub(crate) fn tools_labels(&self) -> Labels {
        self.labels(Role::Tools)
    }

    pub(crate) fn network_labels(&self, workshop: &WorkshopId) -> Labels {
        let mut labels = self.labels(Role::Network);
        labels.insert(WORKSHOP.to_owned(), workshop.to_string());
        labels
    }

    pub(crate) fn seat_labels(
        &self,
        key: &SeatKey,
        generation: Generation,
        not_after: Option<Timestamp>,
    ) -> Labels {
        let mut labels = self.labels(Role::Seat);
        labels.insert(WORKSHOP.to_owned(), key.workshop.to_string());
        labels.insert(SEAT.to_owned(), key.seat.to_string());
        labels.insert(GENERATION.to_owned(), generation.to_string());
        if let Some(at) = not_after {
            labels.insert(NOT_AFTER.to_owned(), at.to_string());
        }
        labels
    }

    /// Engine filters that match everything of this installation with a role.
    pub(crate) fn all(&self, role: Role) -> HashMap<String, Vec<String>> {
        self.filter(&[format!("{ROLE}={}", role.as_str())])
    }

    /// Engine filters that match everything of one seat.
    pub(crate) fn of_seat(&self, key: &SeatKey) -> HashMap<String, Vec<String>> {
        self.filter(&[
            format!("{ROLE}={}", Role::Seat.as_str()),
            format!("{WORKSHOP}={}", key.workshop),
            format!("{SEAT}={}", key.seat),
        ])
    }

    fn filter(&self, more: &[String]) -> HashMap<String, Vec<String>> {
        let mut labels = vec![format!("{INSTALLATION}={}", self.installation)];
        labels.extend_from_slice(more);
        HashMap::from([("label".to_owned(), labels)])
    }

    /// Which make of which seat a labelled thing belongs to; none if it isn't a seat's, or not ours.
    pub(crate) fn seat_of(&self, labels: &Labels) -> Option<(SeatKey, Generation)> {
        if labels.get(INSTALLATION)? != self.installation.as_str() || labels.get(ROLE)? != Role::Seat.as_str()
        {
            return None;
        }
        let workshop = labels.get(WORKSHOP)?.parse().ok()?;
        let seat = labels.get(SEAT)?.parse().ok()?;
        let generation = Generation(labels.get(GENERATION)?.parse().ok()?);
        Some((SeatKey { workshop, seat }, generation))
    }

    /// Which workshop one of our networks belongs to.
    pub(crate) fn workshop_of(&self, labels: &Labels) -> Option<WorkshopId> {
        if labels.get(INSTALLATION)? != self.installation.as_str()
            || labels.get(ROLE)? != Role::Network.as_str()
        {
            return None;
        }
        labels.get(WORKSHOP)?.parse().ok()
    }
}

/// When a container was to end, as it was created.
pub(crate) fn not_after(labels: &Labels) -> Option<Timestamp> {
    labels.get(NOT_AFTER)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use clarateach_ids::SeatNumber;

    use super::*;

    #[test]
    fn labels_lead_back_to_the_seat_of_the_same_installation_only() {
        let ours = Naming::new(InstallationId::random());
        let key = SeatKey { workshop: WorkshopId::random(), seat: SeatNumber::new(7).unwrap() };
        let at: Timestamp = "2030-01-02T03:04:05Z".parse().unwrap();
        let labels = ours.seat_labels(&key, Generation(3), Some(at));
        assert_eq!(ours.seat_of(&labels), Some((key, Generation(3))));
        assert_eq!(not_after(&labels), Some(at));
        assert_eq!(Naming::new(InstallationId::random()).seat_of(&labels), None);
        assert_eq!(ours.workshop_of(&labels), None);
    }

    #[test]
    fn bridge_names_fit_the_kernel() {
        let naming = Naming::new(InstallationId::random());
        let long: WorkshopId = "w".repeat(63).parse().unwrap();
        for egress in [Egress::Internet, Egress::None] {
            let bridge = naming.bridge(&long, egress);
            assert!(bridge.len() <= 15, "{bridge}");
            assert!(bridge.starts_with(&naming.bridge_prefix(egress)));
        }
    }
}
