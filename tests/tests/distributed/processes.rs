//! Processes that can be killed at any moment and started again.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use crate::wires::Place;

/// A program with its settings, and the process that it is now.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) name: String,
    pub(crate) place: Place,
    program: PathBuf,
    arguments: Vec<String>,
    settings: Vec<(String, String)>,
    directory: PathBuf,
    child: Option<Child>,
}

impl Process {
    /// Not started yet. `directory` is its own: state and log.
    pub(crate) fn new(
        name: &str,
        place: &Place,
        program: &Path,
        arguments: &[&str],
        settings: &[(&str, &str)],
        directory: &Path,
    ) -> Self {
        std::fs::create_dir_all(directory).expect("a directory");
        Self {
            name: name.to_owned(),
            place: place.clone(),
            program: program.to_owned(),
            arguments: arguments.iter().map(|text| (*text).to_owned()).collect(),
            settings: settings.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
            directory: directory.to_owned(),
            child: None,
        }
    }

    /// Starts it, or again. It answers when it is ready to.
    pub(crate) fn start(&mut self) {
        let log = File::options().create(true).append(true).open(self.log_path()).expect("a log");
        let mut command = self.place.command(&self.program);
        command
            .args(&self.arguments)
            .current_dir(&self.directory)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(self.settings.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        self.child = Some(command.spawn().expect("it starts"));
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// How it ended by itself, if it has.
    pub(crate) fn ended(&mut self) -> Option<String> {
        let status = self.child.as_mut()?.try_wait().ok()??;
        Some(format!("{} ended by itself: {status}\n{}", self.name, self.last_words()))
    }

    fn log_path(&self) -> PathBuf {
        self.directory.join("log")
    }

    pub(crate) fn last_words(&self) -> String {
        let log = std::fs::read_to_string(self.log_path()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        format!("--- {}\n{}", self.name, lines[lines.len().saturating_sub(40)..].join("\n"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.last_words());
        }
        self.kill();
    }
}
