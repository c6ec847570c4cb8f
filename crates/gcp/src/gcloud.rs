//! The same as a command line of `gcloud`, for people who want to see it or do it by hand.

use std::fmt;

use crate::compute::ProjectInZone;
use crate::names::ResourceName;
use crate::spec::{Boot, InstanceSpec};

/// A command of `gcloud`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gcloud {
    words: Vec<String>,
    flags: Vec<String>,
    one_line: bool,
}

impl Gcloud {
    fn new(words: &[&str]) -> Self {
        Self {
            words: words.iter().map(|word| (*word).to_owned()).collect(),
            flags: Vec::new(),
            one_line: false,
        }
    }

    fn flag(mut self, flag: impl Into<String>) -> Self {
        self.flags.push(flag.into());
        self
    }

    fn filtered(self, filter: Option<&str>) -> Self {
        match filter {
            Some(filter) => self.flag(format!("--filter={filter}")),
            None => self,
        }
    }

    fn at(self, place: &ProjectInZone) -> Self {
        self.flag(format!("--zone={}", place.zone)).flag(format!("--project={}", place.project))
    }

    /// Program and arguments, to run it.
    #[must_use]
    pub fn arguments(&self) -> Vec<String> {
        self.words.iter().chain(&self.flags).cloned().collect()
    }
}

impl fmt::Display for Gcloud {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<String> = self.words.iter().map(|word| quoted(word)).collect();
        write!(f, "gcloud {}", words.join(" "))?;
        for flag in &self.flags {
            f.write_str(if self.one_line { " " } else { " \\\n  " })?;
            f.write_str(&quoted(flag))?;
        }
        Ok(())
    }
}

