//! Which world a request belongs to: decided by its host alone, before anything else looks at it.

use http::{HeaderMap, Uri, header};

use crate::config::without_port;
use crate::{GatewayConfig, Refusal};

/// Whom a request is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Addressee {
    /// The workshop's own pages and API.
    Main,
    /// The preview of this id, if there is one.
    Preview(String),
}

/// Reads it from the request's target and `Host`, which must agree (RFC 9112 §3.2.2). Every name beneath the preview
/// domain is a preview's, however it is spelt: upper case, with a port, a trailing dot, more labels.
pub(crate) fn addressee(
    config: &GatewayConfig,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<Addressee, Refusal> {
    let Some(previews) = &config.previews else { return Ok(Addressee::Main) };
    let unclear = || Refusal::bad_request("the request must name one host");
    let mut hosts = headers.get_all(header::HOST).iter();
    let named = match (hosts.next(), hosts.next()) {
        (_, Some(_)) => return Err(unclear()),
        (Some(host), None) => Some(normal(host.to_str().map_err(|_| unclear())?)),
        (None, None) => None,
    };
    let target = uri.authority().map(|authority| normal(authority.as_str()));
    let host = match (target, named) {
        (Some(target), Some(named)) if target != named => return Err(unclear()),
        (Some(host), _) | (None, Some(host)) => host,
        (None, None) => return Ok(Addressee::Main),
    };
    if config.public_origins.iter().any(|origin| normal(origin.authority()) == host) {
        return Ok(Addressee::Main);
    }
    let domain = normal(&previews.domain);
    let beneath = host.strip_suffix(&domain).and_then(|rest| rest.strip_suffix('.'));
    Ok(beneath.map_or(Addressee::Main, |id| Addressee::Preview(id.to_owned())))
}

/// Lower case, without user, port and final dots.
fn normal(authority: &str) -> String {
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    without_port(host.trim()).trim_matches('.').to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Limits, PreviewDomain, Scheme};

    fn config(domain: &str) -> GatewayConfig {
        GatewayConfig {
            public_origins: vec!["https://app.example.org".parse().unwrap()],
            same_host_origin: false,
            previews: Some(PreviewDomain { domain: domain.into(), scheme: Scheme::Https, port: None }),
            secure_cookies: true,
            limits: Limits::default(),
        }
    }

    fn of(domain: &str, target: &str, hosts: &[&str]) -> Option<Addressee> {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(header::HOST, host.parse().unwrap());
        }
        addressee(&config(domain), &target.parse().unwrap(), &headers).ok()
    }

    #[test]
    fn every_name_beneath_the_preview_domain_is_a_preview_s() {
        let preview = |id: &str| Some(Addressee::Preview(id.to_owned()));
        for host in ["pa.view.example", "PA.View.Example:8080", "pa.view.example.", "pa.view.example.:80"] {
            assert_eq!(of("view.example", "/api/workshops", &[host]), preview("pa"), "{host}");
        }
        assert_eq!(of("view.example", "/", &["a.b.view.example"]), preview("a.b"));
        assert_eq!(of("view.example", "http://pa.view.example/api", &[]), preview("pa"));
        assert_eq!(of("localhost", "/", &["pa.localhost:8080"]), preview("pa"));
        assert_eq!(
            of("localhost", "/", &["..localhost"]),
            Some(Addressee::Main),
            "an empty label names nothing"
        );
    }

    #[test]
    fn other_names_are_not() {
        for host in
            ["view.example", "evilview.example", "pa.view.example.org", "localhost:8080", "[::1]:8080"]
        {
            assert_eq!(of("view.example", "/", &[host]), Some(Addressee::Main), "{host}");
        }
        assert_eq!(of("example.org", "/", &["app.example.org"]), Some(Addressee::Main), "the public origin");
    }

    #[test]
    fn two_hosts_are_none() {
        assert_eq!(of("view.example", "/", &["pa.view.example", "app.example.org"]), None);
        assert_eq!(of("view.example", "http://app.example.org/", &["pa.view.example"]), None);
    }
}
