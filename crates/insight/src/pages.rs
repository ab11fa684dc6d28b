//! The pages: which there are, and which not.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use http::{Response, StatusCode};

use crate::cpu;
use crate::secrets::own_command_line;

type Page = Response<Bytes>;

/// How long a profile takes if nothing is said, as Go's.
const PROFILE_DEFAULT: Duration = Duration::from_secs(30);
/// The longest profile: somebody waits for it, and nobody else gets one meanwhile.
const PROFILE_MAX: Duration = Duration::from_secs(600);

/// Profiles that tell of Go's runtime.
const OF_GO: [&str; 7] = [
    "allocs",
    "block",
    "goroutine",
    "heap",
    "mutex",
    "threadcreate",
    "trace",
];

/// The page with that name behind `/debug/pprof/`, as it is answered to GET.
pub async fn page(name: &str, query: &str) -> Page {
    match name {
        "" => typed(StatusCode::OK, "text/html; charset=utf-8", index()),
        "profile" => profile(query).await,
        "cmdline" => text(StatusCode::OK, own_command_line().join("\0")),
        // A profile brings its symbols along.
        "symbol" => text(StatusCode::OK, "num_symbols: 0\n"),
        name => no_profile(name),
    }
}

fn typed(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Page {
    let mut page = Response::new(body.into());
    *page.status_mut() = status;
    page.headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    page
}

/// A text that no browser may take for anything else.
fn text(status: StatusCode, body: impl Into<Bytes>) -> Page {
    let mut page = typed(status, "text/plain; charset=utf-8", body);
    page.headers_mut()
        .insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    page
}

fn index() -> String {
    let of_go: String = OF_GO
        .iter()
        .map(|name| {
            format!("<tr><td>-</td><td>{name}</td><td>not there: it tells of Go's runtime</td></tr>\n")
        })
        .collect();
    format!(
        "<html>\n<head>\n<title>/debug/pprof/</title>\n</head>\n<body>\n/debug/pprof/\n<table>\n\
         <tr><td></td><td><a href='cmdline'>cmdline</a></td><td>the command line</td></tr>\n\
         <tr><td></td><td><a href='profile?seconds=30'>profile</a></td>\
         <td>where CPU time goes; ?seconds=N, read with go tool pprof</td></tr>\n{of_go}</table>\n</body>\n</html>\n"
    )
}

fn no_profile(name: &str) -> Page {
    let reason = match OF_GO.contains(&name) {
        true => format!(
            "no profile {name}: it tells of Go's runtime, and this program is not built by Go. \
             See /debug/pprof/profile for CPU time, and process_* of /metrics for memory and files.\n"
        ),
        false => "Unknown profile\n".to_owned(),
    };
    with_go_header(text(StatusCode::NOT_FOUND, reason))
}

/// The header by which tools know that the profiler itself speaks.
fn with_go_header(mut answer: Page) -> Page {
    let name = HeaderName::from_static("x-go-pprof");
    answer.headers_mut().insert(name, HeaderValue::from_static("1"));
    answer
}

async fn profile(query: &str) -> Page {
    match cpu(seconds(query)).await {
        Ok(profile) => {
            let mut answer = typed(StatusCode::OK, "application/octet-stream", profile);
            let name = HeaderValue::from_static("attachment; filename=\"profile\"");
            answer.headers_mut().insert(CONTENT_DISPOSITION, name);
            answer
        }
        Err(error) => with_go_header(text(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("Could not enable CPU profiling: {error}\n"),
        )),
    }
}

/// How long a profile is to take; what makes no sense is not heard, as with Go.
fn seconds(query: &str) -> Duration {
    let asked = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "seconds");
    let seconds = asked.and_then(|(_, value)| value.parse().ok());
    seconds
        .filter(|seconds| *seconds > 0)
        .map_or(PROFILE_DEFAULT, Duration::from_secs)
        .min(PROFILE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_takes_as_long_as_somebody_asks_for_within_reason() {
        for (query, secs) in [
            ("", 30),
            ("seconds=2", 2),
            ("debug=1&seconds=5", 5),
            ("seconds=0", 30),
            ("seconds=-1", 30),
            ("seconds=x", 30),
            ("seconds=100000", 600),
        ] {
            assert_eq!(seconds(query).as_secs(), secs, "{query}");
        }
    }
}
