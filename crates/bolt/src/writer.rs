//! The bulk writer: sizes first, then bytes, front to back.
//!
//! ```
//! let mut plan = bolt::Plan::new();
//! plan.bucket("alarm", std::iter::empty());
//! plan.bucket("key", [(1, 3), (1, 5)]);
//! let mut file = Vec::new();
//! let mut writer = bolt::Writer::new(plan);
//! writer.begin(&mut file);
//! writer.bucket("alarm", &mut file);
//! writer.bucket("key", &mut file);
//! writer.put(b"a", b"one", &mut file);
//! writer.put(b"b", b"three", &mut file);
//! writer.finish(&mut file);
//! ```
//!
//! Buckets come in byte order of their names, keys in byte order inside each. What was planned must be
//! written, element by element; `finish` checks that the pages came out as planned.

use crate::layout::{
    BUCKET_FLAG, BUCKET_VALUE, ELEMENT, PAGE_HEADER, PAGE_SIZE, PageKind, meta_page, page_header,
};

const META_PAGES: u64 = 2;
const FREELIST: u64 = META_PAGES;
const FIRST_DATA_PAGE: u64 = FREELIST + 1;

/// Which page every bucket will start at, and how long the file will be.
#[derive(Default)]
pub struct Plan {
    /// Root page of each bucket, in order.
    roots: Vec<(String, u64)>,
    data_pages: u64,
}

impl Plan {
    /// An empty file.
    pub fn new() -> Self {
        Plan::default()
    }

    /// Adds a bucket, given the key and value size of each of its elements, in key order.
    pub fn bucket(&mut self, name: &str, sizes: impl IntoIterator<Item = (usize, usize)>) {
        debug_assert!(self.roots.last().is_none_or(|(last, _)| last.as_str() < name));
        let (mut level, mut root) = self.level(Fill::leaf(), sizes);
        while level.len() > 1 {
            let keys = level.into_iter().map(|key| (key as usize, 0));
            (level, root) = self.level(Fill::branch(), keys);
        }
        self.roots.push((name.to_owned(), root));
    }

    /// Plans the pages of one level, at least one. Returns the sizes of their first keys, and where the
    /// last of them starts: it may be followed by pages of overflow.
    fn level(&mut self, mut fill: Fill, sizes: impl IntoIterator<Item = (usize, usize)>) -> (Vec<u32>, u64) {
        let mut first_keys = Vec::new();
        for (key, value) in sizes {
            self.data_pages += fill.add(key, value).unwrap_or(0);
            if fill.count == 1 {
                first_keys.push(u32::try_from(key).expect("keys are far shorter than 4 GiB"));
            }
        }
        let last = FIRST_DATA_PAGE + self.data_pages;
        self.data_pages += fill.close();
        (first_keys, last)
    }

    fn root_leaf(&self) -> u64 {
        FIRST_DATA_PAGE + self.data_pages
    }

    fn high_water(&self) -> u64 {
        let elements: usize = self
            .roots
            .iter()
            .map(|(name, _)| ELEMENT + name.len() + BUCKET_VALUE)
            .sum();
        self.root_leaf() + (PAGE_HEADER + elements).div_ceil(PAGE_SIZE) as u64
    }

    /// Length of the whole file in bytes.
    pub fn file_len(&self) -> u64 {
        self.high_water() * PAGE_SIZE as u64
    }
}

/// How full the page being made is. Used by the plan and by the writer, so both cut alike.
struct Fill {
    /// A page takes this many elements before it may be full.
    least: usize,
    count: usize,
    bytes: usize,
}

impl Fill {
    fn leaf() -> Self {
        Fill::with_at_least(1)
    }

    /// Two children or more: a level of one child each would never come to a root.
    fn branch() -> Self {
        Fill::with_at_least(2)
    }

    fn with_at_least(least: usize) -> Self {
        Fill {
            least,
            count: 0,
            bytes: 0,
        }
    }

    /// Adds an element. If it did not fit, the page before it is done and its page count returned.
    fn add(&mut self, key: usize, value: usize) -> Option<u64> {
        let size = ELEMENT + key + value;
        let full = self.count >= self.least && PAGE_HEADER + self.bytes + size > PAGE_SIZE;
        let done = full.then(|| self.close());
        self.count += 1;
        self.bytes += size;
        done
    }

    /// Ends the page: how many pages it takes, overflow included.
    fn close(&mut self) -> u64 {
        let pages = (PAGE_HEADER + self.bytes).div_ceil(PAGE_SIZE) as u64;
        *self = Fill::with_at_least(self.least);
        pages
    }
}

/// Emits the planned file. Whole pages are appended to the `out` of each call; take them from there as
/// often as you like.
pub struct Writer {
    plan: Plan,
    next_page: u64,
    bucket: Option<usize>,
    /// The leaf being filled.
    fill: Fill,
    page: PageInMaking,
    /// First key and page of every leaf of the bucket being written.
    leaves: Vec<(Vec<u8>, u64)>,
}

#[derive(Default)]
struct PageInMaking {
    /// Flags, key size and value size (leaf) or child page (branch) of each element.
    elements: Vec<(u32, u32, u64)>,
    data: Vec<u8>,
}

