//! The setting `WORKER_AGENTS`: workers known from the start. The admin API takes the same words for one worker.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use clarateach_gateway::WebOrigin;
use secrecy::{ExposeSecret, SecretString};
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::ConfigError;

const VARIABLE: &str = "WORKER_AGENTS";
const TAKES: &str =
    r#"[{"address":"HOST:9090","token":"…"}], each optionally with public_url, labels, capacity, tls_ca"#;
const FIELDS: [&str; 6] = ["address", "token", "public_url", "labels", "capacity", "tls_ca"];

/// The most seats that may be promised of one worker.
pub const MAX_CAPACITY: u32 = 100_000;
/// What `tls_ca` says for a certificate of a public authority.
pub const PUBLIC_AUTHORITIES: &str = "public";
/// Labels that begin so are written by servers.
const OWN_LABELS: &str = "clarateach/";
const MAX_LABELS: usize = 32;
const MAX_WORD: usize = 128;
const MAX_TOKEN: usize = 512;
const MAX_PEM: usize = 64 * 1024;

/// A worker as it is asked for, by the setting or over the API.
#[derive(Debug, Clone)]
pub struct WorkerAgent {
    /// `HOST:PORT`; an IPv6 address in brackets.
    pub address: String,
    /// What its agent asks of callers.
    pub token: SecretString,
    /// Where learners reach it directly.
    pub public_url: Option<String>,
    /// For people.
    pub labels: BTreeMap<String, String>,
    /// How many seats it is to have at most.
    pub capacity: Option<u32>,
    /// PEM of authorities or of its own certificate, or [`PUBLIC_AUTHORITIES`]; none: plain HTTP.
    pub tls: Option<String>,
}

/// What is wrong with a worker's words: the field, and why. Never repeats a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct WrongWorker {
    /// The field's name.
    pub field: &'static str,
    /// What is wrong and what it takes.
    pub problem: String,
}

fn wrong(field: &'static str, problem: impl Into<String>) -> WrongWorker {
    WrongWorker { field, problem: problem.into() }
}

impl WorkerAgent {
    /// The same, each field checked and spelled one way.
    ///
    /// # Errors
    /// The first field that can't be used.
    pub fn checked(self) -> Result<Self, WrongWorker> {
        let address = address(&self.address)?;
        let token = self.token.expose_secret();
        if token.is_empty() {
            return Err(wrong("token", "must not be empty: it is the worker's AGENT_TOKEN"));
        }
        if token.len() > MAX_TOKEN || !token.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(wrong("token", "takes printable ASCII characters without spaces"));
        }
        let public_url = self.public_url.map(|url| public_url(&url)).transpose()?;
        labels(&self.labels)?;
        if let Some(capacity) = self.capacity.filter(|capacity| !(1..=MAX_CAPACITY).contains(capacity)) {
            let takes = format!("a whole number from 1 to {MAX_CAPACITY}");
            return Err(wrong("capacity", format!("{capacity} can't be used; it takes {takes}")));
        }
        if let Some(pem) = &self.tls
            && pem != PUBLIC_AUTHORITIES
            && (pem.len() > MAX_PEM || !pem.contains("-----BEGIN CERTIFICATE-----"))
        {
            return Err(wrong(
                "tls_ca",
                "takes certificates in PEM, the path of a file of them, or the word public",
            ));
        }
        Ok(Self { address, public_url, ..self })
    }

    /// What the worker is called: its address, in the letters that an id may have.
    #[must_use]
    pub fn id(&self) -> String {
        let bare: String = self.address.chars().filter(|c| !matches!(c, '[' | ']')).collect();
        if bare.len() <= 63 {
            return bare;
        }
        let digest = blake3::hash(bare.as_bytes()).to_hex();
        format!("{}-{}", &bare[..46], &digest[..16])
    }
}

fn address(text: &str) -> Result<String, WrongWorker> {
    let refuse = || {
        let shown: String = text.chars().take(100).collect();
        wrong("address", format!("{shown:?} can't be used; it takes HOST:PORT, such as 10.0.0.5:9090"))
    };
    let (host, port) = text.rsplit_once(':').ok_or_else(refuse)?;
    let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    let port = port.parse::<u16>().ok().filter(|port| digits && *port > 0).ok_or_else(refuse)?;
    let host = host.to_ascii_lowercase();
    let ip: Option<IpAddr> = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        // Of the many ways to write one only the shortest counts, so that nobody is there twice.
        Some(v6) => Some(v6.parse::<Ipv6Addr>().map_err(|_| refuse())?.to_canonical()),
        None if host.bytes().all(|b| b.is_ascii_digit() || b == b'.') => {
            Some(host.parse::<Ipv4Addr>().map_err(|_| refuse())?.into())
        }
        None => None,
    };
    match ip {
        Some(ip) => Ok(SocketAddr::new(ip, port).to_string()),
        None if host.len() <= 253 && host.split('.').all(is_label) && !ends_in_a_number(&host) => {
            Ok(format!("{host}:{port}"))
        }
        None => Err(refuse()),
    }
}

