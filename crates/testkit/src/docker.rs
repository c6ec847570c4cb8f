//! A Docker Engine to test with, and images that need no registry.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// Whether an Engine answers; the reason if none does.
///
/// # Errors
/// What `docker info` said.
pub fn available() -> Result<(), String> {
    static ANSWER: OnceLock<Result<(), String>> = OnceLock::new();
    ANSWER
        .get_or_init(|| match Command::new("docker").arg("info").stdout(Stdio::null()).output() {
            Err(error) => Err(format!("the docker command: {error}")),
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().replace('\n', " ")),
        })
        .clone()
}

/// What a tiny image is made with.
#[derive(Debug, Clone, Copy, Default)]
pub struct TinyImage {
    /// Applets of busybox that are installed, `sh` among them or not.
    pub applets: &'static [&'static str],
    /// `ENTRYPOINT`, `USER`, `WORKDIR`, `ENV`, `CMD` and so on, as `docker import --change` takes them.
    pub changes: &'static [&'static str],
    /// Directories and files beyond: a path that ends in `/`, or a path and its content.
    pub files: &'static [(&'static str, &'static str)],
}

impl TinyImage {
    /// Busybox with a shell and what the tests call: no bash, no libc, no user with id 1000.
    pub const BUSYBOX: Self = Self {
        applets: &[
            "sh", "cat", "echo", "id", "ls", "mkdir", "nc", "nslookup", "ping", "sleep", "touch", "wget",
        ],
        changes: &[],
        files: &[("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"), ("tmp/", "")],
    };

    /// Imports the image under `tag`, from the busybox of this machine (package busybox-static).
    ///
    /// # Errors
    /// Why it can't be made.
    pub fn import(&self, tag: &str) -> Result<(), String> {
        self.import_with(Command::new("docker"), tag)
    }

    /// [`TinyImage::import`] with a `docker` command for another Engine.
    ///
    /// # Errors
    /// Why it can't be made.
    pub fn import_with(&self, mut import: Command, tag: &str) -> Result<(), String> {
        let root = tempfile::tempdir().map_err(|error| error.to_string())?;
        self.lay_out(root.path())?;
        let mut tar = Command::new("tar")
            .args(["--create", "--owner=0", "--group=0", "--directory"])
            .arg(root.path())
            .arg(".")
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("tar: {error}"))?;
        let archive = tar.stdout.take().ok_or("tar has no output")?;
        import.arg("import");
        for change in self.changes {
            import.args(["--change", change]);
        }
        let output =
            import.args(["-", tag]).stdin(archive).output().map_err(|error| format!("docker: {error}"));
        tar.wait().map_err(|error| format!("tar: {error}"))?;
        let output = output?;
        if output.status.success() {
            Ok(())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    fn lay_out(&self, root: &Path) -> Result<(), String> {
        let failed = |path: &Path| {
            let path = path.display().to_string();
            move |error: std::io::Error| format!("{path}: {error}")
        };
        let bin = root.join("bin");
        fs::create_dir_all(&bin).map_err(failed(&bin))?;
        if !self.applets.is_empty() {
            let busybox = static_busybox()?;
            fs::copy(&busybox, bin.join("busybox")).map_err(failed(&busybox))?;
        }
        for applet in self.applets {
            symlink("busybox", bin.join(applet)).map_err(failed(&bin))?;
        }
        for (name, content) in self.files {
            let path = root.join(name);
            if name.ends_with('/') {
                fs::create_dir_all(&path).map_err(failed(&path))?;
                continue;
            }
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent).map_err(failed(parent))?;
            }
            fs::write(&path, content).map_err(failed(&path))?;
        }
        Ok(())
    }
}

fn static_busybox() -> Result<PathBuf, String> {
    ["/bin/busybox", "/usr/bin/busybox"]
        .into_iter()
        .map(PathBuf::from)
        .find(|path| path.is_file())
        .ok_or_else(|| "there is no busybox here: install busybox-static".to_owned())
}
