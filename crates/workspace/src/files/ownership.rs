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
    // An image's WORKDIR may be a link: what it leads to is where the learner's disk is.
    let root = &fs::canonicalize(root)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_hands_over_what_it_leads_to() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let place = tempfile::tempdir().unwrap();
        let (real, link) = (place.path().join("real"), place.path().join("link"));
        fs::create_dir_all(real.join("src")).unwrap();
        fs::write(real.join("src/main.py"), "").unwrap();
        std::os::unix::fs::symlink("real", &link).unwrap();
        let learner =
            Learner { drops: true, uid: 4321, gid: 4321, groups: vec![4321], shell: None, env: Vec::new() };
        give_to_learner(&link, &learner).unwrap();
        for path in [real.clone(), real.join("src"), real.join("src/main.py")] {
            assert_eq!(fs::metadata(&path).unwrap().uid(), 4321, "{}", path.display());
        }
    }
}
