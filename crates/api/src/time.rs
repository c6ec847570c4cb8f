//! Times of a request, refused in words that say how one looks.

use jiff::Timestamp;
use serde::Deserialize;
use serde::de::{Deserializer, Error};

/// For `#[serde(deserialize_with)]`.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
    let time = text.parse::<Timestamp>().map_err(|problem| {
        D::Error::custom(format_args!(
            "must be a time such as 2026-11-30T17:00:00Z; {text:?} is none: {problem}"
        ))
    })?;
    Ok(Some(time))
}

#[cfg(test)]
mod tests {
    use serde_json::Deserializer;

    #[test]
    fn a_time_has_a_date_and_an_offset() {
        let read = |json: &str| super::deserialize(&mut Deserializer::from_str(json));
        assert_eq!(read("null").unwrap(), None);
        let noon = read("\"2026-11-30T12:00:00+01:00\"").unwrap().unwrap();
        assert_eq!(noon.to_string(), "2026-11-30T11:00:00Z");
        for bad in
            ["\"tomorrow\"", "\"2026-11-30\"", "\"2026-11-30T17:00:00\"", "\"2026-02-30T00:00:00Z\"", "\"\""]
        {
            let refused = read(bad).unwrap_err().to_string();
            assert!(refused.starts_with("must be a time such as"), "{bad}: {refused}");
        }
        assert!(read("5").is_err());
    }
}