/// Such names are IPv4 addresses to some resolvers, `0x7f.1` for 127.0.0.1 (WHATWG URL, "ends in a number").
fn ends_in_a_number(host: &str) -> bool {
    let last = host.rsplit('.').next().unwrap_or_default();
    let hex = last.strip_prefix("0x").is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
    hex || last.bytes().all(|b| b.is_ascii_digit())
}

fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        && !label.starts_with('-')
        && !label.ends_with('-')
}

fn public_url(text: &str) -> Result<String, WrongWorker> {
    let origin: Result<WebOrigin, _> = text.parse();
    origin.map(|origin| origin.as_str().to_owned()).map_err(|_| {
        let shown: String = text.chars().take(100).collect();
        let takes = "a URL without a path, such as https://worker1.example.org";
        wrong("public_url", format!("{shown:?} can't be used; it takes {takes}"))
    })
}

fn labels(labels: &BTreeMap<String, String>) -> Result<(), WrongWorker> {
    if labels.len() > MAX_LABELS {
        return Err(wrong("labels", format!("takes at most {MAX_LABELS}")));
    }
    let name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/');
    for (key, value) in labels {
        if key.is_empty() || key.len() > MAX_WORD || !key.chars().all(name) {
            return Err(wrong("labels", "names take 1 to 128 letters, digits and . _ - /"));
        }
        if key.starts_with(OWN_LABELS) {
            return Err(wrong("labels", format!("names that begin with {OWN_LABELS} are the server's own")));
        }
        if value.chars().count() > MAX_WORD || value.chars().any(char::is_control) {
            return Err(wrong(
                "labels",
                "values take at most 128 characters, none of them control characters",
            ));
        }
    }
    Ok(())
}

/// Reads the setting; `read_file` gives the text of a file that `tls_ca` names.
pub(super) fn read(
    text: Option<String>,
    read_file: impl Fn(&str) -> std::io::Result<String>,
) -> Result<Vec<WorkerAgent>, ConfigError> {
    let refuse = |problem: String| ConfigError { variable: VARIABLE, problem };
    let Some(text) = text else { return Ok(Vec::new()) };
    // serde's own words may repeat a text, which may be a token.
    let value: serde_json::Value = serde_json::from_str(&text).map_err(|error| {
        refuse(format!("is not JSON (line {}, column {}); it takes {TAKES}", error.line(), error.column()))
    })?;
    let serde_json::Value::Array(entries) = value else {
        return Err(refuse(format!("is {}, not an array; it takes {TAKES}", named(&value))));
    };
    // Of a field that is given twice a `Value` holds the last.
    let names: Vec<Names> = serde_json::from_str(&text).unwrap_or_default();
    let mut agents: Vec<WorkerAgent> = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        let nth = index + 1;
        if let Some(name) = names.get(index).and_then(Names::twice) {
            return Err(refuse(format!("entry {nth}: {name}: is given twice")));
        }
        let agent = one(entry, &read_file).map_err(|problem| refuse(format!("entry {nth}: {problem}")))?;
        if let Some(earlier) = agents.iter().position(|other| other.address == agent.address) {
            let (address, earlier) = (&agent.address, earlier + 1);
            return Err(refuse(format!("entry {nth}: address: {address} is entry {earlier}'s already")));
        }
        agents.push(agent);
    }
    Ok(agents)
}

