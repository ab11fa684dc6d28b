//! The reader: walks one bucket of a bbolt file in key order.
//!
//! Files come from disks and from users, so nothing in them is believed: page numbers, positions and
//! sizes are checked against the file before they are used, and no page is entered twice on the way
//! down. Memory is one page per level of the tree.

use std::sync::Arc;

use bytes::Bytes;
use env::File;
use thiserror::Error;

use crate::layout::{BUCKET_FLAG, BUCKET_VALUE, ELEMENT, MAGIC, PAGE_HEADER, PageKind, VERSION, fnv1a};

/// The page sizes bbolt may have used.
const PAGE_SIZES: std::ops::RangeInclusive<u64> = 1024..=16 << 20;
/// Bytes of a meta behind the page header, its checksum included.
const META: usize = 64;
/// Deeper than any tree that fits on a disk: every level has at least two children.
const DEPTH_MAX: usize = 64;

/// Why a file can't be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The disk failed.
    #[error("cannot read the database file: {0}")]
    Io(#[from] std::io::Error),
    /// No meta page is whole.
    #[error("not a bbolt database, or both of its meta pages are damaged")]
    NoMeta,
    /// A page contradicts the format.
    #[error("the database file is damaged: page {page}: {what}")]
    Damaged {
        /// The page.
        page: u64,
        /// What is wrong there.
        what: &'static str,
    },
    /// There is no such bucket.
    #[error("the database has no bucket {0:?}")]
    NoBucket(String),
}

/// An open bbolt file.
pub struct Reader {
    file: Arc<dyn File>,
    page_size: u64,
    root: u64,
    /// Pages from here on do not exist.
    high_water: u64,
}

/// A page with its overflow, checked to have room for its elements.
struct Page {
    id: u64,
    kind: PageKind,
    count: usize,
    bytes: Bytes,
}

/// One element of a leaf.
struct Element {
    is_bucket: bool,
    key: Bytes,
    value: Bytes,
}

impl Reader {
    /// Opens a file: the newer of its valid metas counts.
    pub fn open(file: Arc<dyn File>) -> Result<Self, ReadError> {
        let first = read(&*file, 0, PAGE_HEADER + META)?;
        let second_at = std::iter::successors(Some(*PAGE_SIZES.start()), |size| Some(size * 2))
            .take_while(|size| PAGE_SIZES.contains(size));
        let metas = std::iter::once(0).chain(second_at).filter_map(|offset| {
            let page = if offset == 0 {
                first.clone()
            } else {
                read(&*file, offset, PAGE_HEADER + META).ok()?
            };
            parse_meta(&page[PAGE_HEADER..]).filter(|meta| offset == 0 || offset == meta.page_size)
        });
        let newest = metas.max_by_key(|meta| meta.txid).ok_or(ReadError::NoMeta)?;
        Ok(Reader {
            file,
            page_size: newest.page_size,
            root: newest.root,
            high_water: newest.high_water,
        })
    }

    /// Names of all buckets, in byte order.
    pub fn buckets(&self) -> Result<Vec<Bytes>, ReadError> {
        let mut names = Vec::new();
        for element in self.walk(self.page(self.root)?) {
            let element = element?;
            if element.is_bucket {
                names.push(element.key);
            }
        }
        Ok(names)
    }

    /// Keys and values of a bucket, in key order.
    pub fn bucket(
        &self,
        name: &str,
    ) -> Result<impl Iterator<Item = Result<(Bytes, Bytes), ReadError>> + use<'_>, ReadError> {
        for element in self.walk(self.page(self.root)?) {
            let element = element?;
            if element.is_bucket && element.key == name.as_bytes() {
                let root = self.bucket_root(&element.value)?;
                return Ok(self
                    .walk(root)
                    .map(|element| element.map(|element| (element.key, element.value))));
            }
        }
        Err(ReadError::NoBucket(name.to_owned()))
    }

    /// The root page of a bucket: a page of the file, or inline behind the bucket's head.
    fn bucket_root(&self, value: &Bytes) -> Result<Page, ReadError> {
        let damaged = |what| ReadError::Damaged {
            page: self.root,
            what,
        };
        let root = value
            .first_chunk::<8>()
            .ok_or(damaged("a bucket without a root"))?;
        match u64::from_le_bytes(*root) {
            0 if value.len() >= BUCKET_VALUE + PAGE_HEADER => Page::parse(value.slice(BUCKET_VALUE..)),
            0 => Err(damaged("an inline bucket without its page")),
            root => self.page(root),
        }
    }

    fn page(&self, id: u64) -> Result<Page, ReadError> {
        let damaged = |what| ReadError::Damaged { page: id, what };
        if id >= self.high_water {
            return Err(damaged("behind the end of the file"));
        }
        let offset = id
            .checked_mul(self.page_size)
            .ok_or(damaged("behind the end of the file"))?;
        let header = read(&*self.file, offset, PAGE_HEADER)?;
        if u64_at(&header, 0) != id {
            return Err(damaged("carries another page's number"));
        }
        let pages = u64::from(u32_at(&header, 12)) + 1;
        if pages > self.high_water - id {
            return Err(damaged("runs over the end of the file"));
        }
        let size = usize::try_from(pages * self.page_size).map_err(|_| damaged("too large"))?;
        Page::parse(read(&*self.file, offset, size)?)
    }

    fn walk(&self, root: Page) -> Walk<'_> {
        Walk {
            reader: self,
            path: vec![(root, 0)],
        }
    }
}

