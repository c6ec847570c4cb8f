//! Ctrl-C and SIGTERM: temporary files go, and so does the process.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

static TEMPORARY: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

fn temporary() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    TEMPORARY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A file, or a directory, that is removed when it is dropped, or when the process is interrupted, unless it is let go before.
#[derive(Debug)]
pub struct TemporaryPath(PathBuf);

impl TemporaryPath {
    /// Takes charge of a file, which need not exist yet.
    pub fn new(path: PathBuf) -> Self {
        temporary().insert(path.clone());
        Self(path)
    }

    /// Takes charge of what `make` creates, atomically with regard to signals: an interrupted process has either not
    /// created it, or removes it.
    ///
    /// # Errors
    /// What `make` says; nothing is taken charge of then.
    pub fn made<T, E>(make: impl FnOnce() -> Result<(PathBuf, T), E>) -> Result<(Self, T), E> {
        let mut list = temporary();
        let (path, made) = make()?;
        list.insert(path.clone());
        Ok((Self(path), made))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Puts the file in its final place, atomically with regard to signals: an interrupted process has either not
    /// published, or has published everything.
    ///
    /// # Errors
    /// If it can't be renamed; it is then still temporary.
    pub fn publish(self, to: &Path) -> std::io::Result<()> {
        let mut list = temporary();
        std::fs::rename(&self.0, to)?;
        list.remove(&self.0);
        drop(list);
        Ok(())
    }
}

impl Drop for TemporaryPath {
    fn drop(&mut self) {
        if temporary().remove(&self.0) {
            // Best effort: whoever builds next to this path takes the file over.
            remove(&self.0);
        }
    }
}

fn remove(path: &Path) {
    if std::fs::remove_file(path).is_err() {
        let _ = std::fs::remove_dir_all(path);
    }
}

static CHILD: Mutex<Option<rustix::process::Pid>> = Mutex::new(None);

/// Runs a command to its end; an interrupted process takes it along.
///
/// # Errors
/// If it can't be started or waited for.
pub fn output_of(command: &mut std::process::Command) -> std::io::Result<std::process::Output> {
    let child = command.spawn()?;
    *CHILD.lock().unwrap_or_else(PoisonError::into_inner) = Some(rustix::process::Pid::from_child(&child));
    let output = child.wait_with_output();
    *CHILD.lock().unwrap_or_else(PoisonError::into_inner) = None;
    output
}

/// From now on, SIGINT, SIGTERM and SIGHUP remove what is temporary and end the process with 128 and the signal's number.
/// The flag that is returned is for work that could go on beyond that.
///
/// # Errors
/// If the signals can't be caught.
pub fn install() -> std::io::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    let raised = Arc::clone(&flag);
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        if let Some(signal) = signals.forever().next() {
            raised.store(true, std::sync::atomic::Ordering::Relaxed);
            if let Some(child) = *CHILD.lock().unwrap_or_else(PoisonError::into_inner) {
                let _ = rustix::process::kill_process(child, rustix::process::Signal::TERM);
            }
            // Held until the end, so that nothing can be published any more.
            let list = temporary();
            for path in list.iter() {
                remove(path);
            }
            std::process::exit(128 + signal);
        }
    })?;
    Ok(flag)
}
