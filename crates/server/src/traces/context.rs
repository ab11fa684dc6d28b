//! W3C Trace Context: what a caller says of the trace that its call belongs to.

use http::HeaderMap;

/// Bytes of a `tracestate` that is passed on, as the specification asks for at least.
const STATE_BYTES_MAX: usize = 512;

/// The caller's span.
#[derive(Debug, PartialEq, Eq)]
pub struct Parent {
    /// The trace.
    pub trace_id: u128,
    /// The span in it.
    pub span_id: u64,
    /// Whether it is kept, and so everything below it.
    pub is_kept: bool,
    /// What others along the way have noted.
    pub state: String,
}

impl Parent {
    /// As it is in the headers; one that makes no sense is none.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let header = headers.get("traceparent")?.to_str().ok()?;
        let state = headers.get("tracestate").and_then(|state| state.to_str().ok());
        let state = state.filter(|state| state.len() <= STATE_BYTES_MAX);
        Some(Parent {
            state: state.unwrap_or_default().to_owned(),
            ..Parent::parse(header)?
        })
    }

    /// `00-<trace id>-<span id>-<flags>`, all in lower hex. Later versions may say more behind that.
    fn parse(header: &str) -> Option<Self> {
        let mut parts = header.split('-');
        let mut hex = |digits: usize| {
            let part = parts.next().filter(|part| part.len() == digits)?;
            let is_lower = part
                .bytes()
                .all(|digit| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit));
            is_lower.then(|| u128::from_str_radix(part, 16).ok()).flatten()
        };
        let (version, trace_id, span_id, flags) = (hex(2)?, hex(32)?, hex(16)?, hex(2)?);
        let is_whole = version > 0 || parts.next().is_none();
        (version != 0xff && is_whole && trace_id != 0 && span_id != 0).then_some(Parent {
            trace_id,
            span_id: span_id as u64,
            is_kept: flags & 1 == 1,
            state: String::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const SPAN: &str = "b7ad6b7169203331";

    #[test]
    fn a_traceparent_is_as_the_specification_says_or_is_none() {
        let parse = Parent::parse;
        let whole = parse(&format!("00-{TRACE}-{SPAN}-01")).unwrap();
        assert_eq!(whole.trace_id, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c);
        assert_eq!((whole.span_id, whole.is_kept), (0xb7ad_6b71_6920_3331, true));
        assert!(!parse(&format!("00-{TRACE}-{SPAN}-00")).unwrap().is_kept);
        assert!(parse(&format!("01-{TRACE}-{SPAN}-01-more")).is_some());
        let zeros = "0".repeat(32);
        for bad in [
            String::new(),
            format!("00-{TRACE}-{SPAN}"),
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-{zeros}-{SPAN}-01"),
            format!("00-{TRACE}-{}-01", &zeros[..16]),
            format!("00-{TRACE}-{SPAN}-+1"),
            format!("00-{SPAN}-{TRACE}-01"),
        ] {
            assert_eq!(parse(&bad), None, "{bad}");
        }
    }

    #[test]
    fn a_state_is_passed_on_unless_it_is_too_long() {
        let mut headers = HeaderMap::new();
        headers.insert("traceparent", format!("00-{TRACE}-{SPAN}-01").parse().unwrap());
        headers.insert("tracestate", "a=1".parse().unwrap());
        assert_eq!(Parent::of(&headers).unwrap().state, "a=1");
        headers.insert("tracestate", "a".repeat(STATE_BYTES_MAX + 1).parse().unwrap());
        assert_eq!(Parent::of(&headers).unwrap().state, "");
    }
}
