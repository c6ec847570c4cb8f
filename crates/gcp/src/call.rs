//! One REST call as data.

use std::fmt;

use http::Method;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde_json::Value;

/// Unreserved characters of RFC 3986 stay as they are, so that what is printed can be read.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A call of the Compute Engine API: what is sent, before anybody sends it.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// The HTTP method.
    pub method: Method,
    /// The path beneath `…/compute/v1/`.
    pub path: String,
    /// Query parameters, in order.
    pub query: Vec<(&'static str, String)>,
    /// The JSON body.
    pub body: Option<Value>,
}

impl Call {
    pub(crate) fn new(method: Method, path: String) -> Self {
        Self { method, path, query: Vec::new(), body: None }
    }

    pub(crate) fn get(path: String) -> Self {
        Self::new(Method::GET, path)
    }

    /// A change. It carries a request id, so that the API does it once however often it is sent.
    pub(crate) fn change(method: Method, path: String) -> Self {
        Self::new(method, path).with("requestId", uuid::Uuid::now_v7().to_string())
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    pub(crate) fn with_body(mut self, body: &impl Serialize) -> Self {
        self.body = Some(serde_json::to_value(body).expect("our own types are JSON"));
        self
    }

    /// Path and query.
    #[must_use]
    pub fn target(&self) -> String {
        let mut target = self.path.clone();
        for (index, (name, value)) in self.query.iter().enumerate() {
            target.push(if index == 0 { '?' } else { '&' });
            target.push_str(name);
            target.push('=');
            target.extend(utf8_percent_encode(value, QUERY));
        }
        target
    }

    /// The request as people read it: method, URL, and the body indented. What metadata keeps secret is not shown, and the
    /// request id, which is another one each time, neither.
    #[must_use]
    pub fn show(&self, endpoint: &str) -> String {
        let mut shown = self.clone();
        for (name, value) in &mut shown.query {
            if *name == "requestId" {
                "UUID".clone_into(value);
            }
        }
        if let Some(items) = shown.body.as_mut().and_then(|body| body.pointer_mut("/metadata/items")) {
            for item in items.as_array_mut().into_iter().flatten() {
                let shown = match item["key"].as_str() {
                    Some("agent-token") => "(hidden)",
                    Some("startup-script") => "(deploy/startup-worker.sh)",
                    _ => continue,
                };
                item["value"] = shown.into();
            }
        }
        let mut text = format!("{} {}/{}", shown.method, endpoint.trim_end_matches('/'), shown.target());
        if let Some(body) = &shown.body {
            text.push('\n');
            text.push_str(&serde_json::to_string_pretty(body).expect("a JSON value is JSON"));
        }
        text
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}