fn one(
    entry: &serde_json::Value,
    read_file: &impl Fn(&str) -> std::io::Result<String>,
) -> Result<WorkerAgent, WrongWorker> {
    let Some(fields) = entry.as_object() else {
        return Err(wrong("entry", format!("is {}, not an object; it takes {TAKES}", named(entry))));
    };
    if let Some(unknown) = fields.keys().find(|name| !FIELDS.contains(&name.as_str())) {
        let unknown: String = unknown.chars().take(40).collect();
        return Err(wrong(
            "entry",
            format!("there is no field {unknown:?}; there are {}", FIELDS.join(", ")),
        ));
    }
    let given = |name: &str| fields.get(name).filter(|value| !value.is_null());
    let agent = WorkerAgent {
        address: text(given("address"), "address")?.ok_or_else(|| wrong("address", "is missing"))?,
        token: text(given("token"), "token")?.ok_or_else(|| wrong("token", "is missing"))?.into(),
        public_url: text(given("public_url"), "public_url")?,
        labels: given("labels")
            .map(BTreeMap::deserialize)
            .transpose()
            .map_err(|_| wrong("labels", "takes an object of texts, such as {\"zone\":\"a\"}"))?
            .unwrap_or_default(),
        capacity: given("capacity")
            .map(u32::deserialize)
            .transpose()
            .map_err(|_| wrong("capacity", format!("takes a whole number from 1 to {MAX_CAPACITY}")))?,
        tls: match text(given("tls_ca"), "tls_ca")? {
            Some(path) if path != PUBLIC_AUTHORITIES && !path.contains("-----BEGIN") => Some(
                read_file(&path)
                    .map_err(|error| wrong("tls_ca", format!("{path:?} can't be read: {error}")))?,
            ),
            given => given,
        },
    };
    agent.checked()
}

/// The names of an entry's known fields, as they were written; of what is no object none.
struct Names(Vec<&'static str>);

impl Names {
    fn twice(&self) -> Option<&'static str> {
        let mut rest = self.0.iter();
        std::iter::from_fn(|| rest.next().map(|name| (name, rest.as_slice())))
            .find_map(|(name, after)| after.contains(name).then_some(*name))
    }
}

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OfAnObject;
        impl<'de> Visitor<'de> for OfAnObject {
            type Value = Names;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Names, A::Error> {
                let mut names = Vec::new();
                while let Some((name, IgnoredAny)) = map.next_entry::<Cow<'_, str>, IgnoredAny>()? {
                    names.extend(FIELDS.into_iter().filter(|known| *known == name));
                }
                Ok(Names(names))
            }
        }
        deserializer.deserialize_map(OfAnObject)
    }
}

/// What a value is, without its content.
fn named(value: &serde_json::Value) -> &'static str {
    match value {
        serde_json::Value::Null => "null",
        serde_json::Value::Bool(_) => "true or false",
        serde_json::Value::Number(_) => "a number",
        serde_json::Value::String(_) => "a text",
        serde_json::Value::Array(_) => "an array",
        serde_json::Value::Object(_) => "an object",
    }
}

