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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Health;

    fn health(days_from: i64, days_until: i64) -> Health {
        let dir = tempfile::tempdir().unwrap();
        let (certificate, key) = (dir.path().join("c"), dir.path().join("k"));
        let pair = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        let day = |days: i64| {
            let seconds = Timestamp::now().as_second() + days * 24 * 3600;
            epoch + std::time::Duration::from_secs(seconds.unsigned_abs())
        };
        (params.not_before, params.not_after) = (day(days_from), day(days_until));
        std::fs::write(&certificate, params.self_signed(&pair).unwrap().pem()).unwrap();
        std::fs::write(&key, pair.serialize_pem()).unwrap();
        let config = Config::read(|name| match name {
            "TLS_CERT" => Some(certificate.display().to_string()),
            "TLS_KEY" => Some(key.display().to_string()),
            _ => None,
        });
        let check = super::certificate(&config.unwrap());
        assert_eq!(check.fix.is_none(), check.health == Health::Ok, "{check:?}");
        check.health
    }

    #[test]
    fn a_certificate_s_end_is_announced() {
        assert_eq!(health(-10, 300), Health::Ok);
        assert_eq!(health(-10, 10), Health::Warning);
        assert_eq!(health(-10, -1), Health::Broken);
        assert_eq!(health(1, 300), Health::Broken);
        let none = Config::read(|_| None).unwrap();
        assert_eq!(certificate(&none).health, Health::Ok);
        let missing = Config::read(|name| name.starts_with("TLS_").then(|| "/nowhere".to_owned())).unwrap();
        assert_eq!(certificate(&missing).health, Health::Broken);
    }
}
