//! `agent doctor`: whether this host can run VMs with these settings, and how to mend what is broken.

mod agent;
mod guest;
mod host;
mod network;
mod tls;
mod vmm;

use std::process::ExitCode;

use serde::Serialize;

use crate::cli::Format;
use crate::config::{Config, ConfigError};

/// How something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// As it should be.
    Ok,
    /// VMs run, but not all that they should do works, or not for long.
    Warning,
    /// No VM runs like this.
    Broken,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Its name.
    pub name: &'static str,
    /// How it is.
    pub health: Health,
    /// What was found.
    pub message: String,
    /// The command, or what else to do, where something is to be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl Check {
    fn ok(name: &'static str, message: impl Into<String>) -> Self {
        Self { name, health: Health::Ok, message: message.into(), fix: None }
    }

    fn warning(name: &'static str, message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, health: Health::Warning, message: message.into(), fix: Some(fix.into()) }
    }

    fn broken(name: &'static str, message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, health: Health::Broken, message: message.into(), fix: Some(fix.into()) }
    }
}

/// All that was found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Whether nothing is broken.
    pub ok: bool,
    /// In the order in which they are best mended.
    pub checks: Vec<Check>,
}

/// Looks at everything and changes nothing.
pub async fn examine(config: Result<Config, ConfigError>) -> Report {
    let config = match config {
        Ok(config) => config,
        Err(error) => {
            let fix = format!("set {} to what it takes, or unset it; see agent --help", error.variable);
            return Report::of(vec![Check::broken("settings", error.to_string(), fix)]);
        }
    };
    let mut checks = vec![Check::ok("settings", "every setting can be used")];
    checks.push(host::privileges());
    checks.push(agent::token(&config).await);
    checks.push(tls::certificate(&config));
    checks.extend(vmm::checks(&config).await);
    checks.extend(guest::checks(&config).await);
    checks.extend(network::checks(&config).await);
    checks.extend(host::checks(&config));
    checks.push(agent::port(&config).await);
    Report::of(checks)
}

impl Report {
    fn of(checks: Vec<Check>) -> Self {
        Self { ok: checks.iter().all(|check| check.health != Health::Broken), checks }
    }

    /// As text: `[+] name: …`, `[!] name: …` or `[-] name: …`, each of the latter two followed by what to do.
    #[must_use]
    pub fn print(&self, format: Format) -> String {
        if format == Format::Json {
            return serde_json::to_string_pretty(self).unwrap_or_default() + "\n";
        }
        let mut text = String::new();
        for check in &self.checks {
            let mark = match check.health {
                Health::Ok => '+',
                Health::Warning => '!',
                Health::Broken => '-',
            };
            text.push_str(&format!("[{mark}] {}: {}\n", check.name, check.message));
            for line in check.fix.iter().flat_map(|fix| fix.lines()) {
                text.push_str(&format!("      {line}\n"));
            }
        }
        let broken = self.checks.iter().filter(|check| check.health == Health::Broken).count();
        text.push_str(&match broken {
            0 => "\nThis host can run VMs.\n".to_owned(),
            1 => "\n1 thing is broken.\n".to_owned(),
            many => format!("\n{many} things are broken.\n"),
        });
        text
    }

    /// 1 when something is broken.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        if self.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_says_what_to_do() {
        let report = Report::of(vec![
            Check::ok("kernel", "Linux 6.1"),
            Check::warning("memory", "tight", "lower CAPACITY"),
            Check::broken("kvm", "there is no /dev/kvm", "sudo apt install qemu-kvm"),
        ]);
        assert!(!report.ok);
        assert_eq!(
            report.print(Format::Text),
            "[+] kernel: Linux 6.1\n[!] memory: tight\n      lower CAPACITY\n[-] kvm: there is no /dev/kvm\n      \
             sudo apt install qemu-kvm\n\n1 thing is broken.\n"
        );
        let json: serde_json::Value = serde_json::from_str(&report.print(Format::Json)).unwrap();
        assert_eq!((&json["ok"], &json["checks"][2]["health"]), (&false.into(), &"broken".into()));
    }

    #[tokio::test]
    async fn a_setting_that_can_t_be_used_is_the_first_thing_said() {
        let config = Config::read(|name| (name == "CAPACITY").then(|| "lots".to_owned()));
        let report = examine(config).await;
        assert!(!report.ok);
        assert!(report.print(Format::Text).starts_with("[-] settings: CAPACITY: \"lots\""));
    }

    /// Whatever the host is like, every check answers, and what is broken says what to do.
    #[tokio::test]
    async fn an_empty_host_is_examined_to_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let place = |name: &str| Some(dir.path().join(name).display().to_string());
        let config = Config::read(|name| match name {
            "IMAGES_DIR" => place("images"),
            "STATE_DIR" => place("state"),
            "SOCKET_DIR" => place("sockets"),
            "FIRECRACKER_BIN" => place("firecracker"),
            "WORKSPACE_BIN" => place("workspace"),
            "GCE_METADATA_HOST" => Some("127.0.0.1:1".to_owned()),
            "PORT" => Some("0".to_owned()),
            _ => None,
        });
        let report = examine(config).await;
        let health = |name: &str| {
            let check = report.checks.iter().find(|check| check.name == name);
            check.unwrap_or_else(|| panic!("no {name} in {report:?}")).health
        };
        for name in ["token", "firecracker", "kernel", "rootfs", "workspace"] {
            assert_eq!(health(name), Health::Broken, "{name}: {report:?}");
        }
        for check in &report.checks {
            assert_eq!(check.health == Health::Ok, check.fix.is_none(), "{check:?}");
        }
        assert!(!dir.path().join("state").exists() && !dir.path().join("sockets").exists());
    }
}
