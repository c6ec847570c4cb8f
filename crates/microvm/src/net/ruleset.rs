//! Our two tables, as data: what guests may send at all (family bridge), and where it may go (family inet).
//!
//! Nothing in them depends on which VMs there are, but for one set: those that may go nowhere. Which tap may use which
//! addresses is known beforehand, since a tap's name and a guest's MAC follow from its address: all of them are
//! pinned when the tables are made, and starting a VM needs no change of the firewall.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashSet};
use std::net::Ipv4Addr;

use clarateach_ids::MacAddr;
use nftables::batch::Batch;
use nftables::expr::{BinaryOperation, Expression, MetaKey, NamedExpression, SetItem};
use nftables::schema::{
    Chain, Element, NfListObject, Nftables, Rule, Set, SetFlag, SetType, SetTypeValue, Table,
};
use nftables::stmt::Statement;
use nftables::types::{NfChainPolicy, NfChainType, NfFamily, NfHook};

use super::statement::{
    ACCEPT, DROP, REJECT, address, concat, count, ct, equal, from, ip6, jump, meta, payload, pinned_by,
    range, text, to, unequal,
};
use super::subnet::Subnet;
use super::tap;

/// Private, loopback, link-local (the metadata service), carrier, benchmark, multicast and reserved ranges, after
/// the IANA IPv4 Special-Purpose Address Registry. The documentation ranges stay open: nobody lives there.
const CLOSED: [(Ipv4Addr, u8); 11] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
];

/// The set of guests that may connect to nowhere.
pub(crate) const NO_EGRESS: &str = "no_egress";

/// What the tables are made of.
#[derive(Debug, Clone)]
pub(crate) struct Design {
    pub(crate) bridge: String,
    pub(crate) owner: String,
    pub(crate) subnet: Subnet,
    /// Closed to guests, besides what always is.
    pub(crate) closed: Vec<(Ipv4Addr, u8)>,
    /// Open to guests although it is closed.
    pub(crate) allowed: Vec<(Ipv4Addr, u8)>,
}

impl Design {
    /// The name of both tables: the bridge's, in the letters that nft's language takes in a name.
    pub(crate) fn table(&self) -> String {
        let name: String =
            self.bridge.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        if name.starts_with(|c: char| c.is_ascii_alphabetic()) { name } else { format!("ct_{name}") }
    }

