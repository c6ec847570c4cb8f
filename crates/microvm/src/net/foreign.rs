//! Other people's firewalls on this host, and the few rules of ours that they need.
//!
//! In nftables every base chain of a hook has to let a packet pass: an accept in our table is worth nothing where
//! Docker's or the operator's forward chain drops. So a chain that drops by default gets two accepts at its beginning,
//! for the bridge only, with a comment that says whose they are. They open nothing by themselves: our own chains
//! drop what guests may not do, wherever else it was accepted. They are made of interface names and one address,
//! because that is what every version of `iptables-nft` can still print.

use nftables::batch::Batch;
use nftables::schema::{NfCmd, NfListObject, Nftables, Rule};
use nftables::stmt::Statement;
use nftables::types::NfFamily;
use serde_json::Value;

use super::ruleset::Design;
use super::statement::{self, ACCEPT};

/// The chain that Docker leaves to the host's operator, see its documentation "Packet filtering and firewalls".
const DOCKER_USER: &str = "DOCKER-USER";

/// A chain of somebody else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) family: NfFamily,
    pub(crate) table: String,
    pub(crate) chain: String,
    hook: Hook,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hook {
    Forward,
    Input,
    Output,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let family = if self.family == NfFamily::IP { "ip" } else { "inet" };
        write!(f, "{family} {} {}", self.table, self.chain)
    }
}

/// A rule of ours in somebody else's chain.
#[derive(Debug, Clone, PartialEq)]
struct Tagged {
    family: String,
    table: String,
    chain: String,
    handle: u64,
    expr: Value,
}

/// What was found in a listing of all chains and rules.
#[derive(Debug)]
pub(crate) struct Foreign {
    /// Chains that would drop what guests need, and where accepts of ours belong.
    pub(crate) places: Vec<Place>,
    tagged: Vec<Tagged>,
    comment: String,
}

impl Foreign {
    /// Reads the objects of `nft --json --terse list ruleset`.
    pub(crate) fn read(objects: &[Value], design: &Design) -> Self {
        let own = design.table();
        let rules: Vec<&Value> = objects.iter().filter_map(|object| object.get("rule")).collect();
        let places = objects
            .iter()
            .filter_map(|object| object.get("chain"))
            .filter(|chain| text(chain, "table") != own)
            .filter_map(|chain| place(chain, &rules))
            .collect();
        let comment = comment(&design.bridge);
        let tagged = rules
            .iter()
            .filter(|rule| text(rule, "comment") == comment)
            .map(|rule| Tagged {
                family: text(rule, "family").to_owned(),
                table: text(rule, "table").to_owned(),
                chain: text(rule, "chain").to_owned(),
                handle: rule.get("handle").and_then(Value::as_u64).unwrap_or(0),
                expr: without_counters(rule.get("expr")),
            })
            .collect();
        Self { places, tagged, comment }
    }

    /// The transaction that puts missing accepts in and takes stale ones out; none when all is right.
    pub(crate) fn mend(&self, design: &Design) -> Option<Nftables<'static>> {
        let mut stale = self.tagged.clone();
        let mut batch = Batch::new();
        let mut changes = 0;
        for place in &self.places {
            for statements in accepts(place, design) {
                let wanted = serde_json::to_value(&statements).unwrap_or_default();
                let there = stale.iter().position(|tagged| {
                    (tagged.family.as_str(), tagged.table.as_str(), tagged.chain.as_str())
                        == (family_name(place.family), place.table.as_str(), place.chain.as_str())
                        && tagged.expr == wanted
                });
                if let Some(there) = there {
                    stale.swap_remove(there);
                    continue;
                }
                changes += 1;
                batch.add_cmd(NfCmd::Insert(NfListObject::Rule(Rule {
                    family: place.family,
                    table: place.table.clone().into(),
                    chain: place.chain.clone().into(),
                    expr: statements.into(),
                    comment: Some(self.comment.clone().into()),
                    ..Rule::default()
                })));
            }
        }
        changes += stale.len();
        delete(&mut batch, &stale);
        (changes > 0).then(|| batch.to_nftables())
    }

    /// The transaction that takes all of ours out; none when there is nothing.
    pub(crate) fn withdraw(&self) -> Option<Nftables<'static>> {
        let mut batch = Batch::new();
        delete(&mut batch, &self.tagged);
        (!self.tagged.is_empty()).then(|| batch.to_nftables())
    }

    /// Whether the accepts that a chain needs are in it.
    pub(crate) fn accepted(&self, place: &Place) -> bool {
        self.tagged.iter().any(|tagged| tagged.table == place.table && tagged.chain == place.chain)
    }
}

fn comment(bridge: &str) -> String {
    format!("clarateach {bridge}")
}

/// Where our accepts belong if this chain is a base chain that drops by default.
fn place(chain: &Value, rules: &[&Value]) -> Option<Place> {
    let family = match text(chain, "family") {
        "ip" => NfFamily::IP,
        "inet" => NfFamily::INet,
        _ => return None,
    };
    let hook = match text(chain, "hook") {
        "forward" => Hook::Forward,
        "input" => Hook::Input,
        "output" => Hook::Output,
        _ => return None,
    };
    let (table, name) = (text(chain, "table"), text(chain, "name"));
    let own: Vec<&&Value> = rules.iter().filter(|rule| of_chain(rule, chain)).collect();
    let drops_at_last = own.last().is_some_and(|rule| drops_everything(rule));
    if text(chain, "policy") != "drop" && !drops_at_last {
        return None;
    }
    let jumps_to_docker_user = own.iter().any(|rule| {
        statements(rule)
            .iter()
            .any(|statement| statement.pointer("/jump/target").and_then(Value::as_str) == Some(DOCKER_USER))
    });
    let chain = if hook == Hook::Forward && jumps_to_docker_user { DOCKER_USER } else { name };
    Some(Place { family, table: table.to_owned(), chain: chain.to_owned(), hook })
}

