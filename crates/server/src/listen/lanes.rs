//! Lanes: one single-threaded runtime per core, each on a thread of its own.

use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// Threads of one lane for what may wait for a disk; more calls than that wait in line.
const BLOCKING_THREADS_MAX: usize = 16;

/// The runtimes that connections live on. Ends them when it is dropped.
pub struct Lanes {
    lanes: Vec<Lane>,
    next: AtomicUsize,
}

struct Lane {
    handle: Handle,
    /// Dropped to end the lane.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Lanes {
    /// Starts `count` lanes; at least one.
    pub fn start(count: usize) -> io::Result<Self> {
        let lanes = (0..count.max(1)).map(Lane::start).collect::<io::Result<_>>()?;
        Ok(Lanes {
            lanes,
            next: AtomicUsize::new(0),
        })
    }

    /// As many as the machine lets this process use cores.
    pub fn per_core() -> usize {
        std::thread::available_parallelism().map_or(1, usize::from)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.lanes.len()
    }

    /// The runtime of lane `lane`, counted from 0.
    pub fn handle(&self, lane: usize) -> Handle {
        self.lanes[lane].handle.clone()
    }

    /// Runs a task on lane `lane`, counted from 0.
    pub fn spawn_on(&self, lane: usize, task: impl Future<Output = ()> + Send + 'static) {
        self.lanes[lane].handle.spawn(task);
    }

    /// Runs a task on the lane whose turn it is.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let turn = self.next.fetch_add(1, Relaxed);
        self.spawn_on(turn % self.lanes.len(), task);
    }
}

impl Lane {
    fn start(number: usize) -> io::Result<Self> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(BLOCKING_THREADS_MAX)
            .thread_name(format!("lane-{number}-blocking"))
            .build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name(format!("lane-{number}"))
            .spawn(move || {
                let _ = runtime.block_on(stopped);
            })?;
        Ok(Lane {
            handle,
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A lane that panicked has said so itself.
            let _ = thread.join();
        }
    }
}
