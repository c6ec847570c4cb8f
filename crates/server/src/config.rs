//! The settings, read once at start. Nothing else reads the environment.

mod files;
mod microvms;
mod scaling;
mod settings;
mod workers;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use ipnet::IpNet;
use secrecy::{ExposeSecret, SecretString};

pub use self::files::with_files;
pub use self::microvms::{MicroVms, QemuAccel, VmmChoice};
pub use self::scaling::{MachineSettings, Scaling};
pub use self::settings::SETTINGS;
pub use self::workers::{MAX_CAPACITY, PUBLIC_AUTHORITIES, WorkerAgent, WrongWorker};

/// A setting that can't be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{variable}: {problem}")]
pub struct ConfigError {
    /// The variable's name.
    pub variable: &'static str,
    /// What is wrong and what it takes.
    pub problem: String,
}

/// Where and how the server is reached.
#[derive(Debug, Clone)]
pub struct Listen {
    /// `BIND_ADDR` and `PORT`.
    pub address: SocketAddr,
    /// `PUBLIC_URL` without a trailing slash.
    pub public_url: Option<PublicUrl>,
    /// `PREVIEW_DOMAIN`.
    pub preview_domain: Option<String>,
    /// `TRUSTED_PROXIES`.
    pub trusted_proxies: Vec<IpNet>,
}

impl Listen {
    /// Whether nobody but this machine's own users can reach the server: it is on loopback, and nothing says that a
    /// reverse proxy stands in front.
    #[must_use]
    pub fn is_only_for_this_machine(&self) -> bool {
        self.address.ip().is_loopback()
            && self.trusted_proxies.is_empty()
            && self.public_url.as_ref().is_none_or(PublicUrl::is_of_this_machine)
    }
}

/// Scheme and authority under which browsers reach the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicUrl {
    /// Whether it is https.
    pub https: bool,
    /// Host and, unless it is the scheme's own, port.
    pub authority: String,
}

impl fmt::Display for PublicUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.https { "https" } else { "http" }, self.authority)
    }
}

/// Who may do what, and what seals secrets.
#[derive(Debug, Clone)]
pub struct Access {
    /// `ADMIN_TOKEN`.
    pub admin_token: Option<SecretString>,
    /// `SCRAPE_TOKEN`.
    pub scrape_token: Option<SecretString>,
    /// `SERVER_KEY`.
    pub server_key: Option<SecretString>,
}

/// What seats are made of.
#[derive(Debug, Clone)]
pub struct Seats {
    /// `DEFAULT_IMAGE`.
    pub default_image: String,
    /// `MAX_SEATS`.
    pub max_seats: u32,
    /// `WORKSPACE_BIN`.
    pub workspace_bin: Option<PathBuf>,
    /// `DOCKER_HOST`.
    pub docker_host: String,
    /// `SIMULATED_RUNTIME`.
    pub simulated: bool,
    /// MicroVMs on this machine.
    pub microvms: MicroVms,
    /// `WORKER_AGENTS`.
    pub workers: Vec<WorkerAgent>,
}

/// How the log reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// All settings.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where and how the server is reached.
    pub listen: Listen,
    /// Who may do what.
    pub access: Access,
    /// What seats are made of.
    pub seats: Seats,
    /// The fleet that grows and shrinks by itself; none: it doesn't.
    pub scaling: Option<Scaling>,
    /// `DATABASE_URL`.
    pub database_url: String,
    /// `STATE_DIR`.
    pub state_dir: Option<PathBuf>,
    /// `LOG_FORMAT`.
    pub log_format: LogFormat,
    /// `RUST_LOG`.
    pub log_filter: String,
}

