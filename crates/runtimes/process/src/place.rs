//! Where a seat lives on disk.
//!
//! ```text
//! {state}/generations                     the highest generation seen per seat
//! {state}/seats/{workshop}.{seat}.g{n}/   one make of a seat
//!     record.json                         its secret
//!     disk/                               the learner's files
//!     log                                 what its workspace printed
//! {sockets}/{hash}                        where its workspace listens
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use clarateach_ids::{Generation, SeatKey};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

/// `sockaddr_un` holds 108 bytes with the final NUL, see unix(7).
const LONGEST_SOCKET: usize = 107;
const SOCKET_NAME: usize = 16;
/// A log is started anew when it has grown beyond this.
const LOG_LIMIT: u64 = 1024 * 1024;

/// The directories of one runtime.
#[derive(Debug)]
pub(crate) struct Places {
    state: PathBuf,
    sockets: PathBuf,
}

/// One make of a seat on disk.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) key: SeatKey,
    pub(crate) generation: Generation,
    pub(crate) directory: PathBuf,
    pub(crate) socket: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct Record {
    secret: String,
}

/// A directory that only we can look into; one that is there must be ours.
fn private_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    let metadata = fs::symlink_metadata(path)?;
    if !metadata.is_dir() || metadata.uid() != rustix::process::geteuid().as_raw() {
        let message = format!("{} belongs to somebody else", path.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}

impl Places {
    pub(crate) fn open(state: &Path) -> io::Result<Self> {
        private_directory(state)?;
        let state = state.canonicalize()?;
        private_directory(&state.join("seats"))?;
        let mut sockets = state.join("run");
        if sockets.as_os_str().len() + 1 + SOCKET_NAME > LONGEST_SOCKET {
            let hash = blake3::hash(state.as_os_str().as_encoded_bytes()).to_hex();
            sockets = std::env::temp_dir().join(format!("clarateach-{}", &hash[..SOCKET_NAME]));
        }
        private_directory(&sockets)?;
        Ok(Self { state, sockets })
    }

    pub(crate) fn generations(&self) -> PathBuf {
        self.state.join("generations")
    }

    pub(crate) fn of(&self, key: &SeatKey, generation: Generation) -> Place {
        let name = format!("{}.{}.g{generation}", key.workshop, key.seat);
        let hash = blake3::hash(self.state.join(&name).as_os_str().as_encoded_bytes()).to_hex();
        Place {
            key: key.clone(),
            generation,
            directory: self.state.join("seats").join(name),
            socket: self.sockets.join(&hash[..SOCKET_NAME]),
        }
    }

    /// Every make of every seat that is on disk.
    pub(crate) fn all(&self) -> io::Result<Vec<Place>> {
        let mut places = Vec::new();
        for entry in fs::read_dir(self.state.join("seats"))? {
            let name = entry?.file_name();
            let Some((key, generation)) = name.to_str().and_then(parse) else { continue };
            places.push(self.of(&key, generation));
        }
        Ok(places)
    }
}

/// Ids hold no dots.
fn parse(name: &str) -> Option<(SeatKey, Generation)> {
    let mut parts = name.split('.');
    let (workshop, seat, generation) = (parts.next()?, parts.next()?, parts.next()?);
    let generation = Generation(generation.strip_prefix('g')?.parse().ok()?);
    let key = SeatKey { workshop: workshop.parse().ok()?, seat: seat.parse().ok()? };
    parts.next().is_none().then_some((key, generation))
}

impl Place {
    pub(crate) fn disk(&self) -> PathBuf {
        self.directory.join("disk")
    }

    /// Makes the directories, or finds them, and writes the secret down.
    pub(crate) fn furnish(&self, secret: &SecretString) -> io::Result<()> {
        private_directory(&self.directory)?;
        private_directory(&self.disk())?;
        let record = Record { secret: secret.expose_secret().to_owned() };
        let draft = self.directory.join("record.draft");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(&serde_json::to_vec(&record)?)?;
        file.sync_all()?;
        fs::rename(&draft, self.directory.join("record.json"))?;
        File::open(&self.directory)?.sync_all()
    }

    /// None if its making was cut off before it had one.
    pub(crate) fn secret(&self) -> Option<SecretString> {
        let bytes = fs::read(self.directory.join("record.json")).ok()?;
        let record: Record = serde_json::from_slice(&bytes).ok()?;
        Some(record.secret.into())
    }

    pub(crate) fn log(&self) -> io::Result<File> {
        let path = self.directory.join("log");
        let long = fs::metadata(&path).is_ok_and(|metadata| metadata.len() > LOG_LIMIT);
        if long {
            fs::remove_file(&path)?;
        }
        OpenOptions::new().append(true).create(true).mode(0o600).open(path)
    }

    pub(crate) fn log_tail(&self, most: u64) -> io::Result<String> {
        let mut file = match File::open(self.directory.join("log")) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
            Err(error) => return Err(error),
        };
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(most)))?;
        let mut bytes = Vec::new();
        file.take(most).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Removes everything; fine if nothing is there.
    pub(crate) fn clear(&self) -> io::Result<()> {
        let gone = |outcome: io::Result<()>| match outcome {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        };
        gone(fs::remove_file(&self.socket))?;
        match gone(fs::remove_dir_all(&self.directory)) {
            // The learner may have closed directories to everybody.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                open_up(&self.directory)?;
                gone(fs::remove_dir_all(&self.directory))
            }
            other => other,
        }
    }
}

fn open_up(directory: &Path) -> io::Result<()> {
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        // Of the entry itself: symbolic links are not followed.
        if entry.file_type()?.is_dir() {
            open_up(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_found_again() {
        let state = tempfile::tempdir().unwrap();
        let places = Places::open(state.path()).unwrap();
        let key = SeatKey { workshop: "w_a-b".parse().unwrap(), seat: "12".parse().unwrap() };
        let place = places.of(&key, Generation(3));
        place.furnish(&"s".to_owned().into()).unwrap();
        fs::create_dir(state.path().join("seats/none of ours")).unwrap();
        let all = places.all().unwrap();
        assert_eq!(all.len(), 1);
        assert_eq!((&all[0].key, all[0].generation, &all[0].socket), (&key, Generation(3), &place.socket));
        assert_eq!(all[0].secret().unwrap().expose_secret(), "s");
        place.clear().unwrap();
        place.clear().unwrap();
        assert!(places.all().unwrap().is_empty());
    }

    #[test]
    fn a_deep_state_directory_has_its_sockets_elsewhere() {
        let state = tempfile::tempdir().unwrap();
        let deep = state.path().join("d".repeat(100));
        let places = Places::open(&deep).unwrap();
        let key = SeatKey { workshop: "w".parse().unwrap(), seat: "1".parse().unwrap() };
        assert!(places.of(&key, Generation(1)).socket.as_os_str().len() <= LONGEST_SOCKET);
        fs::remove_dir(&places.sockets).unwrap();
    }
}
