//! The certificate that callers see.

use jiff::{SignedDuration, Timestamp};

use super::Check;
use crate::config::Config;
use crate::tls::Identity;

/// Renewal is due when less is left.
const SOON: SignedDuration = SignedDuration::from_hours(14 * 24);

const RENEW: &str = "renew it in place, the agent reads it again by itself; a self-signed one:\n\
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 365 -keyout KEY -out CERT \\\n  \
    -subj /CN=worker -addext subjectAltName=IP:ADDRESS,DNS:NAME";

pub(super) fn certificate(config: &Config) -> Check {
    let Some(files) = &config.listen.tls else {
        return Check::ok(
            "tls",
            "plain HTTP: keep the way from the control plane private, or set TLS_CERT and TLS_KEY",
        );
    };
    let identity = match Identity::read(files) {
        Ok(identity) => identity,
        Err(error) => return Check::broken("tls", error.to_string(), RENEW),
    };
    let ((from, until), now) = (identity.validity(), Timestamp::now());
    let file = files.certificate.display();
    if now >= until {
        Check::broken("tls", format!("{file} has expired on {until}"), RENEW)
    } else if now < from {
        let fix = "check this host's clock (timedatectl), or wait";
        Check::broken("tls", format!("{file} is not valid before {from}"), fix)
    } else if until.duration_since(now) < SOON {
        Check::warning("tls", format!("{file} expires on {until}"), RENEW)
    } else {
        Check::ok("tls", format!("{file} is valid until {until}"))
    }
}
