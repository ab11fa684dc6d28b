//! How far a long job is: told by the one who does it, to whoever wants to know.
//!
//! The job never waits for those who follow it. Only the newest state is kept, so a slow reader passes over the ones
//! between, and nothing is queued for it.

use std::time::Duration;

use futures_util::stream::{self, Stream};
use proto::keelson::v1::ProgressResponse;
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior, interval};

/// How long it takes at least from one message to the next: more often is more than a person sees.
const BETWEEN_MESSAGES: Duration = Duration::from_millis(100);

/// A kind of job, of which there is one at a time.
#[derive(Default)]
pub struct Job(watch::Sender<State>);

#[derive(Clone, Copy, Default)]
struct State {
    told: ProgressResponse,
    at_work: bool,
}

impl Job {
    /// So much is done, of so much that there was to do.
    pub fn at(&self, done: u64, total: u64) {
        self.0.send_replace(State {
            told: ProgressResponse { done, total },
            at_work: true,
        });
    }

    /// It has ended, well or not.
    pub fn over(&self) {
        self.0.send_modify(|state| state.at_work = false);
    }

    /// How far it is, now and whenever that has changed, to the end; nothing if it is not at work.
    pub fn follow(&self) -> impl Stream<Item = ProgressResponse> + Send + 'static {
        let mut states = self.0.subscribe();
        states.mark_changed();
        let mut ticks = interval(BETWEEN_MESSAGES);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let at_work = states.borrow().at_work;
        stream::unfold(at_work.then_some((states, ticks)), next)
    }
}

type Following = Option<(watch::Receiver<State>, Interval)>;

async fn next(following: Following) -> Option<(ProgressResponse, Following)> {
    let (mut states, mut ticks) = following?;
    ticks.tick().await;
    states.changed().await.ok()?;
    let State { told, at_work } = *states.borrow_and_update();
    Some((told, at_work.then_some((states, ticks))))
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::{FutureExt, StreamExt};

    use super::*;

    fn told(done: u64) -> Option<ProgressResponse> {
        Some(ProgressResponse { done, total: 9 })
    }

    #[tokio::test(start_paused = true)]
    async fn who_follows_is_told_how_far_it_is_and_of_the_end() {
        let job = Job::default();
        job.at(1, 9);
        let mut follower = pin!(job.follow());
        assert_eq!(follower.next().await, told(1), "at once");
        assert_eq!(follower.next().now_or_never(), None, "nothing has changed");
        job.at(2, 9);
        assert_eq!(follower.next().await, told(2));
        job.at(9, 9);
        job.over();
        assert_eq!(follower.next().await, told(9));
        assert_eq!(follower.next().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_slow_is_told_the_newest_only() {
        let job = Job::default();
        job.at(0, 9);
        let mut follower = pin!(job.follow());
        (1..8).for_each(|done| job.at(done, 9));
        assert_eq!(follower.next().await, told(7));
    }

    #[tokio::test(start_paused = true)]
    async fn messages_have_a_tenth_of_a_second_between_them() {
        let job = Job::default();
        job.at(0, 9);
        let mut follower = pin!(job.follow());
        assert_eq!(follower.next().await, told(0));
        job.at(1, 9);
        assert_eq!(follower.next().now_or_never(), None);
        tokio::time::advance(BETWEEN_MESSAGES).await;
        assert_eq!(follower.next().now_or_never(), Some(told(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn there_is_nothing_to_tell_of_a_job_that_is_not_at_work() {
        let job = Job::default();
        assert_eq!(job.follow().boxed().next().await, None, "it never was");
        job.at(9, 9);
        job.over();
        assert_eq!(job.follow().boxed().next().await, None, "it was");
        job.at(3, 9);
        let mut follower = pin!(job.follow());
        drop(job);
        assert_eq!(follower.next().await, told(3));
        assert_eq!(follower.next().await, None, "the member has stopped");
    }
}
