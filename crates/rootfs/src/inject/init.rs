//! What runs first in a microVM.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clarateach_ext4::{Error as Ext4Error, Kind};

use super::{Injection, OWN_INIT, Place};

/// The largest init that is taken: it is held in memory.
const LARGEST: u64 = 64 << 20;

/// An init that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The file given with `--init-script` or `WORKSPACE_BIN` can't be read.
    #[error("{what} {}: {source}", path.display())]
    Read {
        /// Which of the two.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no file that could be an init.
    #[error("{what} {}: {reason}", path.display())]
    Unfit {
        /// Which of the two.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        reason: &'static str,
    },
}

/// What can become `/sbin/init`.
#[derive(Debug, Clone, Default)]
pub struct Init {
    /// The static `workspace` binary.
    pub workspace: Option<Vec<u8>>,
    /// The file given with `--init-script`.
    pub script: Option<Vec<u8>>,
}

impl Init {
    /// Reads what there is: `script` if given, and the workspace binary from `WORKSPACE_BIN`, else from beside this
    /// executable, where it may be missing.
    ///
    /// # Errors
    /// [`InitError`] for a file that was named and can't be used.
    pub fn load(script: Option<&Path>) -> Result<Self, InitError> {
        let script = script.map(|path| read("--init-script", path)).transpose()?;
        let named = std::env::var_os("WORKSPACE_BIN").filter(|value| !value.is_empty());
        let workspace = match named {
            Some(path) => Some(read("WORKSPACE_BIN", Path::new(&path))?),
            None => {
                let beside = std::env::current_exe().ok().map(|path| path.with_file_name("workspace"));
                beside
                    .filter(|path| path.is_file())
                    .map(|path| read("the workspace binary", &path))
                    .transpose()?
            }
        };
        Ok(Self { workspace, script })
    }
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, InitError> {
    let fail = |source| InitError::Read { what, path: path.to_owned(), source };
    let unfit = |reason| InitError::Unfit { what, path: path.to_owned(), reason };
    let metadata = fs::metadata(path).map_err(fail)?;
    if !metadata.is_file() {
        return Err(unfit("it is no regular file"));
    }
    if metadata.len() == 0 || metadata.len() > LARGEST {
        return Err(unfit("it is empty or larger than 64 MiB, which no init is"));
    }
    fs::read(path).map_err(fail)
}

impl Injection<'_> {
    /// Adds init; says what will run as `/sbin/init`.
    pub(super) fn init(&mut self, init: &Init) -> Result<Option<String>, Ext4Error> {
        let metadata = self.metadata(0o755);
        let Some((sbin, _)) = self.directory(b"sbin", &metadata)? else {
            self.say("/sbin: left alone, since the image has something there that is no directory: no init was added");
            return Ok(None);
        };
        let executable = self.metadata(0o755);
        if let Some(workspace) = &init.workspace {
            if let Some(there) = self.writer.lookup(sbin, b"clarateach-init") {
                self.writer.remove(there);
            }
            self.file(sbin, b"clarateach-init", &executable, workspace)?;
            self.say(format!("{OWN_INIT}: added"));
        }
        let own = self.writer.lookup(sbin, b"init");
        if let Some(script) = &init.script {
            if let Some(own) = own {
                self.writer.remove(own);
                self.say("/sbin/init: the image's own is replaced by the file given with --init-script");
            } else {
                self.say("/sbin/init: the file given with --init-script");
            }
            self.file(sbin, b"init", &executable, script)?;
            return Ok(Some("--init-script".to_owned()));
        }
        match self.resolve(b"sbin/init", true)? {
            Place::There(node) if self.writer.kind(node) == Kind::File => {
                self.say("/sbin/init: the image's own is kept");
                return Ok(Some("the image's own".to_owned()));
            }
            _ => {}
        }
        if init.workspace.is_none() {
            return Ok(None);
        }
        if let Some(dangling) = own {
            self.writer.remove(dangling);
            self.say("/sbin/init: led nowhere and is replaced");
        }
        let link = self.metadata(0o777);
        self.writer.symlink(sbin, b"init", &link, b"clarateach-init")?;
        self.say(format!("/sbin/init: points to {OWN_INIT}"));
        Ok(Some(OWN_INIT.to_owned()))
    }
}