impl Config {
    /// Reads the settings through `lookup`, which gives a variable's value. Empty counts as not set.
    ///
    /// # Errors
    /// The first setting that can't be used.
    pub fn read(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let get = |name: &'static str| lookup(name).map(|v| v.trim().to_owned()).filter(|v| !v.is_empty());
        let admin_token = secret(&get, "ADMIN_TOKEN", 16)?;
        let address = SocketAddr::new(
            parsed(&get, "BIND_ADDR", "an IP address such as 127.0.0.1 or 0.0.0.0")?
                .unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            parsed(&get, "PORT", "a port number from 0 to 65535")?.unwrap_or(8080),
        );
        if admin_token.is_none() && !address.ip().is_loopback() {
            return Err(ConfigError {
                variable: "BIND_ADDR",
                problem: format!(
                    "{} is open to others, which needs ADMIN_TOKEN; set one, or leave BIND_ADDR at 127.0.0.1",
                    address.ip()
                ),
            });
        }
        let loopback = address.ip().is_loopback();
        let public_url = get("PUBLIC_URL").map(|text| public_url(&text)).transpose()?;
        if admin_token.is_none()
            && let Some(url) = public_url.as_ref().filter(|url| !url.is_of_this_machine())
        {
            return Err(ConfigError {
                variable: "PUBLIC_URL",
                problem: format!("{url} is for others to reach, which needs ADMIN_TOKEN; set one"),
            });
        }
        let preview_domain = match get("PREVIEW_DOMAIN") {
            Some(domain) => Some(preview_domain(&domain)?),
            None if loopback && public_url.is_none() => Some("localhost".to_owned()),
            None => None,
        };
        if let (Some(domain), Some(url)) = (&preview_domain, &public_url)
            && url.is_within(domain)
        {
            return Err(ConfigError {
                variable: "PREVIEW_DOMAIN",
                problem: format!(
                    "{domain} is PUBLIC_URL's own domain or above it: previews could set cookies there; give one with \
                     nothing else on it"
                ),
            });
        }
        let max_seats = parsed(&get, "MAX_SEATS", "a whole number from 1 to 65535")?.unwrap_or(500);
        if !(1..=65_535).contains(&max_seats) {
            return Err(wrong("MAX_SEATS", &max_seats.to_string(), "a whole number from 1 to 65535"));
        }
        Ok(Self {
            listen: Listen {
                address,
                public_url,
                preview_domain,
                trusted_proxies: trusted_proxies(get("TRUSTED_PROXIES"))?,
            },
            access: Access {
                admin_token,
                scrape_token: secret(&get, "SCRAPE_TOKEN", 16)?,
                server_key: secret(&get, "SERVER_KEY", 32)?,
            },
            seats: Seats {
                default_image: get("DEFAULT_IMAGE").unwrap_or_else(|| "clarateach-workspace".to_owned()),
                max_seats,
                workspace_bin: get("WORKSPACE_BIN").map(PathBuf::from),
                docker_host: docker_host(get("DOCKER_HOST"))?,
                simulated: on_or_off(&get, "SIMULATED_RUNTIME")?,
                microvms: MicroVms::read(&get)?,
                workers: workers::read(get("WORKER_AGENTS"), |path| std::fs::read_to_string(path))?,
            },
            scaling: Scaling::read(&get, &|name: &str| lookup(name))?,
            database_url: get("DATABASE_URL").unwrap_or_else(|| "./clarateach.db".to_owned()),
            state_dir: get("STATE_DIR").map(PathBuf::from),
            log_format: match get("LOG_FORMAT").as_deref() {
                None | Some("text") => LogFormat::Text,
                Some("json") => LogFormat::Json,
                Some(other) => return Err(wrong("LOG_FORMAT", other, "text or json")),
            },
            log_filter: get("RUST_LOG").unwrap_or_else(|| "info".to_owned()),
        })
    }

    /// The settings table, for `--help`.
    #[must_use]
    pub fn help() -> String {
        let mut text = String::from(
            "ClaraTeach server: hands-on coding workshops, a Linux seat for every learner.\n\n\
             Usage: server [--help | --version]\n\nSettings come from the environment:\n",
        );
        for (name, default, meaning) in SETTINGS {
            text.push_str(&format!("  {name:<22} {meaning} [default: {default}]\n"));
        }
        text
    }
}

fn wrong(variable: &'static str, value: &str, takes: &str) -> ConfigError {
    ConfigError { variable, problem: format!("{value:?} can't be used; it takes {takes}") }
}

