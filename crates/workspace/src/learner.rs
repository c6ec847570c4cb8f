//! Who the learner is inside the seat: ids, home, shell.
//!
//! passwd(5) and group(5) are read by hand: a static binary has no NSS, and an image may have neither file.

use std::{
    ffi::OsString,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use crate::config::{Config, LearnerId};

/// The learner's identity and shell.
#[derive(Clone, Debug)]
pub(crate) struct Learner {
    /// Whether processes and file operations must change to these ids (false: we already are the learner).
    pub(crate) drops: bool,
    /// User id.
    pub(crate) uid: u32,
    /// Primary group.
    pub(crate) gid: u32,
    /// All groups, the primary one included.
    pub(crate) groups: Vec<u32>,
    /// The shell; none if the image has no usable one.
    pub(crate) shell: Option<PathBuf>,
    /// Environment of the shell.
    pub(crate) env: Vec<(OsString, OsString)>,
}

struct PasswdEntry {
    name: String,
    gid: u32,
    home: PathBuf,
    shell: PathBuf,
}

impl Learner {
    /// Looks the learner up in the image's `/etc/passwd` and `/etc/group`.
    pub(crate) fn find(config: &Config) -> Learner {
        let (uid, drops) = match config.learner {
            LearnerId::Uid(uid) => (uid, rustix::process::geteuid().as_raw() != uid),
            LearnerId::Same => (rustix::process::geteuid().as_raw(), false),
        };
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let group = fs::read_to_string("/etc/group").unwrap_or_default();
        let entry = passwd_entry(&passwd, uid);
        let own_gid = rustix::process::getegid().as_raw();
        let gid = if drops { entry.as_ref().map_or(uid, |e| e.gid) } else { own_gid };
        let name = entry.as_ref().map_or_else(|| "learner".to_owned(), |e| e.name.clone());
        let mut groups = vec![gid];
        groups.extend(supplementary(&group, &name).into_iter().filter(|g| *g != gid && *g != 0));
        // As a plain process the seat's directory is the learner's world, not the developer's home.
        let home = entry
            .as_ref()
            .filter(|_| config.learner != LearnerId::Same)
            .map(|e| e.home.clone())
            .filter(|h| h.is_dir())
            .unwrap_or_else(|| config.root.clone());
        let env = environment(config, &name, &home);
        let path = env.iter().find(|(n, _)| n == "PATH").map(|(_, v)| v.clone()).unwrap_or_default();
        let shell = match &config.shell {
            Some(shell) => Some(shell.clone()).filter(|s| is_executable(s)),
            None => find_shell(entry.map(|e| e.shell), &path),
        };
        let mut env = env;
        if let Some(shell) = &shell {
            set(&mut env, "SHELL", shell.as_os_str().to_owned());
        }
        Learner { drops, uid, gid, groups, shell, env }
    }
}

fn passwd_entry(passwd: &str, uid: u32) -> Option<PasswdEntry> {
    passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, id, gid, _, home, shell] = fields[..] else { return None };
        (id.parse() == Ok(uid)).then_some(())?;
        Some(PasswdEntry {
            name: name.to_owned(),
            gid: gid.parse().ok()?,
            home: home.into(),
            shell: shell.into(),
        })
    })
}

fn supplementary(group: &str, name: &str) -> Vec<u32> {
    group
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let [_, _, gid, members] = fields[..] else { return None };
            members.split(',').any(|m| m == name).then(|| gid.parse().ok())?
        })
        .collect()
}

/// The passwd entry's shell, else bash, else sh. A shell that refuses logins is no shell.
fn find_shell(from_passwd: Option<PathBuf>, path: &OsString) -> Option<PathBuf> {
    let refuses = |shell: &Path| {
        matches!(shell.file_name().and_then(|n| n.to_str()), Some("nologin" | "false" | "true" | "sync"))
    };
    from_passwd.filter(|s| s.is_absolute() && !refuses(s) && is_executable(s)).or_else(|| {
        let directories: Vec<PathBuf> = std::env::split_paths(path)
            .chain(["/bin".into(), "/usr/bin".into()])
            .filter(|d| d.is_absolute())
            .collect();
        ["bash", "sh"].iter().find_map(|name| {
            directories.iter().map(|d| d.join(name)).find(|candidate| is_executable(candidate))
        })
    })
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

fn environment(config: &Config, name: &str, home: &Path) -> Vec<(OsString, OsString)> {
    let mut env = config.learner_env.clone();
    let mut default = |variable: &str, value: &str| {
        if !env.iter().any(|(n, _)| n == variable) {
            env.push((variable.into(), value.into()));
        }
    };
    default("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    default("LANG", "C.UTF-8");
    set(&mut env, "TERM", "xterm-256color".into());
    set(&mut env, "COLORTERM", "truecolor".into());
    set(&mut env, "HOME", home.as_os_str().to_owned());
    set(&mut env, "USER", name.into());
    set(&mut env, "LOGNAME", name.into());
    set(&mut env, "PWD", config.root.as_os_str().to_owned());
    env
}

fn set(env: &mut Vec<(OsString, OsString)>, name: &str, value: OsString) {
    env.retain(|(n, _)| n != name);
    env.push((name.into(), value));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwd_lines_are_found_by_uid_and_broken_ones_skipped() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\nbroken\nana:x:1000:100:,,,:/home/ana:/bin/zsh\n";
        let entry = passwd_entry(passwd, 1000).unwrap();
        assert_eq!((entry.name.as_str(), entry.gid), ("ana", 100));
        assert!(passwd_entry(passwd, 1).is_none());
    }

    #[test]
    fn groups_are_those_that_name_the_learner() {
        let group = "root:x:0:\ndocker:x:998:bo,ana\nvideo:x:44:anabel\nusers:x:100:ana\n";
        assert_eq!(supplementary(group, "ana"), [998, 100]);
    }

    #[test]
    fn a_shell_that_refuses_logins_is_passed_over() {
        let found = find_shell(Some("/usr/sbin/nologin".into()), &OsString::from("/usr/bin:/bin")).unwrap();
        assert!(found.ends_with("bash") || found.ends_with("sh"));
    }
}
