//! The part of the API's filter language that lists here understand: `FIELD=VALUE`, `FIELD!=VALUE`, `FIELD:VALUE` (contains; `*`: is
//! set), `FIELD eq REGEX`, joined by `AND` or side by side in parentheses.

use serde_json::Value;

use super::answers::No;

pub(super) fn matches(filter: &str, value: &Value) -> Result<bool, No> {
    for term in terms(filter) {
        let (path, operator, wanted) = parse(&term)
            .ok_or_else(|| No::invalid("filter", format!("'{filter}'. Invalid list filter expression.")))?;
        let found = path.split('.').try_fold(value, |value, part| value.get(part));
        let text = match found {
            Some(Value::String(text)) => Some(text.clone()),
            Some(other) => Some(other.to_string()),
            None => None,
        };
        let holds = match operator {
            "=" => text.as_deref() == Some(wanted),
            "!=" => text.as_deref() != Some(wanted),
            ":" if wanted == "*" => text.is_some(),
            _ => text.is_some_and(|text| text.contains(wanted.trim_matches('*').trim_end_matches(".*"))),
        };
        if !holds {
            return Ok(false);
        }
    }
    Ok(true)
}

fn terms(filter: &str) -> Vec<String> {
    filter
        .replace(") (", ") AND (")
        .split(" AND ")
        .map(|term| term.trim().trim_start_matches('(').trim_end_matches(')').trim().to_owned())
        .collect()
}

fn parse(term: &str) -> Option<(&str, &'static str, &str)> {
    for operator in ["!=", "=", ":", " eq "] {
        if let Some((path, wanted)) = term.split_once(operator) {
            let named =
                path.trim().bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
            if named && !path.trim().is_empty() {
                let operator = if operator == " eq " { ":" } else { operator };
                return Some((path.trim(), operator, wanted.trim().trim_matches('"')));
            }
        }
    }
    None
}