impl Page {
    fn parse(bytes: Bytes) -> Result<Self, ReadError> {
        let id = u64_at(&bytes, 0);
        let damaged = |what| ReadError::Damaged { page: id, what };
        let kind = match u16::from_le_bytes([bytes[8], bytes[9]]) {
            1 => PageKind::Branch,
            2 => PageKind::Leaf,
            _ => return Err(damaged("neither a branch nor a leaf")),
        };
        let count = usize::from(u16::from_le_bytes([bytes[10], bytes[11]]));
        if PAGE_HEADER + count * ELEMENT > bytes.len() {
            return Err(damaged("holds fewer elements than it says"));
        }
        Ok(Page {
            id,
            kind,
            count,
            bytes,
        })
    }

    fn child(&self, number: usize) -> u64 {
        u64_at(&self.bytes, PAGE_HEADER + number * ELEMENT + 8)
    }

    fn element(&self, number: usize) -> Result<Element, ReadError> {
        let at = PAGE_HEADER + number * ELEMENT;
        let [flags, position, key_len, value_len] =
            [0, 4, 8, 12].map(|field| u32_at(&self.bytes, at + field) as usize);
        let key = at + position;
        let (value, end) = (key + key_len, key + key_len + value_len);
        if end > self.bytes.len() {
            return Err(ReadError::Damaged {
                page: self.id,
                what: "an element runs over its end",
            });
        }
        Ok(Element {
            is_bucket: flags & BUCKET_FLAG as usize != 0,
            key: self.bytes.slice(key..value),
            value: self.bytes.slice(value..end),
        })
    }
}

/// Position in a tree: the pages from the root down, with the next element of each.
struct Walk<'a> {
    reader: &'a Reader,
    path: Vec<(Page, usize)>,
}

impl Iterator for Walk<'_> {
    type Item = Result<Element, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (page, next) = self.path.last_mut()?;
            if *next == page.count {
                self.path.pop();
                continue;
            }
            let number = *next;
            *next += 1;
            match page.kind {
                PageKind::Leaf => return Some(page.element(number)),
                _ => {
                    let child = page.child(number);
                    let descended = self.descend(child);
                    if let Err(error) = descended {
                        self.path.clear();
                        return Some(Err(error));
                    }
                }
            }
        }
    }
}

impl Walk<'_> {
    fn descend(&mut self, child: u64) -> Result<(), ReadError> {
        let damaged = |what| Err(ReadError::Damaged { page: child, what });
        if self.path.len() >= DEPTH_MAX {
            return damaged("the tree is deeper than any tree can be");
        }
        if self.path.iter().any(|(page, _)| page.id == child) {
            return damaged("is its own ancestor");
        }
        self.path.push((self.reader.page(child)?, 0));
        Ok(())
    }
}

struct Meta {
    page_size: u64,
    root: u64,
    high_water: u64,
    txid: u64,
}

fn parse_meta(bytes: &[u8]) -> Option<Meta> {
    let page_size = u64::from(u32_at(bytes, 8));
    let valid = u32_at(bytes, 0) == MAGIC
        && u32_at(bytes, 4) == VERSION
        && PAGE_SIZES.contains(&page_size)
        && page_size.is_power_of_two()
        && u64_at(bytes, META - 8) == fnv1a(&bytes[..META - 8]);
    valid.then(|| Meta {
        page_size,
        root: u64_at(bytes, 16),
        high_water: u64_at(bytes, 40),
        txid: u64_at(bytes, 48),
    })
}

/// Reads exactly `len` bytes, which the file is checked to have before memory is taken for them.
fn read(file: &dyn File, offset: u64, len: usize) -> Result<Bytes, ReadError> {
    if offset.saturating_add(len as u64) > file.len()? {
        return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
    }
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes.into())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
