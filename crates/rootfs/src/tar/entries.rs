//! Walking through an archive.

use std::io::{self, Read};

use clarateach_ext4::{FileMap, Metadata, Special, Timestamp};

use super::header::{BLOCK, Header};
use super::pax::Pax;
use super::{Entry, EntryKind, ReadAt, TarError, sparse};

/// Bytes that are read ahead.
const WINDOW: usize = 256 * 1024;
/// Reads of at least this much go past the window.
const DIRECT: usize = 64 * 1024;
/// The longest extended header or long name that is believed.
const LONGEST_HEADER: u64 = 1 << 20;

/// The entries of an archive, one after the other.
#[derive(Debug)]
pub struct Entries<R> {
    source: R,
    window: Box<[u8]>,
    /// Bytes in the window, and where in the archive they are.
    filled: usize,
    start: u64,
    /// Where the next header is.
    next: u64,
    /// Where the unread content of the current entry is, and how much of it is left.
    content: u64,
    content_left: u64,
    global: Pax,
}

impl<R: ReadAt> Entries<R> {
    /// Starts at the beginning of an archive.
    pub fn new(source: R) -> Self {
        Self {
            source,
            window: vec![0; WINDOW].into(),
            filled: 0,
            start: 0,
            next: 0,
            content: 0,
            content_left: 0,
            global: Pax::default(),
        }
    }

    /// Where reading has got to in the archive.
    pub fn position(&self) -> u64 {
        self.next
    }

    /// Where the content of the current entry begins in the archive.
    pub fn content_position(&self) -> u64 {
        self.content
    }

    /// The next entry; its content can be read from `self` until the following call.
    ///
    /// # Errors
    /// [`TarError`]; the archive can't be read on after one.
    #[expect(clippy::should_implement_trait, reason = "an entry's content is read from the iterator itself")]
    pub fn next(&mut self) -> Result<Option<Entry>, TarError> {
        let mut pax = self.global.clone();
        let (mut long_name, mut long_link) = (None, None);
        let mut inside = false;
        loop {
            let position = self.next;
            let Some(block) = self.header_block(position, inside)? else { return Ok(None) };
            let malformed = |reason: String| TarError::Malformed { position, reason };
            let header = Header::new(&block).ok_or_else(|| malformed("not a tar header".to_owned()))?;
            let size = header.size().ok_or_else(|| malformed("an unreadable size".to_owned()))?;
            let data = position + BLOCK as u64;
            match header.type_flag() {
                b'x' | b'g' | b'L' | b'K' => {
                    let body = self.header_body(data, size)?;
                    match header.type_flag() {
                        b'x' => pax.parse(&body).map_err(malformed)?,
                        b'g' => {
                            self.global.parse(&body).map_err(malformed)?;
                            pax.parse(&body).map_err(malformed)?;
                        }
                        b'L' => long_name = Some(until_nul(body)),
                        _ => long_link = Some(until_nul(body)),
                    }
                    self.next = data + size.next_multiple_of(BLOCK as u64);
                    inside = header.type_flag() != b'g';
                }
                _ => return self.entry(position, header, pax, long_name, long_link).map(Some),
            }
        }
    }