fn text(value: Option<&serde_json::Value>, name: &'static str) -> Result<Option<String>, WrongWorker> {
    match value {
        None => Ok(None),
        Some(serde_json::Value::String(text)) => Ok(Some(text.trim().to_owned())),
        Some(other) => Err(wrong(name, format!("is {}, not a text", named(other)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEM: &str = "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n";

    fn parse(text: &str) -> Result<Vec<WorkerAgent>, String> {
        let file = |path: &str| match path {
            "/etc/ca.pem" => Ok(PEM.to_owned()),
            _ => Err(std::io::Error::from(std::io::ErrorKind::NotFound)),
        };
        read(Some(text.to_owned()), file).map_err(|error| error.to_string())
    }

    #[test]
    fn the_documented_form_is_understood() {
        let agents = parse(
            r#"[{"address":"10.0.0.5:9090","token":"secret123"},
                {"address":"Worker-2.example.org:9090","token":"t","public_url":"https://w2.example.org/",
                 "labels":{"zone":"b"},"capacity":20,"tls_ca":"/etc/ca.pem"},
                {"address":"[::1]:9091","token":"t","tls_ca":"public"}]"#,
        )
        .unwrap();
        assert_eq!(agents[0].id(), "10.0.0.5:9090");
        assert_eq!(agents[0].token.expose_secret(), "secret123");
        assert_eq!(agents[1].address, "worker-2.example.org:9090");
        assert_eq!(agents[1].public_url.as_deref(), Some("https://w2.example.org"));
        assert_eq!((agents[1].capacity, agents[1].tls.as_deref()), (Some(20), Some(PEM)));
        assert_eq!((agents[2].id().as_str(), agents[2].tls.as_deref()), ("::1:9091", Some("public")));
        assert!(parse("[]").unwrap().is_empty());
        assert!(read(None, |_| unreachable!("no file is named")).unwrap().is_empty());
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_the_entry_and_why() {
        let good = r#"{"address":"a:1","token":"t"}"#;
        for (entry, why) in [
            ("7", "entry: is a number"),
            ("null", "entry: is null"),
            (r#"{"token":"t"}"#, "address: is missing"),
            (r#"{"address":"b:1"}"#, "token: is missing"),
            (r#"{"address":"b:1","token":""}"#, "token: must not be empty"),
            (r#"{"address":"b:1","token":"hush hush"}"#, "token: takes"),
            (r#"{"address":"b:1","token":77}"#, "token: is a number"),
            (r#"{"address":"b","token":"t"}"#, "address: \"b\" can't be used"),
            (r#"{"address":"b:0","token":"t"}"#, "address: \"b:0\" can't be used"),
            (r#"{"address":"b:+9","token":"t"}"#, "address: "),
            (r#"{"address":"10.0.0.256:9090","token":"t"}"#, "address: "),
            (r#"{"address":"0x7f000001:9090","token":"t"}"#, "address: "),
            (r#"{"address":"127.0.0.0x1:9090","token":"t"}"#, "address: "),
            (r#"{"address":"worker.1:9090","token":"t"}"#, "address: "),
            (r#"{"address":"b:65536","token":"t"}"#, "address: "),
            (r#"{"address":":9090","token":"t"}"#, "address: "),
            (r#"{"address":"http://b:9090","token":"t"}"#, "address: "),
            (r#"{"address":"::1:9090","token":"t"}"#, "address: "),
            (r#"{"address":"[x]:9090","token":"t"}"#, "address: "),
            (r#"{"address":"b c:9090","token":"t"}"#, "address: "),
            (r#"{"address":"A:1","token":"t"}"#, "address: a:1 is entry 1's already"),
            (r#"{"address":"b:1","token":"t","token":"77"}"#, "token: is given twice"),
            (
                r#"{"address":"b:1","token":"t","labels":{"clarateach/unlisted":"true"}}"#,
                "labels: names that",
            ),
            (r#"{"address":"b:1","token":"t","adress":"x"}"#, "entry: there is no field \"adress\""),
            (r#"{"address":"b:1","token":"t","public_url":"w2"}"#, "public_url: \"w2\" can't be used"),
            (r#"{"address":"b:1","token":"t","public_url":"https://w/x"}"#, "public_url: "),
            (r#"{"address":"b:1","token":"t","labels":["x"]}"#, "labels: takes an object"),
            (r#"{"address":"b:1","token":"t","labels":{"":"x"}}"#, "labels: names"),
            (r#"{"address":"b:1","token":"t","capacity":0}"#, "capacity: 0 can't"),
            (r#"{"address":"b:1","token":"t","capacity":-1}"#, "capacity: takes"),
            (
                r#"{"address":"b:1","token":"t","tls_ca":"/nowhere.pem"}"#,
                "tls_ca: \"/nowhere.pem\" can't be read",
            ),
            (r#"{"address":"b:1","token":"t","tls_ca":"-----BEGIN X-----"}"#, "tls_ca: takes"),
        ] {
            let error = parse(&format!("[{good},{entry}]")).unwrap_err();
            let start = format!("WORKER_AGENTS: entry 2: {why}");
            assert!(error.starts_with(&start), "{entry}: {error}");
            assert!(!error.contains("hush") && !error.contains("77"), "{error}");
        }
        for (text, why) in
            [("{}", "is an object, not an array"), ("[", "is not JSON"), ("workers", "is not JSON")]
        {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(&format!("WORKER_AGENTS: {why}")), "{error}");
        }
    }

    #[test]
    fn one_address_in_two_spellings_is_one() {
        for (one, other) in [
            ("[::1]:9090", "[0:0:0:0:0:0:0:1]:9090"),
            ("[2001:DB8::1]:9090", "[2001:db8:0::1]:09090"),
            ("10.0.0.5:9090", "[::ffff:10.0.0.5]:9090"),
            ("Worker:9090", "worker:9090"),
        ] {
            let entry = |address: &str| format!(r#"{{"address":"{address}","token":"t"}}"#);
            let error = parse(&format!("[{},{}]", entry(one), entry(other))).unwrap_err();
            assert!(error.ends_with("is entry 1's already"), "{error}");
        }
    }

    #[test]
    fn broken_json_repeats_no_token() {
        let error = parse(r#"[{"address":"a:1","token":"hunter2-hunter2"]"#).unwrap_err();
        assert!(!error.contains("hunter2"), "{error}");
    }

    #[test]
    fn long_addresses_have_short_ids_of_their_own() {
        let agent = |host: String| {
            let token = "t".to_owned().into();
            let address = format!("{host}:9090");
            WorkerAgent {
                address,
                token,
                public_url: None,
                labels: BTreeMap::new(),
                capacity: None,
                tls: None,
            }
        };
        let ids =
            [1, 2].map(|n| agent(format!("{}.{n}.example.org", "a".repeat(60))).checked().unwrap().id());
        assert!(ids.iter().all(|id| id.len() <= 63) && ids[0] != ids[1], "{ids:?}");
    }
}