    /// One transaction that ends with exactly these tables, whatever there was.
    pub(crate) fn install(&self, no_egress: &BTreeSet<Ipv4Addr>) -> Nftables<'static> {
        let mut batch = Batch::new();
        // Adding first makes removing what isn't there no error.
        for family in [NfFamily::Bridge, NfFamily::INet] {
            batch.add(self.table_object(family));
            batch.delete(self.table_object(family));
            batch.add(self.table_object(family));
        }
        self.frames(&mut batch);
        self.packets(&mut batch, no_egress);
        batch.to_nftables()
    }

    /// Takes both tables away.
    pub(crate) fn uninstall(&self) -> Nftables<'static> {
        let mut batch = Batch::new();
        for family in [NfFamily::Bridge, NfFamily::INet] {
            batch.add(self.table_object(family));
            batch.delete(self.table_object(family));
        }
        batch.to_nftables()
    }

    /// Changes who may go nowhere, whoever does.
    pub(crate) fn change_no_egress(&self, add: &[Ipv4Addr], remove: &[Ipv4Addr]) -> Nftables<'static> {
        let elements = |addresses: &[Ipv4Addr]| {
            NfListObject::Element(Element {
                family: NfFamily::INet,
                table: self.table().into(),
                name: NO_EGRESS.into(),
                elem: addresses.iter().map(address).collect(),
            })
        };
        let mut batch = Batch::new();
        if !remove.is_empty() {
            // Adding first makes removing what isn't there no error.
            batch.add(elements(remove));
            batch.delete(elements(remove));
        }
        if !add.is_empty() {
            batch.add(elements(add));
        }
        batch.to_nftables()
    }

    /// Family bridge: a guest sends IPv4 and ARP, from its own tap, MAC and address, and nothing else.
    fn frames(&self, batch: &mut Batch<'static>) {
        let mut table = TableWriter { batch, family: NfFamily::Bridge, table: self.table() };
        let pins = self.subnet.pool().map(|guest| {
            concat([
                text(tap::tap_name(&self.owner, guest)),
                text(MacAddr::of_ipv4(guest).to_string()),
                address(&guest),
            ])
        });
        let pinned = [SetType::Ifname, SetType::EtherAddr, SetType::Ipv4Addr];
        table.set("pins", SetTypeValue::Concatenated(pinned.to_vec().into()), None, pins.collect());

        table.base_chain("prerouting", NfChainType::Filter, NfHook::Prerouting, -300);
        table.base_chain("input", NfChainType::Filter, NfHook::Input, -300);
        table.chain("guest");

        table.rule("prerouting", [from(&self.taps()), jump("guest")]);
        // The bridge hands frames to 01:80:c2:00:00:0x (LLDP and its like) to the host past the chain above and with
        // the tap as their interface, even when they carry IP.
        let reserved = Expression::BinaryOperation(Box::new(BinaryOperation::AND(
            payload("ether", "daddr"),
            text("ff:ff:ff:ff:ff:f0"),
        )));
        table.rule("input", [from(&self.taps()), equal(reserved, text("01:80:c2:00:00:00")), count(), DROP]);

        let tagged =
            NamedExpression::Set(["8021q", "8021ad"].map(|kind| SetItem::Element(text(kind))).to_vec());
        table.rule("guest", [equal(payload("ether", "type"), Expression::Named(tagged)), count(), DROP]);
        table.rule("guest", [pinned_by("ether", "saddr", "ip", "saddr"), ACCEPT]);
        table.rule(
            "guest",
            [
                pinned_by("ether", "saddr", "arp", "saddr ip"),
                pinned_by("arp", "saddr ether", "arp", "saddr ip"),
                ACCEPT,
            ],
        );
        table.rule("guest", [count(), DROP]);
    }

    /// Family inet: out to the internet, names from the bridge address, and nothing else in any direction that the
    /// host didn't begin.
    fn packets(&self, batch: &mut Batch<'static>, no_egress: &BTreeSet<Ipv4Addr>) {
        let bridge = self.bridge.as_str();
        let mut table = TableWriter { batch, family: NfFamily::INet, table: self.table() };
        let one = || SetTypeValue::Single(SetType::Ipv4Addr);
        let ranges = |ranges: Vec<(Ipv4Addr, u8)>| ranges.into_iter().map(range).collect();
        let interval = Some(SetFlag::Interval);
        table.set("closed", one(), interval, ranges(merged([&CLOSED[..], &self.closed].concat())));
        table.set("allowed", one(), interval, ranges(merged(self.allowed.clone())));
        table.set(NO_EGRESS, one(), None, no_egress.iter().map(address).collect());

        table.base_chain("prerouting", NfChainType::Filter, NfHook::Prerouting, -350);
        table.base_chain("input", NfChainType::Filter, NfHook::Input, 0);
        table.base_chain("forward", NfChainType::Filter, NfHook::Forward, 0);
        table.base_chain("output", NfChainType::Filter, NfHook::Output, 0);
        table.base_chain("postrouting", NfChainType::NAT, NfHook::Postrouting, 100);
        for chain in ["to_host", "from_guest", "to_guest"] {
            table.chain(chain);
        }

        // What came over the bridge has the bridge as its interface; with a tap's it went around it.
        table.rule("prerouting", [from(&self.taps()), count(), DROP]);
        table.rule("input", [from(bridge), jump("to_host")]);
        table.rule("forward", [from(bridge), jump("from_guest")]);
        table.rule("forward", [to(bridge), jump("to_guest")]);

        // While the nameserver is restarted, queries are better not answered than refused: resolvers ask again.
        table.rule("output", [to(bridge), equal(payload("icmp", "code"), text("port-unreachable")), DROP]);

        table.rule("to_host", [ip6(), count(), DROP]);
        table.rule("to_host", [ct("state", &["established", "related"]), ACCEPT]);
        for protocol in ["udp", "tcp"] {
            let here = equal(payload("ip", "daddr"), address(&self.subnet.gateway()));
            table.rule("to_host", [here, equal(payload(protocol, "dport"), Expression::Number(53)), ACCEPT]);
        }
        table.rule("to_host", [count(), REJECT]);

        table.rule("from_guest", [ip6(), count(), DROP]);
        table.rule("from_guest", [to(bridge), count(), DROP]);
        table.rule("from_guest", [ct("state", &["invalid"]), count(), DROP]);
        table.rule(
            "from_guest",
            [equal(payload("ip", "saddr"), text(format!("@{NO_EGRESS}"))), count(), REJECT],
        );
        table.rule("from_guest", [equal(payload("ip", "daddr"), text("@allowed")), ACCEPT]);
        // What the host publishes of its own containers is no business of guests.
        table.rule("from_guest", [ct("status", &["dnat"]), count(), REJECT]);
        table.rule("from_guest", [equal(payload("ip", "daddr"), text("@closed")), count(), REJECT]);
        table.rule("from_guest", [ACCEPT]);

        table.rule("to_guest", [ct("state", &["established", "related"]), ACCEPT]);
        table.rule("to_guest", [count(), DROP]);

        let ours = equal(payload("ip", "saddr"), range((self.subnet.network(), self.subnet.prefix())));
        let outward = unequal(meta(MetaKey::Oifname), text(bridge.to_owned()));
        table.rule("postrouting", [ours, outward, Statement::Masquerade(None)]);
    }

    fn table_object(&self, family: NfFamily) -> NfListObject<'static> {
        NfListObject::Table(Table { family, name: self.table().into(), handle: None })
    }

    /// Matches all taps of this owner.
    fn taps(&self) -> String {
        format!("{}*", tap::prefix(&self.owner))
    }
}