    fn entry(
        &mut self,
        position: u64,
        header: Header<'_>,
        pax: Pax,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Entry, TarError> {
        let malformed = |reason: &str| TarError::Malformed { position, reason: reason.to_owned() };
        let sparse_name = pax.sparse.name.clone();
        let path = sparse_name.or_else(|| pax.path.clone()).or(long_name).unwrap_or_else(|| header.path());
        let link = || pax.link_path.clone().or(long_link).unwrap_or_else(|| header.link_target());
        let size = pax.size.or_else(|| header.size()).ok_or_else(|| malformed("an unreadable size"))?;
        let mut data = position + BLOCK as u64;
        let mut stored = 0;
        let kind = match header.type_flag() {
            0 if path.ends_with(b"/") => EntryKind::Directory,
            0 | b'0' | b'7' | b'S' => {
                stored = size;
                let map = self.file_map(header, &pax, position, size, &mut data)?;
                if header.type_flag() == b'S' {
                    // The blocks in which an old GNU map goes on are not counted in the size; a PAX map is.
                    stored = stored.saturating_add(data - position - BLOCK as u64);
                }
                EntryKind::File(map)
            }
            b'1' => EntryKind::HardLink(link()),
            b'2' => EntryKind::Symlink(link()),
            b'3' | b'4' => {
                let (major, minor) =
                    header.device().ok_or_else(|| malformed("an unreadable device number"))?;
                let part = |value: i64, pax: Option<u64>| u32::try_from(pax.unwrap_or(value as u64)).ok();
                let (Some(major), Some(minor)) = (part(major, pax.device.0), part(minor, pax.device.1))
                else {
                    return Err(malformed("a device number that is too large"));
                };
                let char_device = header.type_flag() == b'3';
                let make = if char_device { Special::CharDevice } else { Special::BlockDevice };
                EntryKind::Special(make(major, minor))
            }
            b'5' => EntryKind::Directory,
            b'6' => EntryKind::Special(Special::Fifo),
            other => {
                return Err(malformed(&format!(
                    "an entry of type {:?}, which layers don't have",
                    other as char
                )));
            }
        };
        let end = (position + BLOCK as u64).checked_add(stored).filter(|&end| end < u64::MAX / 2);
        let end = end.ok_or_else(|| malformed("a size beyond any archive"))?;
        self.content = data;
        self.content_left = if let EntryKind::File(map) = &kind { map.data_len() } else { 0 };
        if self.content_left > end.saturating_sub(data) {
            return Err(malformed("a sparse map with more data than the entry has"));
        }
        self.next = end.next_multiple_of(BLOCK as u64);
        let metadata = metadata(header, pax)
            .ok_or_else(|| malformed("a mode, owner or time that is unreadable or too large"))?;
        Ok(Entry { path, kind, metadata, position })
    }

    /// Where the data of a file is; moves `data` behind a map that precedes it.
    fn file_map(
        &mut self,
        header: Header<'_>,
        pax: &Pax,
        position: u64,
        size: u64,
        data: &mut u64,
    ) -> Result<FileMap, TarError> {
        let malformed = |reason: String| TarError::Malformed { position, reason };
        let (mut map, real_size) = if header.type_flag() == b'S' {
            let (pairs, mut more, real_size) = header.gnu_sparse();
            let mut map = Vec::new();
            sparse::old_pairs(pairs, &mut map).map_err(malformed)?;
            while more {
                if map.len() >= sparse::MOST_RUNS {
                    return Err(malformed("a sparse map with too many runs".to_owned()));
                }
                let block = self.block(*data, "a sparse map")?;
                sparse::old_pairs(&block[..504], &mut map).map_err(malformed)?;
                more = block[504] != 0;
                *data += BLOCK as u64;
            }
            (map, real_size)
        } else if pax.sparse.major == Some(1) {
            let start = *data;
            let map = sparse::from_data(|| {
                if *data - start >= size {
                    return Err(SparseError::Malformed("a sparse map longer than its entry".to_owned()));
                }
                let block = self.block(*data, "a sparse map").map_err(SparseError::Tar)?;
                *data += BLOCK as u64;
                Ok(block)
            });
            let map = map.map_err(|error| match error {
                SparseError::Malformed(reason) => malformed(reason),
                SparseError::Tar(error) => error,
            })?;
            (map, pax.sparse.real_size)
        } else if let Some(map) = sparse::from_header(&pax.sparse).map_err(malformed)? {
            (map, pax.sparse.real_size)
        } else {
            return Ok(FileMap::dense(size));
        };
        let real_size = real_size.ok_or_else(|| malformed("a sparse file without its size".to_owned()))?;
        // GNU tar ends a map with an empty run at the end of the file.
        map.retain(|&(_, len)| len > 0);
        let mut end = 0;
        for &(offset, len) in &map {
            let stop = offset.checked_add(len).filter(|&stop| offset >= end && stop <= real_size);
            end =
                stop.ok_or_else(|| malformed("a sparse map that is out of order or too long".to_owned()))?;
        }
        Ok(FileMap::sparse(real_size, map))
    }

    /// The header at a position, `None` at the end of the archive.
    fn header_block(&mut self, position: u64, inside: bool) -> Result<Option<[u8; BLOCK]>, TarError> {
        let what = "a header";
        let available = self.fill(position, BLOCK)?;
        match available.len() {
            // Some writers leave out the blocks of zeros at the end.
            0 if !inside => return Ok(None),
            len if len < BLOCK => return Err(TarError::Truncated { position, what }),
            _ => {}
        }
        let mut block = [0; BLOCK];
        block.copy_from_slice(&available[..BLOCK]);
        if block == [0; BLOCK] {
            if inside {
                return Err(TarError::Malformed {
                    position,
                    reason: "an extended header with nothing after it".into(),
                });
            }
            return Ok(None);
        }
        Ok(Some(block))
    }

    fn header_body(&mut self, position: u64, size: u64) -> Result<Vec<u8>, TarError> {
        if size > LONGEST_HEADER {
            let reason = format!("an extended header of {size} bytes");
            return Err(TarError::Malformed { position, reason });
        }
        let mut body = Vec::new();
        while (body.len() as u64) < size {
            let want = (size as usize - body.len()).min(WINDOW);
            let part = self.fill(position + body.len() as u64, want)?;
            if part.is_empty() {
                return Err(TarError::Truncated { position, what: "an extended header" });
            }
            let len = part.len().min(want);
            body.extend_from_slice(&part[..len]);
        }
        Ok(body)
    }

    fn block(&mut self, position: u64, what: &'static str) -> Result<[u8; BLOCK], TarError> {
        let part = self.fill(position, BLOCK)?;
        part.get(..BLOCK).and_then(|part| part.try_into().ok()).ok_or(TarError::Truncated { position, what })
    }

    /// What the window has from `position` on, at least `want` bytes unless the archive ends before.
    fn fill(&mut self, position: u64, want: usize) -> Result<&[u8], TarError> {
        let within = position.checked_sub(self.start).and_then(|at| usize::try_from(at).ok());
        let keep = within.filter(|&at| at <= self.filled).map_or(0, |at| self.filled - at);
        if keep < want {
            if keep > 0 {
                self.window.copy_within(self.filled - keep..self.filled, 0);
            }
            (self.start, self.filled) = (position, keep);
            while self.filled < want {
                let at = position + self.filled as u64;
                let read = self.source.read_at(&mut self.window[self.filled..], at);
                match read.map_err(|source| TarError::Read { position: at, source })? {
                    0 => break,
                    len => self.filled += len,
                }
            }
        }
        let at = (position - self.start) as usize;
        Ok(&self.window[at..self.filled])
    }
}

impl<R: ReadAt> Read for Entries<R> {
    /// Reads from the content of the current entry: for a sparse file, the data of its runs one after the other.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(self.content_left).unwrap_or(usize::MAX).min(buffer.len());
        if want == 0 {
            return Ok(0);
        }
        let window_end = self.start + self.filled as u64;
        let len = if self.content >= window_end && want >= DIRECT {
            self.source.read_at(&mut buffer[..want], self.content)?
        } else {
            let position = self.content;
            let part = self.fill(position, 1).map_err(|error| match error {
                TarError::Read { source, .. } => source,
                other => io::Error::new(io::ErrorKind::InvalidData, other),
            })?;
            let len = part.len().min(want);
            buffer[..len].copy_from_slice(&part[..len]);
            len
        };
        if len == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive ends within a file"));
        }
        self.content += len as u64;
        self.content_left -= len as u64;
        Ok(len)
    }
}

enum SparseError {
    Malformed(String),
    Tar(TarError),
}

impl From<String> for SparseError {
    fn from(reason: String) -> Self {
        Self::Malformed(reason)
    }
}

fn metadata(header: Header<'_>, pax: Pax) -> Option<Metadata> {
    let id = |pax: Option<u64>, header: Option<i64>| match pax {
        Some(id) => u32::try_from(id).ok(),
        None => u32::try_from(header?).ok(),
    };
    Some(Metadata {
        mode: (header.mode()? & 0o7777) as u16,
        uid: id(pax.uid, header.uid())?,
        gid: id(pax.gid, header.gid())?,
        mtime: match pax.mtime {
            Some(time) => time,
            None => Timestamp::from_seconds(header.mtime()?),
        },
        xattrs: pax.xattrs,
    })
}

fn until_nul(mut text: Vec<u8>) -> Vec<u8> {
    let end = text.iter().position(|&byte| byte == 0).unwrap_or(text.len());
    text.truncate(end);
    text
}