fn of_chain(rule: &Value, chain: &Value) -> bool {
    ["family", "table"].iter().all(|key| text(rule, key) == text(chain, key))
        && text(rule, "chain") == text(chain, "name")
}

/// Whether a rule drops or rejects without a condition.
fn drops_everything(rule: &Value) -> bool {
    let statements = statements(rule);
    let ends = |statement: &Value| statement.get("drop").is_some() || statement.get("reject").is_some();
    let harmless = |statement: &Value| statement.get("counter").is_some() || statement.get("log").is_some();
    statements.last().is_some_and(ends)
        && statements.iter().all(|statement| ends(statement) || harmless(statement))
}

/// The accepts that a chain needs.
fn accepts(place: &Place, design: &Design) -> Vec<Vec<Statement<'static>>> {
    let bridge = design.bridge.as_str();
    let gateway = statement::address(&design.subnet.gateway());
    match place.hook {
        Hook::Forward => vec![vec![statement::from(bridge), ACCEPT], vec![statement::to(bridge), ACCEPT]],
        Hook::Input => {
            let here = statement::equal(statement::payload("ip", "daddr"), gateway);
            vec![vec![statement::from(bridge), here, ACCEPT]]
        }
        Hook::Output => {
            let here = statement::equal(statement::payload("ip", "saddr"), gateway);
            vec![vec![statement::to(bridge), here, ACCEPT]]
        }
    }
}

fn delete(batch: &mut Batch<'static>, rules: &[Tagged]) {
    for rule in rules {
        let family = if rule.family == "ip" { NfFamily::IP } else { NfFamily::INet };
        batch.delete(NfListObject::Rule(Rule {
            family,
            table: rule.table.clone().into(),
            chain: rule.chain.clone().into(),
            handle: u32::try_from(rule.handle).ok(),
            ..Rule::default()
        }));
    }
}

fn family_name(family: NfFamily) -> &'static str {
    if family == NfFamily::IP { "ip" } else { "inet" }
}

fn text<'v>(object: &'v Value, key: &str) -> &'v str {
    object.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn statements(rule: &Value) -> &[Value] {
    rule.get("expr").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn without_counters(expr: Option<&Value>) -> Value {
    let statements = expr.and_then(Value::as_array).cloned().unwrap_or_default();
    statements.into_iter().filter(|statement| statement.get("counter").is_none()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::net::subnet::Subnet;

    fn design() -> Design {
        Design {
            bridge: "br7".to_owned(),
            owner: "test".to_owned(),
            subnet: Subnet::new([10, 0, 0, 1].into(), 24).unwrap(),
            closed: Vec::new(),
            allowed: Vec::new(),
        }
    }

    fn chain(table: &str, name: &str, hook: &str, policy: &str) -> Value {
        json!({"chain": {"family": "ip", "table": table, "name": name, "type": "filter", "hook": hook, "prio": 0, "policy": policy}})
    }

    fn rule(table: &str, chain: &str, expr: Value) -> Value {
        json!({"rule": {"family": "ip", "table": table, "chain": chain, "handle": 7, "expr": expr}})
    }

    fn places(objects: &[Value]) -> Vec<String> {
        Foreign::read(objects, &design()).places.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn chains_that_drop_by_default_are_found() {
        assert_eq!(places(&[chain("filter", "FORWARD", "forward", "drop")]), ["ip filter FORWARD"]);
        assert_eq!(places(&[chain("filter", "FORWARD", "forward", "accept")]), [] as [&str; 0]);
        assert_eq!(places(&[chain("br7", "forward", "forward", "drop")]), [] as [&str; 0], "our own");
        let last =
            rule("f", "c", json!([{"counter": {"packets": 1, "bytes": 2}}, {"reject": {"type": "icmpx"}}]));
        assert_eq!(places(&[chain("f", "c", "forward", "accept"), last]), ["ip f c"]);
        let some = rule("f", "c", json!([{"match": {}}, {"drop": null}]));
        assert_eq!(places(&[chain("f", "c", "forward", "accept"), some]), [] as [&str; 0]);
    }

    #[test]
    fn dockers_chain_is_taken_when_it_is_reached() {
        let forward = chain("filter", "FORWARD", "forward", "drop");
        let user = json!({"chain": {"family": "ip", "table": "filter", "name": DOCKER_USER}});
        let jump = rule("filter", "FORWARD", json!([{"jump": {"target": DOCKER_USER}}]));
        assert_eq!(places(&[forward.clone(), user.clone(), jump]), ["ip filter DOCKER-USER"]);
        assert_eq!(places(&[forward, user]), ["ip filter FORWARD"]);
    }

    #[test]
    fn mending_what_is_right_changes_nothing() {
        let forward = chain("filter", "FORWARD", "forward", "drop");
        let empty = Foreign::read(std::slice::from_ref(&forward), &design());
        let inserted = serde_json::to_value(empty.mend(&design()).expect("accepts are missing")).unwrap();
        let mut objects = vec![forward];
        for command in inserted["nftables"].as_array().unwrap() {
            let mut rule = command["insert"]["rule"].clone();
            rule["handle"] = json!(9);
            objects.push(json!({"rule": rule}));
        }
        let full = Foreign::read(&objects, &design());
        assert_eq!(full.tagged.len(), 2);
        assert!(full.mend(&design()).is_none());
        assert!(full.accepted(&full.places[0]));

        objects.remove(0);
        let stale = serde_json::to_string(&Foreign::read(&objects, &design()).mend(&design())).unwrap();
        assert_eq!(stale.matches("delete").count(), 2, "the chain drops no more: {stale}");
    }
}
