//! Making the workspace directory the learner's.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, lchown},
    path::Path,
};

use crate::learner::Learner;

/// Entries that are given to the learner besides the directory itself.
const MOST: usize = 2000;

/// Makes the workspace directory if it is missing. If it is root's (a fresh volume, an image's WORKDIR), it and what
/// root has in it become the learner's, up to a bound: a large tree would be copied by an overlay file system.
pub(crate) fn give_to_learner(root: &Path, learner: &Learner) -> io::Result<()> {
    let metadata = match fs::create_dir_all(root).and_then(|()| fs::metadata(root)) {
        // It lies where root without its capabilities may not go: it is the learner's to make and to open.
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => return Ok(()),
        other => other?,
    };
    if !metadata.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    if !learner.drops || metadata.uid() != 0 {
        return Ok(());
    }
    lchown(root, Some(learner.uid), Some(learner.gid))?;
    let mut left = vec![root.to_owned()];
    let mut given = 0;
    while let Some(directory) = left.pop() {
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        for entry in entries.flatten() {
            let Ok(inner) = entry.metadata() else { continue };
            if inner.uid() != 0 || inner.dev() != metadata.dev() {
                continue;
            }
            if given == MOST {
                crate::say(&format!(
                    "{} holds more than {MOST} files of root; the rest stay root's",
                    root.display()
                ));
                return Ok(());
            }
            given += 1;
            lchown(entry.path(), Some(learner.uid), Some(learner.gid))?;
            if inner.is_dir() {
                left.push(entry.path());
            }
        }
    }
    Ok(())
}
