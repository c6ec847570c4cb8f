//! Objects of a request in which no name stands twice: whoever sent two values meant one of them, and nobody can tell which.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserializer, Error, MapAccess, Visitor};

struct Unique;

impl<'de> Visitor<'de> for Unique {
    type Value = BTreeMap<String, String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with text values")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
        let mut map = BTreeMap::new();
        while let Some((name, value)) = access.next_entry::<String, String>()? {
            if map.contains_key(&name) {
                return Err(A::Error::custom(format_args!("`{name}` stands there twice")));
            }
            map.insert(name, value);
        }
        Ok(map)
    }
}

/// For `#[serde(deserialize_with)]`.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    deserializer.deserialize_map(Unique)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_name_that_stands_twice_is_refused() {
        let read = |json: &str| super::deserialize(&mut serde_json::Deserializer::from_str(json));
        assert_eq!(read(r#"{"A":"1","B":"2"}"#).unwrap().len(), 2);
        assert_eq!(read("{}").unwrap().len(), 0);
        let refused = read(r#"{"A":"1","A":"1"}"#).unwrap_err();
        assert!(refused.to_string().starts_with("`A` stands there twice"), "{refused}");
        assert!(read(r#"[["A","1"]]"#).is_err());
    }
}
