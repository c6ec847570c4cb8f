//! Secrets from files: `NAME_FILE` names the file that holds `NAME`, as systemd's credentials and the secrets of container
//! engines come.

use std::collections::BTreeMap;

use super::ConfigError;

/// The settings that may be in a file, with the variables that name it.
const FILES: [(&str, &str); 5] = [
    ("ADMIN_TOKEN", "ADMIN_TOKEN_FILE"),
    ("SCRAPE_TOKEN", "SCRAPE_TOKEN_FILE"),
    ("SERVER_KEY", "SERVER_KEY_FILE"),
    ("DATABASE_URL", "DATABASE_URL_FILE"),
    ("WORKER_AGENTS", "WORKER_AGENTS_FILE"),
];

/// `lookup`, with the values of files that it names; they are read now, once.
///
/// # Errors
/// A file that can't be read or is empty, and a setting that is given both ways.
pub fn with_files(
    lookup: impl Fn(&str) -> Option<String>,
) -> Result<impl Fn(&str) -> Option<String>, ConfigError> {
    let given = |name: &str| lookup(name).filter(|value| !value.trim().is_empty());
    let mut read = BTreeMap::new();
    for (name, variable) in FILES {
        let Some(path) = given(variable) else { continue };
        let refuse = |problem: String| ConfigError { variable, problem };
        if given(name).is_some() {
            return Err(refuse(format!("{name} is set too; set one of them")));
        }
        let text =
            std::fs::read_to_string(path.trim()).map_err(|error| refuse(format!("{path}: {error}")))?;
        if text.trim().is_empty() {
            return Err(refuse(format!("{path} is empty; it takes the value of {name}")));
        }
        read.insert(name, text.trim().to_owned());
    }
    Ok(move |name: &str| read.get(name).cloned().or_else(|| lookup(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(pairs: &[(&str, &str)], name: &str) -> Result<Option<String>, ConfigError> {
        with_files(|name| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
            .map(|lookup| lookup(name))
    }

    #[test]
    fn a_secret_may_be_in_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        let path = path.to_str().unwrap();
        std::fs::write(path, "0123456789abcdef\n").unwrap();
        assert_eq!(
            resolve(&[("ADMIN_TOKEN_FILE", path)], "ADMIN_TOKEN").unwrap().as_deref(),
            Some("0123456789abcdef")
        );
        assert_eq!(resolve(&[("PORT", "1")], "PORT").unwrap().as_deref(), Some("1"));
        let both = resolve(&[("ADMIN_TOKEN_FILE", path), ("ADMIN_TOKEN", "x")], "ADMIN_TOKEN").unwrap_err();
        assert_eq!(both.variable, "ADMIN_TOKEN_FILE");
        assert!(!both.to_string().contains("0123456789abcdef"));
    }

    #[test]
    fn a_file_that_says_nothing_is_refused() {
        let empty = tempfile::NamedTempFile::new().unwrap();
        for path in ["/nowhere/at/all", empty.path().to_str().unwrap()] {
            let error = resolve(&[("SERVER_KEY_FILE", path)], "SERVER_KEY").unwrap_err();
            assert_eq!(error.variable, "SERVER_KEY_FILE", "{path}");
            assert!(error.to_string().contains(path), "{error}");
        }
    }
}