/// For a POSIX shell.
fn quoted(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_=.,:/@+%".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// `gcloud compute instances create`.
#[must_use]
pub fn create(place: &ProjectInZone, spec: &InstanceSpec) -> Gcloud {
    let name = spec.name.as_str();
    let mut command = Gcloud::new(&["compute", "instances", "create", name])
        .flag(format!("--project={}", place.project))
        .flag(format!("--zone={}", place.zone))
        .flag(format!("--machine-type={}", spec.machine_type))
        .flag("--enable-nested-virtualization");
    command = match &spec.boot {
        Boot::Image(image) => command
            .flag(format!("--image-family={}", image.family))
            .flag(format!("--image-project={}", image.project))
            .flag(format!("--boot-disk-size={}GB", spec.disk_gb)),
        Boot::Snapshot(snapshot) => command.flag(format!(
            "--create-disk=boot=yes,source-snapshot={snapshot},size={}GB,auto-delete=yes",
            spec.disk_gb
        )),
    };
    command = if spec.spot {
        command.flag("--provisioning-model=SPOT").flag("--instance-termination-action=STOP")
    } else {
        command.flag("--maintenance-policy=TERMINATE")
    };
    if !spec.labels.is_empty() {
        let labels: Vec<String> = spec.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        command = command.flag(format!("--labels={}", labels.join(",")));
    }
    if !spec.tags.is_empty() {
        command = command.flag(format!("--tags={}", spec.tags.join(",")));
    }
    if let Some(network) = &spec.network {
        command = command.flag(format!("--network={network}"));
    }
    if let Some(subnetwork) = &spec.subnetwork {
        command = command.flag(format!("--subnet={subnetwork}"));
    }
    if !spec.external_ip {
        command = command.flag("--no-address");
    }
    if let Some(account) = &spec.service_account {
        command = command.flag(format!("--service-account={account}"));
    }
    if let Some(scopes) = &spec.scopes {
        command = command.flag(format!("--scopes={}", scopes.join(",")));
    }
    metadata(command, spec)
}

/// Secrets and scripts come from files: a command line is there for every user of a machine to see.
fn metadata(mut command: Gcloud, spec: &InstanceSpec) -> Gcloud {
    let mut from_files = Vec::new();
    let mut plain: Vec<String> = spec.metadata.iter().map(|(key, value)| format!("{key}={value}")).collect();
    if spec.agent_token.is_some() {
        from_files.push("agent-token=AGENT_TOKEN_FILE".to_owned());
    }
    if let Some(startup) = &spec.startup {
        from_files.push("startup-script=deploy/startup-worker.sh".to_owned());
        plain.push(format!("clarateach-release={}", startup.url));
        plain.extend(startup.sha256.iter().map(|sum| format!("clarateach-release-sha256={sum}")));
    }
    if !plain.is_empty() {
        command = command.flag(format!("--metadata={}", plain.join(",")));
    }
    if !from_files.is_empty() {
        command = command.flag(format!("--metadata-from-file={}", from_files.join(",")));
    }
    command
}

/// `gcloud compute disks snapshot`.
#[must_use]
pub fn snapshot(place: &ProjectInZone, disk: &ResourceName, snapshot: &ResourceName) -> Gcloud {
    Gcloud::new(&["compute", "disks", "snapshot", disk.as_str()])
        .flag(format!("--zone={}", place.zone))
        .flag(format!("--snapshot-names={snapshot}"))
        .flag(format!("--project={}", place.project))
}

/// `gcloud compute instances start`, `stop`, `describe`.
#[must_use]
pub fn instance(place: &ProjectInZone, verb: &str, name: &ResourceName) -> Gcloud {
    Gcloud::new(&["compute", "instances", verb, name.as_str()]).at(place)
}

/// `gcloud compute instances delete`, without asking.
#[must_use]
pub fn delete(place: &ProjectInZone, name: &ResourceName) -> Gcloud {
    instance(place, "delete", name).flag("--quiet")
}

/// `gcloud compute instances list` of one zone.
#[must_use]
pub fn list(place: &ProjectInZone, filter: Option<&str>) -> Gcloud {
    Gcloud::new(&["compute", "instances", "list"])
        .flag(format!("--project={}", place.project))
        .flag(format!("--zones={}", place.zone))
        .filtered(filter)
}

/// `gcloud compute instances list` of all zones.
#[must_use]
pub fn list_everywhere(place: &ProjectInZone, filter: Option<&str>) -> Gcloud {
    Gcloud::new(&["compute", "instances", "list"])
        .flag(format!("--project={}", place.project))
        .filtered(filter)
}

/// `gcloud compute instances get-serial-port-output`.
#[must_use]
pub fn serial_port_output(place: &ProjectInZone, name: &ResourceName, follow: bool) -> Gcloud {
    let verb = if follow { "tail-serial-port-output" } else { "get-serial-port-output" };
    instance(place, verb, name)
}

/// `gcloud compute ssh`, on one line: a shell, or a command there.
#[must_use]
pub fn ssh(
    place: &ProjectInZone,
    name: &ResourceName,
    user: Option<&str>,
    internal_ip: bool,
    remote: &str,
) -> Gcloud {
    let target = user.map_or_else(|| name.to_string(), |user| format!("{user}@{name}"));
    let mut command = Gcloud::new(&["compute", "ssh", &target]).at(place);
    if internal_ip {
        command = command.flag("--internal-ip");
    }
    if !remote.is_empty() {
        command = command.flag(format!("--command={remote}"));
    }
    Gcloud { one_line: true, ..command }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> ProjectInZone {
        ProjectInZone::new("clarateach", "us-central1-b").unwrap()
    }

    fn name(text: &str) -> ResourceName {
        text.parse().unwrap()
    }

    /// The commands of the handbook, letter by letter.
    #[test]
    fn the_documented_commands() {
        let mut spec = InstanceSpec::new(name("clara-worker"), "n2-standard-8".parse().unwrap());
        assert_eq!(
            create(&place(), &spec).to_string(),
            "gcloud compute instances create clara-worker \\
  --project=clarateach \\
  --zone=us-central1-b \\
  --machine-type=n2-standard-8 \\
  --enable-nested-virtualization \\
  --image-family=debian-12 \\
  --image-project=debian-cloud \\
  --boot-disk-size=50GB \\
  --provisioning-model=SPOT \\
  --instance-termination-action=STOP"
        );
        assert_eq!(
            snapshot(&place(), &name("clara2"), &name("clara2-snapshot")).to_string(),
            "gcloud compute disks snapshot clara2 \\
  --zone=us-central1-b \\
  --snapshot-names=clara2-snapshot \\
  --project=clarateach"
        );
        assert_eq!(
            delete(&place(), &name("clara2")).to_string(),
            "gcloud compute instances delete clara2 \\
  --zone=us-central1-b \\
  --project=clarateach \\
  --quiet"
        );
        spec.name = name("clara2");
        spec.boot = Boot::Snapshot(name("clara2-snapshot"));
        assert_eq!(
            create(&place(), &spec).to_string(),
            "gcloud compute instances create clara2 \\
  --project=clarateach \\
  --zone=us-central1-b \\
  --machine-type=n2-standard-8 \\
  --enable-nested-virtualization \\
  --create-disk=boot=yes,source-snapshot=clara2-snapshot,size=50GB,auto-delete=yes \\
  --provisioning-model=SPOT \\
  --instance-termination-action=STOP"
        );
        assert_eq!(
            ssh(&place(), &name("clara2"), None, false, "").to_string(),
            "gcloud compute ssh clara2 --zone=us-central1-b --project=clarateach"
        );
        assert_eq!(
            ssh(&place(), &name("clara2"), Some("root"), true, "uname -r").to_string(),
            "gcloud compute ssh root@clara2 --zone=us-central1-b --project=clarateach --internal-ip '--command=uname -r'"
        );
    }

    #[test]
    fn words_are_quoted_and_secrets_are_not_named() {
        assert_eq!(quoted("it's"), r"'it'\''s'");
        let mut spec = InstanceSpec::new(name("w"), "n2-standard-8".parse().unwrap());
        spec.agent_token = Some("very-secret".to_owned().into());
        spec.metadata.insert("note".to_owned(), "two words".to_owned());
        let command = create(&place(), &spec).to_string();
        assert!(!command.contains("very-secret"), "{command}");
        assert!(command.contains("'--metadata=note=two words'"), "{command}");
    }
}
