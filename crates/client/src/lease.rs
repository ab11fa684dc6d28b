//! Leases that are kept alive, across lost connections.
//!
//! All leases of a client share one stream. Each is renewed when a third of its time to live is over. Its time is
//! counted from when the renewal was sent: the server's clock started later than that, so a lease that counts as alive
//! here is alive there. One that nobody has confirmed for as long as it lives counts as expired, whatever the reason,
//! and its keeper says so: who holds a lock must know when it can no longer be sure.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use proto::etcdserverpb::{LeaseKeepAliveRequest, LeaseKeepAliveResponse};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tracing::info;

use crate::call::{Again, next as next_answer};
use crate::{Client, Error, next_or_close};

/// Confirmations that nobody has read yet; further ones are not kept, since the next one says the same.
const UNREAD_MAX: usize = 16;
/// Leases that the keeper has not seen yet; who has another one waits.
const WISHES_MAX: usize = 64;
/// Requests that the connection has not taken yet.
const REQUESTS_MAX: usize = 64;
/// The wait after a failure.
const PAUSE: Duration = Duration::from_millis(500);
/// The longest time between two renewals, for leases that are made to last.
const RENEWAL_MAX: Duration = Duration::from_secs(24 * 3600);
/// How long a lease of unknown time to live is believed in without an answer, beyond the time to connect.
const UNKNOWN_TTL: Duration = Duration::from_secs(1);

const PATH: &str = "/etcdserverpb.Lease/LeaseKeepAlive";

/// That a lease was renewed, and until when it lasts now.
type Confirmation = Result<(LeaseKeepAliveResponse, Instant), Error>;

/// A lease that is kept alive until this is dropped.
#[derive(Debug)]
pub struct KeepAlive {
    lease: i64,
    confirmations: mpsc::Receiver<Confirmation>,
    until: Option<Instant>,
    is_over: bool,
}

impl KeepAlive {
    /// Which lease.
    pub fn lease(&self) -> i64 {
        self.lease
    }

    /// The next confirmation that the lease is alive, or [`Error::LeaseGone`] or [`Error::LeaseSilent`]. There
    /// is nothing after an error. It is kept alive no matter whether anybody asks.
    pub async fn next(&mut self) -> Option<Result<LeaseKeepAliveResponse, Error>> {
        if self.is_over {
            return None;
        }
        let next = self.confirmations.recv().await;
        self.is_over = !matches!(next, Some(Ok(_)));
        self.until = next
            .as_ref()
            .and_then(|next| next.as_ref().ok().map(|(_, until)| *until));
        next.map(|next| next.map(|(answer, _)| answer))
    }

    /// Until when the lease lasts, as far as the last confirmation says.
    pub(crate) fn until(&self) -> Option<Instant> {
        self.until
    }
}

impl Client {
    /// Keeps a lease alive.
    pub async fn keep_alive(&self, lease: i64) -> Result<KeepAlive, Error> {
        // The last place is for the end.
        let (sender, confirmations) = mpsc::channel(UNREAD_MAX + 1);
        let mut wish = (lease, sender);
        while let Err(mpsc::error::SendError(unheard)) = self.keeper().send(wish).await {
            // That keeper has just ended.
            wish = unheard;
        }
        Ok(KeepAlive {
            lease,
            confirmations,
            until: None,
            is_over: false,
        })
    }

    /// Renews a lease once.
    pub async fn keep_alive_once(&self, lease: i64) -> Result<LeaseKeepAliveResponse, Error> {
        let mut kept = self.keep_alive(lease).await?;
        let next = kept.next();
        let confirmation = match self.timeout {
            None => next.await,
            Some(timeout) => {
                let next = tokio::time::timeout(timeout, next).await;
                next.map_err(|_| Error::Deadline(self.core.channel.last_failure()))?
            }
        };
        confirmation.unwrap_or(Err(Error::Closed))
    }

    fn keeper(&self) -> mpsc::Sender<Wish> {
        // A member that is cut off from the others can renew nothing.
        let client = self.requiring_leader();
        let start = |wishes| drop(tokio::spawn(Keeper::new(client.clone(), wishes).run()));
        self.core.keepers.of(&client, WISHES_MAX, start)
    }
}

/// A lease, and who wants to know about it.
pub type Wish = (i64, mpsc::Sender<Confirmation>);

/// A lease as the keeper knows it.
struct Lease {
    readers: Vec<mpsc::Sender<Confirmation>>,
    /// When it counts as expired.
    end: Instant,
    /// What the agenda says: when it is to be renewed, or ends.
    next: Instant,
    /// When it was asked for last, if that is not answered.
    asked: Option<Instant>,
}

struct Keeper {
    client: Client,
    wishes: mpsc::Receiver<Wish>,
    leases: HashMap<i64, Lease>,
    /// All leases by when something is to be done about them.
    agenda: BTreeSet<(Instant, i64)>,
    /// Those that are to be renewed now.
    due: VecDeque<i64>,
    /// Yield leases that a reader is not interested in any more.
    gone: FuturesUnordered<BoxFuture<'static, i64>>,
    /// Somebody's renewal is refused, which ends the stream for all. Who it is shows when one at a time is asked for.
    is_careful: bool,
    again: Again,
}

impl Keeper {
    fn new(client: Client, wishes: mpsc::Receiver<Wish>) -> Self {
        Keeper {
            client,
            wishes,
            leases: HashMap::new(),
            agenda: BTreeSet::new(),
            due: VecDeque::new(),
            gone: FuturesUnordered::new(),
            is_careful: false,
            again: Again::default(),
        }
    }

