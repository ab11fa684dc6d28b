//! The byte layout of pages, shared by reader and writer.

/// Page size of the files written here: what bbolt takes on every common machine.
pub const PAGE_SIZE: usize = 4096;

pub(crate) const PAGE_HEADER: usize = 16;
/// Leaf and branch elements are of the same size.
pub(crate) const ELEMENT: usize = 16;
/// A bucket's value in its parent: root page and sequence.
pub(crate) const BUCKET_VALUE: usize = 16;

pub(crate) const MAGIC: u32 = 0xED0C_DAED;
pub(crate) const VERSION: u32 = 2;

/// What a page holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub(crate) enum PageKind {
    Branch = 0x01,
    Leaf = 0x02,
    Meta = 0x04,
    Freelist = 0x10,
}

/// Leaf element flag: the value is a bucket.
pub(crate) const BUCKET_FLAG: u32 = 1;

pub(crate) fn page_header(out: &mut Vec<u8>, id: u64, kind: PageKind, count: u16, overflow: u32) {
    out.extend_from_slice(&id.to_le_bytes());
    out.extend_from_slice(&(kind as u16).to_le_bytes());
    out.extend_from_slice(&count.to_le_bytes());
    out.extend_from_slice(&overflow.to_le_bytes());
}

/// The page of a meta, both of which are written with the same content but for the transaction id.
pub(crate) fn meta_page(id: u64, root: u64, freelist: u64, high_water: u64) -> Vec<u8> {
    let mut page = Vec::with_capacity(PAGE_SIZE);
    page_header(&mut page, id, PageKind::Meta, 0, 0);
    page.extend_from_slice(&MAGIC.to_le_bytes());
    page.extend_from_slice(&VERSION.to_le_bytes());
    page.extend_from_slice(&(PAGE_SIZE as u32).to_le_bytes());
    page.extend_from_slice(&0u32.to_le_bytes());
    for number in [root, 0, freelist, high_water, id] {
        page.extend_from_slice(&number.to_le_bytes());
    }
    let checksum = fnv1a(&page[PAGE_HEADER..]);
    page.extend_from_slice(&checksum.to_le_bytes());
    page.resize(PAGE_SIZE, 0);
    page
}

/// FNV-1a, 64 bits.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn fnv1a_gives_the_published_values() {
        assert_eq!(super::fnv1a(b""), 0xcbf29ce484222325);
        assert_eq!(super::fnv1a(b"foobar"), 0x85944171f73967e8);
    }
}
