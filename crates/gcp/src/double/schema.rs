//! The discovery document's word on requests and answers.

use std::sync::OnceLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// The excerpt that this crate is held against.
const EXCERPT: &str = include_str!("../../data/compute-v1-excerpt.json");

/// The excerpt, parsed.
///
/// # Panics
/// Never: it is part of this crate.
pub fn document() -> &'static Value {
    static DOCUMENT: OnceLock<Value> = OnceLock::new();
    DOCUMENT.get_or_init(|| serde_json::from_str(EXCERPT).expect("the excerpt is JSON"))
}

/// A method of the API, found by what a request says.
#[derive(Debug, Clone)]
pub struct Method {
    /// Like `instances.insert`.
    pub name: String,
    /// As in the document.
    pub definition: &'static Value,
    /// `project`, `zone`, `instance`, … with their values.
    pub path: Vec<(String, String)>,
}

impl Method {
    /// The method that a request means; `path` is what follows `/compute/v1/`.
    #[must_use]
    pub fn find(verb: &str, path: &str) -> Option<Self> {
        let methods = document()["methods"].as_object()?;
        methods.iter().find_map(|(name, definition)| {
            let captured = capture(definition["path"].as_str()?, path)?;
            (definition["httpMethod"] == verb).then(|| Self {
                name: name.clone(),
                definition,
                path: captured,
            })
        })
    }

    /// A part of the path.
    #[must_use]
    pub fn part(&self, name: &str) -> &str {
        self.path.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }

    /// Whether it takes this query parameter.
    #[must_use]
    pub fn takes(&self, parameter: &str) -> bool {
        let general =
            document()["parameters"].as_array().is_some_and(|all| all.iter().any(|one| one == parameter));
        general || self.definition["parameters"][parameter]["location"] == "query"
    }
}

fn capture(template: &str, path: &str) -> Option<Vec<(String, String)>> {
    let (template, path): (Vec<&str>, Vec<&str>) = (template.split('/').collect(), path.split('/').collect());
    if template.len() != path.len() {
        return None;
    }
    let mut captured = Vec::new();
    for (wanted, given) in template.iter().zip(path) {
        match wanted.strip_prefix('{').and_then(|name| name.strip_suffix('}')) {
            Some(name) if !given.is_empty() => captured.push((name.to_owned(), given.to_owned())),
            None if *wanted == given => {}
            _ => return None,
        }
    }
    Some(captured)
}

/// What does not fit a schema, in Google's words; nothing: all fits.
#[must_use]
pub fn misfits(schema: &str, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    check(&document()["schemas"][schema], value, "", &mut found);
    found
}

fn check(schema: &Value, value: &Value, at: &str, found: &mut Vec<String>) {
    if let Some(reference) = schema["$ref"].as_str() {
        let target = &document()["schemas"][reference];
        if !target.is_null() {
            check(target, value, at, found);
        }
        return;
    }
    let fits = match schema["type"].as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("number") => value.is_number(),
        // 64-bit integers go as text; numbers are taken too.
        Some("string") if matches!(schema["format"].as_str(), Some("int64" | "uint64")) => {
            value.is_u64() || value.as_str().is_some_and(|text| text.parse::<i128>().is_ok())
        }
        Some("string") if schema["format"] == "byte" => {
            value.as_str().is_some_and(|text| STANDARD.decode(text).is_ok())
        }
        Some("string") => value.is_string(),
        _ => true,
    };
    if !fits {
        found.push(format!("Invalid value at '{at}' ({}), {value}", schema["type"].as_str().unwrap_or("?")));
        return;
    }
    if let (Some(allowed), Some(text)) = (schema["enum"].as_array(), value.as_str())
        && !allowed.iter().any(|one| one == text)
    {
        found.push(format!("Invalid value at '{at}' (enum), \"{text}\""));
    }
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                let inner = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
                if let Some(schema) = schema["properties"].get(name) {
                    check(schema, field, &inner, found);
                } else if let Some(schema) = schema.get("additionalProperties") {
                    check(schema, field, &inner, found);
                } else {
                    let place = if at.is_empty() { String::new() } else { format!(" at '{at}'") };
                    found.push(format!(
                        "Invalid JSON payload received. Unknown name \"{name}\"{place}: Cannot find field."
                    ));
                }
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                check(&schema["items"], item, &format!("{at}[{index}]"), found);
            }
        }
        _ => {}
    }
}