    async fn run(mut self) {
        while let Err(error) = self.stream().await {
            self.recover(&error);
        }
    }

    /// Opens a stream and renews leases on it. An error is its end; without one, there are no more leases.
    async fn stream(&mut self) -> Result<(), Error> {
        self.begin();
        let (requests, outgoing) = mpsc::channel(REQUESTS_MAX);
        let client = self.client.clone();
        let again = std::mem::take(&mut self.again);
        let mut opening = pin!(client.open(again, PATH, ReceiverStream::new(outgoing)));
        let mut answers: Option<Streaming<LeaseKeepAliveResponse>> = None;
        loop {
            if self.leases.is_empty() {
                match next_or_close(&mut self.wishes).await {
                    Some(wish) => self.take(wish),
                    None => return Ok(()),
                }
            }
            let next = self.agenda.first().map(|(time, _)| *time);
            tokio::select! {
                Some(wish) = self.wishes.recv() => self.take(wish),
                Some(lease) = self.gone.next() => self.forget(lease),
                () = wait_until(next) => self.look_at_agenda(),
                opened = &mut opening, if answers.is_none() => answers = Some(opened?),
                Ok(permit) = requests.reserve(), if self.may_ask() => {
                    if let Some(request) = self.ask() {
                        permit.send(request);
                    }
                }
                answer = next_answer(&mut answers) => self.hear(answer?),
            }
        }
    }

    /// All that was asked for is asked for again.
    fn begin(&mut self) {
        let asked = self
            .leases
            .iter_mut()
            .filter_map(|(id, lease)| lease.asked.take().map(|_| *id));
        self.due.extend(asked);
    }

    /// A lease is to be kept: the first renewal is due now.
    fn take(&mut self, (id, reader): Wish) {
        let closed = reader.clone();
        self.gone.push(Box::pin(async move {
            closed.closed().await;
            id
        }));
        let now = Instant::now();
        let end = now + self.client.core.config.dial_timeout + UNKNOWN_TTL;
        let lease = self.leases.entry(id).or_insert_with(|| Lease {
            readers: vec![],
            end,
            next: end,
            asked: None,
        });
        lease.readers.push(reader);
        if lease.asked.is_none() {
            self.plan(id, now);
        }
    }

    fn forget(&mut self, id: i64) {
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.readers.retain(|reader| !reader.is_closed());
            if lease.readers.is_empty() {
                self.remove(id);
            }
        }
    }

    fn remove(&mut self, id: i64) -> Option<Lease> {
        let lease = self.leases.remove(&id)?;
        self.agenda.remove(&(lease.next, id));
        Some(lease)
    }

    /// Something is to be done about a lease then.
    fn plan(&mut self, id: i64, time: Instant) {
        if let Some(lease) = self.leases.get_mut(&id) {
            self.agenda.remove(&(lease.next, id));
            lease.next = time;
            self.agenda.insert((time, id));
        }
    }

    /// Whatever time has come for: renewals, and ends.
    fn look_at_agenda(&mut self) {
        let now = Instant::now();
        while let Some(&(time, id)) = self.agenda.first()
            && time <= now
        {
            match self.leases.get(&id).map(|lease| lease.end) {
                Some(end) if end > now => {
                    self.due.push_back(id);
                    self.plan(id, end);
                }
                _ => self.end(id, &Error::LeaseSilent { lease: id }),
            }
        }
    }

    fn may_ask(&self) -> bool {
        let is_asking = || self.leases.values().any(|lease| lease.asked.is_some());
        !(self.due.is_empty() || self.is_careful && is_asking())
    }

    fn ask(&mut self) -> Option<LeaseKeepAliveRequest> {
        let id = self.due.pop_front()?;
        self.leases.get_mut(&id)?.asked = Some(Instant::now());
        Some(LeaseKeepAliveRequest { id })
    }

    fn hear(&mut self, answer: LeaseKeepAliveResponse) {
        let id = answer.id;
        let Some(lease) = self.leases.get_mut(&id) else {
            return;
        };
        if answer.ttl <= 0 {
            return self.end(id, &Error::LeaseGone { lease: id });
        }
        let Some(asked) = lease.asked.take() else {
            return;
        };
        let ttl = Duration::from_secs(answer.ttl.unsigned_abs());
        // Longer than the clock knows is for ever.
        lease.end = asked.checked_add(ttl).unwrap_or(lease.end);
        for reader in lease.readers.iter().filter(|reader| reader.capacity() > 1) {
            // One that is gone will be among those that are.
            let _ = reader.try_send(Ok((answer, lease.end)));
        }
        self.plan(id, asked + (ttl / 3).min(RENEWAL_MAX));
        if self.due.is_empty() {
            self.is_careful = false;
        }
    }

    fn end(&mut self, id: i64, error: &Error) {
        for reader in self.remove(id).into_iter().flat_map(|lease| lease.readers) {
            // There is room for it, unless the reader is gone.
            let _ = reader.try_send(Err(error.clone()));
        }
    }

    /// The stream could not be opened, or broke.
    fn recover(&mut self, error: &Error) {
        info!(%error, leases = self.leases.len(), "keep-alive stream lost");
        self.again.pause = PAUSE;
        let message = error.server_message().unwrap_or_default();
        if self.client.may_renew(message) {
            self.again.renew = true;
            return;
        }
        if error.is_transient() {
            return;
        }
        let asked = self.leases.iter().filter(|(_, lease)| lease.asked.is_some());
        match asked.map(|(id, _)| *id).collect::<Vec<_>>()[..] {
            [culprit] => self.end(culprit, error),
            _ => self.is_careful = true,
        }
    }
}

async fn wait_until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