fn parsed<T: FromStr>(
    get: &impl Fn(&'static str) -> Option<String>,
    variable: &'static str,
    takes: &str,
) -> Result<Option<T>, ConfigError> {
    get(variable).map(|text| text.parse().map_err(|_| wrong(variable, &text, takes))).transpose()
}

fn on_or_off(
    get: &impl Fn(&'static str) -> Option<String>,
    variable: &'static str,
) -> Result<bool, ConfigError> {
    match get(variable).as_deref() {
        None | Some("off") => Ok(false),
        Some("on") => Ok(true),
        Some(other) => Err(wrong(variable, other, "on or off")),
    }
}

/// A secret's value is never repeated in an error.
fn secret(
    get: &impl Fn(&'static str) -> Option<String>,
    variable: &'static str,
    at_least: usize,
) -> Result<Option<SecretString>, ConfigError> {
    let Some(value) = get(variable).map(SecretString::from) else { return Ok(None) };
    let text = value.expose_secret();
    if text.len() < at_least || !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(ConfigError {
            variable,
            problem: format!("takes at least {at_least} printable ASCII characters without spaces"),
        });
    }
    Ok(Some(value))
}

fn public_url(text: &str) -> Result<PublicUrl, ConfigError> {
    let takes = "a URL without a path, such as https://class.example.org";
    let uri: axum::http::Uri = text.parse().map_err(|_| wrong("PUBLIC_URL", text, takes))?;
    let https = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err(wrong("PUBLIC_URL", text, takes)),
    };
    match uri.authority() {
        Some(authority)
            if matches!(uri.path(), "" | "/")
                && uri.query().is_none()
                && !authority.as_str().contains('@') =>
        {
            let authority = authority.as_str().to_ascii_lowercase();
            // Browsers leave the scheme's own port out of Host.
            let own = if https { ":443" } else { ":80" };
            let authority = authority.strip_suffix(own).map_or(authority.clone(), str::to_owned);
            Ok(PublicUrl { https, authority })
        }
        _ => Err(wrong("PUBLIC_URL", text, takes)),
    }
}

impl PublicUrl {
    /// Whether its host is `domain` or below it.
    fn is_within(&self, domain: &str) -> bool {
        let host = self.host();
        host == domain || host.strip_suffix(domain).is_some_and(|above| above.ends_with('.'))
    }

    /// Whether its host is this machine itself.
    fn is_of_this_machine(&self) -> bool {
        let literal = self.host().trim_start_matches('[').trim_end_matches(']');
        self.is_within("localhost") || literal.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }

    /// Without the port.
    fn host(&self) -> &str {
        match self.authority.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
            _ => &self.authority,
        }
    }
}

fn preview_domain(text: &str) -> Result<String, ConfigError> {
    let domain = text.trim_start_matches('.').to_ascii_lowercase();
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    if domain.len() <= 190 && domain.split('.').all(label) {
        Ok(domain)
    } else {
        Err(wrong("PREVIEW_DOMAIN", text, "a domain name such as preview.example.org, without a port"))
    }
}

fn trusted_proxies(text: Option<String>) -> Result<Vec<IpNet>, ConfigError> {
    text.unwrap_or_default()
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(|part| {
            let takes = "IP addresses or networks (10.0.0.0/8), separated by commas";
            part.parse::<IpAddr>()
                .map(IpNet::from)
                .or_else(|_| part.parse())
                .map_err(|_| wrong("TRUSTED_PROXIES", part, takes))
        })
        .collect()
}

