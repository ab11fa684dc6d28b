//! The same for those who can wait, and may do so on a thread of a runtime.

use std::io;
use std::net::SocketAddr;
use std::thread;

use crate::{NameError, Problem, literal};

/// Where `host` is: [`crate::addresses`].
pub fn addresses(host: &str, port: u16) -> Result<Vec<SocketAddr>, NameError> {
    if let Some(address) = literal(host, port) {
        return Ok(vec![address]);
    }
    let unable = |error: io::Error| NameError {
        name: host.to_owned(),
        problem: Problem::System(error.to_string()),
    };
    wait(crate::addresses(host, port)).map_err(unable)?
}

/// Waits on a thread of its own: one that runs tasks can't also run these.
fn wait<T: Send>(future: impl Future<Output = T> + Send) -> io::Result<T> {
    let work = || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        Ok(runtime.block_on(future))
    };
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("names".into())
            .spawn_scoped(scope, work)?;
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