/// Interval sets refuse ranges that overlap: those within others go.
fn merged(mut ranges: Vec<(Ipv4Addr, u8)>) -> Vec<(Ipv4Addr, u8)> {
    ranges.sort_by_key(|(address, prefix)| (*prefix, *address));
    let mut kept: Vec<(Ipv4Addr, u8)> = Vec::new();
    for (address, prefix) in ranges {
        let network = |length: u8| u32::from(address).checked_shr(32 - u32::from(length)).unwrap_or(0);
        let inside = |(wider, length): &(Ipv4Addr, u8)| {
            u32::from(*wider).checked_shr(32 - u32::from(*length)).unwrap_or(0) == network(*length)
        };
        if prefix <= 32 && !kept.iter().any(inside) {
            let start = network(prefix).checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            kept.push((start.into(), prefix));
        }
    }
    kept
}

/// Writes the objects of one table into a batch.
struct TableWriter<'b> {
    batch: &'b mut Batch<'static>,
    family: NfFamily,
    table: String,
}

impl TableWriter<'_> {
    fn set(
        &mut self,
        name: &'static str,
        kind: SetTypeValue<'static>,
        flag: Option<SetFlag>,
        elements: Vec<Expression<'static>>,
    ) {
        let set = Set {
            family: self.family,
            table: self.table.clone().into(),
            name: name.into(),
            set_type: kind,
            flags: flag.map(|flag| HashSet::from([flag])),
            elem: Some(elements.into()).filter(|elements: &Cow<'_, [_]>| !elements.is_empty()),
            ..Set::default()
        };
        self.batch.add(NfListObject::Set(Box::new(set)));
    }

    fn base_chain(&mut self, name: &'static str, kind: NfChainType, hook: NfHook, priority: i32) {
        self.batch.add(NfListObject::Chain(Chain {
            family: self.family,
            table: self.table.clone().into(),
            name: name.into(),
            _type: Some(kind),
            hook: Some(hook),
            prio: Some(priority),
            policy: Some(NfChainPolicy::Accept),
            ..Chain::default()
        }));
    }

    fn chain(&mut self, name: &'static str) {
        let table = self.table.clone().into();
        self.batch.add(NfListObject::Chain(Chain {
            family: self.family,
            table,
            name: name.into(),
            ..Chain::default()
        }));
    }

    fn rule<const N: usize>(&mut self, chain: &'static str, statements: [Statement<'static>; N]) {
        self.batch.add(NfListObject::Rule(Rule {
            family: self.family,
            table: self.table.clone().into(),
            chain: chain.into(),
            expr: statements.to_vec().into(),
            ..Rule::default()
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn design(prefix: u8) -> Design {
        Design {
            bridge: "clarateach0".to_owned(),
            owner: "test".to_owned(),
            subnet: Subnet::new([10, 0, 0, 1].into(), prefix).unwrap(),
            closed: vec![([203, 0, 113, 7].into(), 24), ([10, 1, 2, 3].into(), 32)],
            allowed: Vec::new(),
        }
    }

    fn rules(design: &Design) -> usize {
        let text = serde_json::to_string(&design.install(&BTreeSet::new())).unwrap();
        text.matches(r#"{"rule":"#).count()
    }

    #[test]
    fn the_number_of_rules_does_not_depend_on_the_number_of_guests() {
        assert_eq!(rules(&design(29)), rules(&design(16)));
    }

    #[test]
    fn ranges_within_others_go_and_host_bits_are_cleared() {
        let closed = merged([&CLOSED[..], &design(24).closed].concat());
        assert_eq!(closed.len(), CLOSED.len() + 1);
        assert!(closed.contains(&([203, 0, 113, 0].into(), 24)));
        assert_eq!(
            merged(vec![([8, 8, 8, 8].into(), 32), ([0, 0, 0, 0].into(), 0)]),
            [([0, 0, 0, 0].into(), 0)]
        );
    }

    #[test]
    fn table_names_are_words() {
        let named = |bridge: &str| Design { bridge: bridge.to_owned(), ..design(24) }.table();
        assert_eq!(named("clarateach0"), "clarateach0");
        assert_eq!(named("br-a.1"), "br_a_1");
        assert_eq!(named("0br"), "ct_0br");
    }
}
