//! Noticing changes of files, by inotify(7), while somebody wants to know.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    io,
    mem::MaybeUninit,
    os::fd::{AsRawFd, OwnedFd},
    sync::Arc,
};

use clarateach_seatproto::files::FilesChanged;
use futures_util::FutureExt as _;
use rustix::fs::{
    Mode, OFlags,
    inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags},
};
use tokio::io::unix::AsyncFd;

use super::{Files, content::TEMPORARY, list, root::Root};
use crate::terminal::watch_descriptor;

/// Directories watched at most; those nearer to the top first.
const MOST: usize = 2048;
/// Large, and not what anybody looks at.
const SKIPPED: [&str; 4] = [".git", "node_modules", ".venv", "__pycache__"];

/// The watched directories.
#[derive(Debug)]
pub(crate) struct Watch {
    files: Files,
    inotify: AsyncFd<OwnedFd>,
    /// The same, for the threads that add watches.
    shared: Arc<OwnedFd>,
    directories: HashMap<i32, String>,
}

impl Watch {
    /// Watches the workspace and the directories in it.
    pub(crate) async fn start(files: Files) -> io::Result<Watch> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let shared = Arc::new(inotify.try_clone()?);
        let inotify = watch_descriptor(inotify)?;
        let mut watch = Watch { files, inotify, shared, directories: HashMap::new() };
        watch.add(String::new()).await;
        Ok(watch)
    }

    /// Waits for a change and returns what has changed so far. A call that is dropped takes nothing with it while it waits.
    pub(crate) async fn changed(&mut self) -> io::Result<FilesChanged> {
        loop {
            self.inotify.readable().await?.retain_ready();
            let changed = self.so_far().await?;
            if changed.overflow || !changed.directories.is_empty() {
                return Ok(changed);
            }
        }
    }

    /// What has changed since the last call, without waiting for more. New directories are watched from now on, and count as
    /// changed: what happened in them before is told by nothing else. Must be let finish, for what it has read comes once.
    pub(crate) async fn so_far(&mut self) -> io::Result<FilesChanged> {
        let mut changed = BTreeSet::new();
        let mut overflow = false;
        let mut appeared = Vec::new();
        let mut gone = Vec::new();
        {
            let Some(ready) = self.inotify.readable().now_or_never() else {
                return Ok(FilesChanged::default());
            };
            let mut ready = ready?;
            let mut buffer = [MaybeUninit::uninit(); 4096];
            let mut events = Reader::new(self.inotify.get_ref(), &mut buffer);
            loop {
                match events.next() {
                    Ok(event) => {
                        let kind = event.events();
                        overflow |= kind.contains(ReadFlags::QUEUE_OVERFLOW);
                        if kind.contains(ReadFlags::IGNORED) {
                            self.directories.remove(&event.wd());
                            continue;
                        }
                        let Some(directory) = self.directories.get(&event.wd()) else { continue };
                        let name =
                            event.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
                        if name.starts_with(TEMPORARY) {
                            continue;
                        }
                        if kind.contains(ReadFlags::ISDIR) && !name.is_empty() {
                            let path = below(directory, &name);
                            if kind.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO) {
                                appeared.push(path);
                            } else if kind.contains(ReadFlags::MOVED_FROM) {
                                gone.push(path);
                            }
                        }
                        changed.insert(directory.clone());
                    }
                    Err(rustix::io::Errno::INTR) => {}
                    Err(rustix::io::Errno::AGAIN) => {
                        ready.clear_ready();
                        break;
                    }
                    Err(other) => return Err(other.into()),
                }
                if events.is_buffer_empty() && changed.len() > 64 {
                    break;
                }
            }
        }
        gone.iter().for_each(|path| self.forget(path));
        for path in appeared {
            changed.extend(self.add(path).await);
        }
        Ok(FilesChanged { directories: changed.into_iter().collect(), overflow })
    }

    /// Watches a directory and those in it; returns which.
    async fn add(&mut self, path: String) -> Vec<String> {
        if skipped(&path) || self.directories.len() >= MOST {
            return Vec::new();
        }
        let inotify = self.shared.clone();
        let most = MOST - self.directories.len();
        let added = self.files.run(move |root| Ok(watch_below(root, &inotify, path, most))).await;
        let added = added.unwrap_or_default();
        let paths = added.iter().map(|(_, path)| path.clone()).collect();
        self.directories.extend(added);
        paths
    }

    fn forget(&mut self, path: &str) {
        let inside = format!("{path}/");
        let inotify = self.shared.clone();
        self.directories.retain(|watch, directory| {
            let moved = directory == path || directory.starts_with(&inside);
            if moved {
                let _ = inotify::remove_watch(&*inotify, *watch);
            }
            !moved
        });
    }
}

fn below(directory: &str, name: &str) -> String {
    if directory.is_empty() { name.to_owned() } else { format!("{directory}/{name}") }
}

fn skipped(path: &str) -> bool {
    SKIPPED.contains(&path.rsplit('/').next().unwrap_or_default())
}

fn watch_below(root: &Root, inotify: &OwnedFd, path: String, most: usize) -> Vec<(i32, String)> {
    let flags = WatchFlags::CREATE
        | WatchFlags::DELETE
        | WatchFlags::MOVED_FROM
        | WatchFlags::MOVED_TO
        | WatchFlags::CLOSE_WRITE
        | WatchFlags::ATTRIB
        | WatchFlags::EXCL_UNLINK
        | WatchFlags::ONLYDIR;
    let mut watched = Vec::new();
    let mut left = VecDeque::from([path]);
    while let Some(path) = left.pop_front() {
        let directory = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let Ok(directory) = root.open_at(&path, directory, Mode::empty()) else { continue };
        // By descriptor, so that it is the directory that was opened beneath the workspace.
        let descriptor = format!("/proc/thread-self/fd/{}", directory.as_raw_fd());
        let Ok(watch) = inotify::add_watch(inotify, descriptor, flags) else { continue };
        let names = list::subdirectories(&directory).unwrap_or_default();
        left.extend(names.into_iter().map(|name| below(&path, &name)).filter(|p| !skipped(p)));
        watched.push((watch, path));
        if watched.len() == most {
            break;
        }
    }
    watched
}