impl Writer {
    /// A writer for this plan.
    pub fn new(plan: Plan) -> Self {
        Writer {
            plan,
            next_page: FIRST_DATA_PAGE,
            bucket: None,
            fill: Fill::leaf(),
            page: PageInMaking::default(),
            leaves: Vec::new(),
        }
    }

    /// Length of the whole file in bytes.
    pub fn file_len(&self) -> u64 {
        self.plan.file_len()
    }

    /// Emits metas and freelist.
    pub fn begin(&mut self, out: &mut Vec<u8>) {
        let (root, high_water) = (self.plan.root_leaf(), self.plan.high_water());
        for id in 0..META_PAGES {
            out.extend_from_slice(&meta_page(id, root, FREELIST, high_water));
        }
        page_header(out, FREELIST, PageKind::Freelist, 0, 0);
        out.resize(out.len() + PAGE_SIZE - PAGE_HEADER, 0);
    }

    /// Starts the next planned bucket.
    pub fn bucket(&mut self, name: &str, out: &mut Vec<u8>) {
        self.end_bucket(out);
        let number = self.bucket.map_or(0, |last| last + 1);
        assert_eq!(
            self.plan.roots.get(number).map(|(name, _)| name.as_str()),
            Some(name),
            "bucket order"
        );
        self.bucket = Some(number);
    }

    /// Adds an element to the current bucket.
    pub fn put(&mut self, key: &[u8], value: &[u8], out: &mut Vec<u8>) {
        if self.fill.add(key.len(), value.len()).is_some() {
            self.flush(PageKind::Leaf, out);
        }
        if self.page.elements.is_empty() {
            self.leaves.push((key.to_vec(), self.next_page));
        }
        self.page.elements.push((0, key.len() as u32, value.len() as u64));
        self.page.data.extend_from_slice(key);
        self.page.data.extend_from_slice(value);
    }

    /// Emits what is left: the last bucket's pages and the root bucket.
    ///
    /// # Panics
    /// If the elements written were not those planned: the metas that left first would be wrong.
    pub fn finish(mut self, out: &mut Vec<u8>) {
        self.end_bucket(out);
        assert_eq!(
            self.next_page,
            self.plan.root_leaf(),
            "the pages came out as planned"
        );
        for (name, root) in std::mem::take(&mut self.plan.roots) {
            self.page
                .elements
                .push((BUCKET_FLAG, name.len() as u32, BUCKET_VALUE as u64));
            self.page.data.extend_from_slice(name.as_bytes());
            self.page.data.extend_from_slice(&root.to_le_bytes());
            self.page.data.extend_from_slice(&0u64.to_le_bytes());
        }
        self.flush(PageKind::Leaf, out);
    }

    /// Emits the last leaf of the bucket and the branches above its leaves, level by level.
    fn end_bucket(&mut self, out: &mut Vec<u8>) {
        let Some(number) = self.bucket else { return };
        self.fill.close();
        if self.leaves.is_empty() {
            self.leaves.push((Vec::new(), self.next_page));
        }
        self.flush(PageKind::Leaf, out);
        let mut level = std::mem::take(&mut self.leaves);
        while level.len() > 1 {
            level = self.branch_level(level, out);
        }
        assert_eq!(
            level[0].1, self.plan.roots[number].1,
            "the bucket's root came out as planned"
        );
    }

    fn branch_level(&mut self, children: Vec<(Vec<u8>, u64)>, out: &mut Vec<u8>) -> Vec<(Vec<u8>, u64)> {
        let mut above = Vec::new();
        let mut fill = Fill::branch();
        for (key, child) in children {
            if fill.add(key.len(), 0).is_some() {
                self.flush(PageKind::Branch, out);
            }
            self.page.elements.push((0, key.len() as u32, child));
            self.page.data.extend_from_slice(&key);
            if self.page.elements.len() == 1 {
                above.push((key, self.next_page));
            }
        }
        self.flush(PageKind::Branch, out);
        above
    }

    /// Emits the page in the making, overflow included.
    fn flush(&mut self, kind: PageKind, out: &mut Vec<u8>) {
        let PageInMaking { elements, data } = std::mem::take(&mut self.page);
        let size = PAGE_HEADER + elements.len() * ELEMENT + data.len();
        let pages = size.div_ceil(PAGE_SIZE) as u64;
        let start = out.len();
        page_header(
            out,
            self.next_page,
            kind,
            elements.len() as u16,
            (pages - 1) as u32,
        );
        let mut position = elements.len() * ELEMENT;
        for (flags, key_len, rest) in &elements {
            match kind {
                PageKind::Branch => {
                    out.extend_from_slice(&(position as u32).to_le_bytes());
                    out.extend_from_slice(&key_len.to_le_bytes());
                    out.extend_from_slice(&rest.to_le_bytes());
                    position += *key_len as usize;
                }
                _ => {
                    out.extend_from_slice(&flags.to_le_bytes());
                    out.extend_from_slice(&(position as u32).to_le_bytes());
                    out.extend_from_slice(&key_len.to_le_bytes());
                    out.extend_from_slice(&(*rest as u32).to_le_bytes());
                    position += *key_len as usize + *rest as usize;
                }
            }
            position -= ELEMENT;
        }
        out.extend_from_slice(&data);
        out.resize(start + pages as usize * PAGE_SIZE, 0);
        self.next_page += pages;
    }
}
