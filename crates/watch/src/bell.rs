//! Waking many tasks of one runtime by waking the runtime once.
//!
//! To wake a task of another thread's runtime is a system call (with tokio about 700 ns for each task;
//! an event with 10 000 clients takes 7 ms of the hub that way). So the hub hangs the wakers it would
//! call on the runtime's bell and rings it. A task of that runtime answers the bell and calls them
//! there, where it costs next to nothing (20 ns for the hub, a fifth of the time in all).

use std::convert::Infallible;
use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use crate::lock;

/// The bell of one runtime. Clones are the same bell.
#[derive(Clone, Debug, Default)]
pub struct Bell(Arc<Mutex<Rung>>);

#[derive(Debug, Default)]
struct Rung {
    /// At most one of each stream, as a stream has one reader.
    wakers: Vec<Waker>,
    /// The task that answers, unless it is about to look anyway.
    answering: Option<Waker>,
}

impl Bell {
    /// Answers the bell for ever; to be spawned on the runtime whose streams use it.
    pub async fn answer(self) -> Infallible {
        poll_fn(|cx| self.poll_answer(cx)).await
    }

    fn poll_answer(&self, cx: &mut Context<'_>) -> Poll<Infallible> {
        loop {
            let mut rung = lock(&self.0);
            if rung.wakers.is_empty() {
                rung.answering = Some(cx.waker().clone());
                return Poll::Pending;
            }
            let wakers = std::mem::take(&mut rung.wakers);
            drop(rung);
            wakers.into_iter().for_each(Waker::wake);
        }
    }

    /// Has `waker` woken on the bell's runtime.
    pub(crate) fn ring(&self, waker: Waker) {
        let mut rung = lock(&self.0);
        rung.wakers.push(waker);
        let answering = rung.answering.take();
        drop(rung);
        if let Some(answering) = answering {
            answering.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn many_tasks_are_woken_by_waking_one() {
        let (runtime, tasks) = (Arc::new(Count::default()), Arc::new(Count::default()));
        let bell = Bell::default();
        let waker = Waker::from(runtime.clone());
        let mut cx = Context::from_waker(&waker);
        let mut answer = pin!(bell.clone().answer());
        for round in 1..=3 {
            assert!(answer.as_mut().poll(&mut cx).is_pending());
            assert_eq!(tasks.0.load(Ordering::Relaxed), (round - 1) * 100);
            (0..100).for_each(|_| bell.ring(tasks.clone().into()));
            assert_eq!(runtime.0.load(Ordering::Relaxed), round);
            assert!(answer.as_mut().poll(&mut cx).is_pending());
        }
        assert_eq!(tasks.0.load(Ordering::Relaxed), 300);
    }

    #[test]
    fn a_bell_rung_before_anybody_listens_is_answered() {
        let task = Arc::new(Count::default());
        let bell = Bell::default();
        bell.ring(task.clone().into());
        let mut answer = pin!(bell.answer());
        assert!(
            answer
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()))
                .is_pending()
        );
        assert_eq!(task.0.load(Ordering::Relaxed), 1);
    }
}
