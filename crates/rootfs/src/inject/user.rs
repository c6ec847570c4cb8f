//! The learner: uid 1000 with `/workspace`.

use clarateach_ext4::{Error as Ext4Error, Kind, Metadata};

use super::{Injection, Place};

const ID: u32 = 1000;
const NAME: &str = "learner";
/// No password can match it; it is not locked, so that `su` and cron work.
const NO_PASSWORD: &str = "*";

impl Injection<'_> {
    pub(super) fn learner(&mut self) -> Result<(), Ext4Error> {
        let passwd = self.database(b"etc/passwd");
        match passwd.as_deref().map(|passwd| find(passwd, ID)) {
            Some(Some(name)) => {
                self.say(format!("user {name}: has uid {ID} in the image and is the learner"))
            }
            Some(None) => self.add_learner(passwd.as_deref())?,
            None if matches!(self.resolve(b"etc/passwd", false)?, Place::Free(..) | Place::Nowhere) => {
                self.add_learner(None)?;
            }
            // A symbolic link or something larger than any user database.
            None => self.say("/etc/passwd: left alone, since it is no ordinary file: no learner was added"),
        }
        let owned = Metadata { uid: ID, gid: ID, ..self.metadata(0o755) };
        match self.directory(b"workspace", &owned)? {
            Some((_, true)) => self.say("/workspace: added"),
            Some((_, false)) => self.say("/workspace: the image's own is kept"),
            None => {
                self.say("/workspace: left alone, since the image has something there that is no directory")
            }
        }
        Ok(())
    }

    fn add_learner(&mut self, passwd: Option<&[u8]>) -> Result<(), Ext4Error> {
        let bash = self.resolve(b"bin/bash", true)?;
        let has_bash = matches!(bash, Place::There(node) if self.writer.kind(node) == Kind::File);
        let shell = if has_bash { "/bin/bash" } else { "/bin/sh" };
        let name = self.free_name(passwd.unwrap_or_default());
        self.append(
            "passwd",
            0o644,
            "root:x:0:0:root:/root:/bin/sh\n",
            &format!("{name}:x:{ID}:{ID}:{name}:/workspace:{shell}\n"),
        )?;
        let group = self.database(b"etc/group");
        if group.as_deref().is_none_or(|group| find(group, ID).is_none()) {
            let group_name = self.free_name(group.as_deref().unwrap_or_default());
            self.append("group", 0o644, "root:x:0:\n", &format!("{group_name}:x:{ID}:\n"))?;
        }
        self.append(
            "shadow",
            0o640,
            &format!("root:{NO_PASSWORD}:0:0:99999:7:::\n"),
            &format!("{name}:{NO_PASSWORD}:0:0:99999:7:::\n"),
        )?;
        self.say(format!("user {name}: added with uid {ID}, home /workspace and shell {shell}"));
        Ok(())
    }

    /// The content of a kept file.
    fn database(&self, path: &[u8]) -> Option<Vec<u8>> {
        self.kept.get(path).map(|file| file.content.clone())
    }

    /// A name that is not taken in a database.
    fn free_name(&self, database: &[u8]) -> String {
        let taken = |name: &str| lines(database).any(|fields| fields.first() == Some(&name.as_bytes()));
        let numbered = (1..).map(|number| format!("{NAME}{number}"));
        std::iter::once(NAME.to_owned()).chain(numbered).find(|name| !taken(name)).unwrap_or_default()
    }

    /// Appends a line to a database, which starts with `first` if the image has none.
    fn append(&mut self, name: &str, mode: u16, first: &str, line: &str) -> Result<(), Ext4Error> {
        let path = format!("etc/{name}");
        if let Some(file) = self.kept.get(path.as_bytes()).cloned() {
            let mut content = file.content.clone();
            if content.last().is_some_and(|&byte| byte != b'\n') {
                content.push(b'\n');
            }
            content.extend_from_slice(line.as_bytes());
            self.replace(path.as_bytes(), file, &content)?;
            return Ok(());
        }
        let directory = self.metadata(0o755);
        let Some((etc, _)) = self.directory(b"etc", &directory)? else { return Ok(()) };
        if self.writer.lookup(etc, name.as_bytes()).is_none() {
            let metadata = self.metadata(mode);
            self.file(etc, name.as_bytes(), &metadata, format!("{first}{line}").as_bytes())?;
        }
        Ok(())
    }
}

/// The name with an id, which is the third field in passwd and group.
fn find(database: &[u8], id: u32) -> Option<String> {
    let wanted = id.to_string();
    lines(database)
        .find(|fields| fields.get(2) == Some(&wanted.as_bytes()))
        .and_then(|fields| fields.first().map(|name| String::from_utf8_lossy(name).into_owned()))
}

fn lines(database: &[u8]) -> impl Iterator<Item = Vec<&[u8]>> {
    database.split(|&byte| byte == b'\n').map(|line| line.split(|&byte| byte == b':').collect())
}

#[cfg(test)]
mod tests {
    #[test]
    fn ids_are_looked_for_in_the_third_field_only() {
        let passwd = b"root:x:0:0::/root:/bin/sh\nnode:x:1000:1000::/home/node:/bin/bash\n";
        assert_eq!(super::find(passwd, 1000).as_deref(), Some("node"));
        assert_eq!(super::find(b"a:1000:5:1000::/:/bin/sh", 1000), None);
    }
}
