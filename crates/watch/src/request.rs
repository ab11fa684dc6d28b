//! What a client asks for, with the wire's conventions resolved.

use bytes::Bytes;
use proto::etcdserverpb::WatchCreateRequest;
use proto::etcdserverpb::watch_create_request::FilterType;
use types::KeyRange;

use crate::event::Kind;

/// A watcher to be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Create {
    /// The keys to watch. The caller asks for permission on just this range.
    pub range: KeyRange,
    /// The first revision to deliver; 0 for "from now on". A negative one is refused, and that even
    /// before permission is asked.
    pub start_revision: i64,
    /// The id to use on the stream; 0 for "pick one".
    pub watch_id: i64,
    /// Leave out puts.
    pub no_put: bool,
    /// Leave out deletions.
    pub no_delete: bool,
    /// Add the value that each change replaced.
    pub prev_kv: bool,
    /// Send an empty response now and then when nothing happens.
    pub progress_notify: bool,
    /// Split responses that are very large.
    pub fragment: bool,
}

impl Create {
    /// Everything from now on in `range`, no extras.
    pub fn new(range: KeyRange) -> Self {
        Create {
            range,
            start_revision: 0,
            watch_id: 0,
            no_put: false,
            no_delete: false,
            prev_kv: false,
            progress_notify: false,
            fragment: false,
        }
    }

    pub(crate) fn wants(&self, kind: Kind) -> bool {
        match kind {
            Kind::Delete => !self.no_delete,
            Kind::Create | Kind::Update => !self.no_put,
        }
    }
}

/// Parses the wire form. An empty key stands for the smallest key, a single zero byte; unknown
/// filters are ignored.
impl From<WatchCreateRequest> for Create {
    fn from(request: WatchCreateRequest) -> Self {
        let filters = |wanted: FilterType| request.filters().any(|filter| filter == wanted);
        let (no_put, no_delete) = (filters(FilterType::Noput), filters(FilterType::Nodelete));
        let key = if request.key.is_empty() {
            b"\0"
        } else {
            request.key.as_ref()
        };
        // Copied: a watcher may live for months and must not hold on to the buffer it arrived in.
        let own = |bytes: &[u8]| Bytes::copy_from_slice(bytes);
        Create {
            range: KeyRange::from_wire(own(key), own(&request.range_end)),
            start_revision: request.start_revision,
            watch_id: request.watch_id,
            no_put,
            no_delete,
            prev_kv: request.prev_kv,
            progress_notify: request.progress_notify,
            fragment: request.fragment,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(key: &'static [u8], range_end: &'static [u8], filters: Vec<i32>) -> Create {
        let (key, range_end) = (key.into(), range_end.into());
        WatchCreateRequest {
            key,
            range_end,
            filters,
            ..Default::default()
        }
        .into()
    }

    #[test]
    fn an_empty_key_is_the_zero_byte_and_a_zero_end_means_no_end() {
        assert_eq!(
            parse(b"", b"", vec![]).range,
            KeyRange::One(Bytes::from_static(b"\0"))
        );
        assert_eq!(parse(b"", b"\0", vec![]).range, KeyRange::All);
        assert_eq!(parse(b"a", b"\0", vec![]).range, KeyRange::From("a".into()));
        assert_eq!(
            parse(b"a", b"b", vec![]).range,
            KeyRange::Span("a".into(), "b".into())
        );
    }

    #[test]
    fn unknown_filters_are_ignored() {
        let create = parse(b"a", b"", vec![1, 77]);
        assert_eq!((create.no_put, create.no_delete), (false, true));
        assert!(create.wants(Kind::Create) && create.wants(Kind::Update) && !create.wants(Kind::Delete));
        let create = parse(b"a", b"", vec![0]);
        assert!(!create.wants(Kind::Create) && !create.wants(Kind::Update) && create.wants(Kind::Delete));
    }
}