fn docker_host(text: Option<String>) -> Result<String, ConfigError> {
    let host = text.unwrap_or_else(|| "unix:///var/run/docker.sock".to_owned());
    match host.strip_prefix("unix://") {
        Some(path) if path.starts_with('/') => Ok(path.to_owned()),
        _ => Err(wrong("DOCKER_HOST", &host, "a Unix socket such as unix:///var/run/docker.sock")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Config::read(|name| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
    }

    #[test]
    fn the_defaults_are_the_documented_ones() {
        let config = read(&[]).unwrap();
        assert_eq!(config.listen.address.to_string(), "127.0.0.1:8080");
        assert_eq!(config.database_url, "./clarateach.db");
        assert_eq!(config.listen.preview_domain.as_deref(), Some("localhost"));
        assert_eq!(config.seats.max_seats, 500);
        assert_eq!(config.seats.default_image, "clarateach-workspace");
    }

    #[test]
    fn an_open_address_needs_an_admin_token() {
        assert_eq!(read(&[("BIND_ADDR", "0.0.0.0")]).unwrap_err().variable, "BIND_ADDR");
        assert!(read(&[("BIND_ADDR", "0.0.0.0"), ("ADMIN_TOKEN", "0123456789abcdef")]).is_ok());
    }

    #[test]
    fn wrong_values_are_refused_with_the_variables_name() {
        for (name, value) in [
            ("PORT", "70000"),
            ("PORT", "http"),
            ("BIND_ADDR", "localhost"),
            ("PUBLIC_URL", "class.example.org"),
            ("PUBLIC_URL", "https://class.example.org/sub"),
            ("PUBLIC_URL", "ftp://x"),
            ("PREVIEW_DOMAIN", "a b"),
            ("TRUSTED_PROXIES", "10.0.0.1,nonsense"),
            ("TRUSTED_PROXIES", "10.0.0.0/40"),
            ("MAX_SEATS", "0"),
            ("DOCKER_HOST", "tcp://1.2.3.4:2375"),
            ("SIMULATED_RUNTIME", "yes"),
            ("LOG_FORMAT", "xml"),
            ("WORKER_AGENTS", "[{}]"),
            ("ADMIN_TOKEN", "short"),
            ("SERVER_KEY", "short"),
        ] {
            assert_eq!(read(&[(name, value)]).unwrap_err().variable, name, "{name}={value}");
        }
    }

    #[test]
    fn previews_stay_off_the_domain_of_the_pages() {
        let both = |url, domain| {
            let token = ("ADMIN_TOKEN", "0123456789abcdef");
            read(&[token, ("PUBLIC_URL", url), ("PREVIEW_DOMAIN", domain)])
        };
        for domain in ["class.example.org", "example.org", "EXAMPLE.ORG"] {
            let error = both("https://class.example.org:8443", domain).unwrap_err();
            assert_eq!(error.variable, "PREVIEW_DOMAIN", "{domain}");
        }
        for domain in ["preview.example.org", "ss.example.org", "preview.class.example.org"] {
            assert!(both("https://class.example.org:8443", domain).is_ok(), "{domain}");
        }
    }

    #[test]
    fn what_others_can_reach_needs_a_token_and_is_told_from_what_they_cannot() {
        let token = ("ADMIN_TOKEN", "0123456789abcdef");
        for url in ["https://class.example.org", "http://192.0.2.7:8080", "http://[2001:db8::1]"] {
            assert_eq!(read(&[("PUBLIC_URL", url)]).unwrap_err().variable, "PUBLIC_URL", "{url}");
            assert!(!read(&[token, ("PUBLIC_URL", url)]).unwrap().listen.is_only_for_this_machine(), "{url}");
        }
        for url in
            ["http://localhost:8080", "http://127.0.0.1", "http://[::1]:9000", "http://class.localhost"]
        {
            assert!(read(&[("PUBLIC_URL", url)]).unwrap().listen.is_only_for_this_machine(), "{url}");
        }
        assert!(read(&[]).unwrap().listen.is_only_for_this_machine());
        for (name, value) in [("BIND_ADDR", "0.0.0.0"), ("TRUSTED_PROXIES", "127.0.0.1")] {
            assert!(!read(&[token, (name, value)]).unwrap().listen.is_only_for_this_machine(), "{name}");
        }
    }

    #[test]
    fn the_port_of_the_scheme_is_left_out_as_browsers_do() {
        let authority = |url| {
            let config = read(&[("ADMIN_TOKEN", "0123456789abcdef"), ("PUBLIC_URL", url)]).unwrap();
            config.listen.public_url.unwrap().authority
        };
        assert_eq!(authority("https://Class.example.org:443"), "class.example.org");
        assert_eq!(authority("http://class.example.org:80/"), "class.example.org");
        assert_eq!(authority("http://class.example.org:443"), "class.example.org:443");
        assert_eq!(authority("https://class.example.org:8443"), "class.example.org:8443");
    }

    #[test]
    fn a_refused_secret_is_not_repeated() {
        let error = read(&[("ADMIN_TOKEN", "hunter2")]).unwrap_err();
        assert!(!error.to_string().contains("hunter2"));
        assert!(
            !format!("{:?}", read(&[("ADMIN_TOKEN", "0123456789abcdef")]).unwrap())
                .contains("0123456789abcdef")
        );
    }

    #[test]
    fn every_setting_read_is_in_the_table() {
        let asked = std::cell::RefCell::new(Vec::new());
        let _ = Config::read(|name| {
            asked.borrow_mut().push(name.to_owned());
            None
        });
        for name in asked.into_inner() {
            assert!(SETTINGS.iter().any(|(n, _, _)| *n == name), "{name}");
        }
    }
}
