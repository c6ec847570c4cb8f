//! One variable at a time: text → value, or a sentence that says what the variable takes.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use secrecy::{ExposeSecret, SecretString};

/// A setting that can't be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{variable}: {problem}")]
pub struct ConfigError {
    /// The variable's name.
    pub variable: &'static str,
    /// What is wrong and what it takes.
    pub problem: String,
}

/// A value that can't be used, and what could be.
pub(super) fn wrong(variable: &'static str, value: &str, takes: &str) -> ConfigError {
    ConfigError { variable, problem: format!("{value:?} can't be used; it takes {takes}") }
}

/// The environment, or what stands for it.
pub(super) struct Settings<'a>(&'a dyn Fn(&str) -> Option<String>);

impl<'a> Settings<'a> {
    pub(super) fn new(lookup: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self(lookup)
    }

    /// The value without blanks around it; none when it is empty.
    pub(super) fn get(&self, variable: &'static str) -> Option<String> {
        self.0(variable).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    pub(super) fn parsed<T: FromStr>(
        &self,
        variable: &'static str,
        takes: &str,
    ) -> Result<Option<T>, ConfigError> {
        self.get(variable).map(|text| text.parse().map_err(|_| wrong(variable, &text, takes))).transpose()
    }

    /// Values separated by commas.
    pub(super) fn list<T: FromStr>(
        &self,
        variable: &'static str,
        takes: &str,
    ) -> Result<Vec<T>, ConfigError> {
        let text = self.get(variable).unwrap_or_default();
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        parts.map(|part| part.parse().map_err(|_| wrong(variable, part, takes))).collect()
    }

    /// One of a few words, the first of which is the default.
    pub(super) fn choice<T: Copy>(
        &self,
        variable: &'static str,
        choices: &[(&'static str, T)],
    ) -> Result<T, ConfigError> {
        let given = self.get(variable);
        let wanted = given.as_deref().unwrap_or(choices[0].0);
        choices.iter().find(|(word, _)| *word == wanted).map(|(_, value)| *value).ok_or_else(|| {
            let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
            wrong(variable, wanted, &words.join(" or "))
        })
    }

    /// An absolute path: the agent is started from anywhere, and its VMs outlive it.
    pub(super) fn directory(&self, variable: &'static str, default: &str) -> Result<PathBuf, ConfigError> {
        let text = self.get(variable).unwrap_or_else(|| default.to_owned());
        if Path::new(&text).is_absolute() {
            Ok(PathBuf::from(text))
        } else {
            Err(wrong(variable, &text, "an absolute path"))
        }
    }

    /// A path, or a name to be looked for in PATH by whoever runs it.
    pub(super) fn program(&self, variable: &'static str, default: &str) -> PathBuf {
        PathBuf::from(self.get(variable).unwrap_or_else(|| default.to_owned()))
    }

    /// A bearer token. Its value is never repeated in an error.
    pub(super) fn secret(&self, variable: &'static str) -> Result<Option<SecretString>, ConfigError> {
        let Some(value) = self.get(variable).map(SecretString::from) else { return Ok(None) };
        match is_token(&value) {
            true => Ok(Some(value)),
            false => Err(ConfigError { variable, problem: NOT_A_TOKEN.to_owned() }),
        }
    }
}

/// What tokens take.
pub(super) const NOT_A_TOKEN: &str = "takes 1 to 512 printable ASCII characters without spaces";

/// Whether it can stand in an `Authorization` header.
pub(super) fn is_token(value: &SecretString) -> bool {
    let text = value.expose_secret();
    (1..=512).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}
