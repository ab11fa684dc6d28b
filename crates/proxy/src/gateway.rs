//! `etcd gateway`: connections go on to members of a cluster as they are, whatever is in them.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use client::srv::Target;
use rand::Rng;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::endpoints::{self, Discovery, discover, refuse_loops};
use crate::{CONNECTIONS_MAX, ProxyError};

/// How long a member may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a member is left alone that could not be reached, if nothing is said.
const RETRY_DELAY: Duration = Duration::from_secs(300);

/// What a gateway is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it listens: `host:port`.
    pub listen: String,
    /// Members: `host:port`, or URLs.
    pub endpoints: Vec<String>,
    /// Where else to look for members, which are then used instead.
    pub discovery: Option<Discovery>,
    /// How long a member is left alone that could not be reached; zero is the usual time.
    pub retry_delay: Duration,
}

/// Passes connections on until the process ends. `ready` is told once it listens.
pub async fn run(config: Config, ready: impl FnOnce()) -> Result<(), ProxyError> {
    let targets = targets(&config).await?;
    refuse_loops(&config.listen, &targets).await?;
    let listener = endpoints::listen(&config.listen).await?;
    let gateway = Arc::new(Gateway::new(targets));
    let addresses: Vec<_> = gateway
        .members
        .iter()
        .map(|member| member.target.address())
        .collect();
    info!(endpoints = addresses.join(","), "ready to proxy client requests");
    ready();
    let delay = match config.retry_delay {
        Duration::ZERO => RETRY_DELAY,
        delay => delay,
    };
    tokio::spawn(gateway.clone().monitor(delay));
    gateway.accept(listener, delay).await;
    Ok(())
}

async fn targets(config: &Config) -> Result<Vec<Target>, ProxyError> {
    let found = match &config.discovery {
        Some(discovery) => discover(discovery).await?,
        None => vec![],
    };
    if !found.is_empty() {
        return Ok(found);
    }
    let parse =
        |endpoint: &String| endpoints::parse(endpoint).ok_or_else(|| ProxyError::Endpoint(endpoint.clone()));
    let given = config
        .endpoints
        .iter()
        .map(parse)
        .collect::<Result<Vec<_>, _>>()?;
    match given.is_empty() {
        true => Err(ProxyError::NoEndpoints),
        false => Ok(given),
    }
}

struct Gateway {
    members: Vec<Member>,
    turn: AtomicUsize,
}

struct Member {
    target: Target,
    /// It could not be reached the last time.
    is_away: AtomicBool,
}

impl Gateway {
    fn new(targets: Vec<Target>) -> Self {
        let member = |target| Member {
            target,
            is_away: AtomicBool::new(false),
        };
        Gateway {
            members: targets.into_iter().map(member).collect(),
            turn: AtomicUsize::new(0),
        }
    }

    async fn accept(self: Arc<Self>, listener: TcpListener, delay: Duration) {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            // It is never closed.
            let Ok(place) = places.clone().acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((near, _)) => {
                    let gateway = self.clone();
                    tokio::spawn(async move {
                        gateway.pass_on(near, delay).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    warn!(%error, "cannot accept a connection");
                    sleep(crate::ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Passes a connection on until either end closes it.
    async fn pass_on(&self, mut near: TcpStream, delay: Duration) {
        let Some(mut far) = self.connect(delay).await else {
            return;
        };
        // Both fail only for a connection that is broken, which shows by itself.
        let _ = near.set_nodelay(true);
        let _ = far.set_nodelay(true);
        let _ = copy_bidirectional(&mut near, &mut far).await;
    }

    async fn connect(&self, delay: Duration) -> Option<TcpStream> {
        loop {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed);
            let member = self.pick(turn, &mut rand::rng())?;
            let address = member.target.address();
            let reason = match timeout(CONNECT_TIMEOUT, connect(&member.target)).await {
                Ok(Ok(far)) => return Some(far),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no connection in time".to_owned(),
            };
            member.is_away.store(true, Ordering::Relaxed);
            warn!(address, ?delay, error = reason, "deactivated endpoint");
        }
    }

    /// Whose turn it is among those who are there: of the best priority, by weight if weights are given, else one after
    /// the other.
    fn pick(&self, turn: usize, chance: &mut impl Rng) -> Option<&Member> {
        let there = || {
            self.members
                .iter()
                .filter(|member| !member.is_away.load(Ordering::Relaxed))
        };
        let best = there().map(|member| member.target.priority).min()?;
        let best: Vec<_> = there().filter(|member| member.target.priority == best).collect();
        let weight = |member: &&Member| u32::from(member.target.weight);
        let all: u32 = best.iter().map(weight).sum();
        if all == 0 {
            return best.get(turn % best.len()).copied();
        }
        let mut left = chance.random_range(0..all);
        best.into_iter().find(|member| {
            let is_it = left < weight(member);
            left = left.saturating_sub(weight(member));
            is_it
        })
    }

    /// Looks from time to time whether those who were away are back.
    async fn monitor(self: Arc<Self>, delay: Duration) {
        loop {
            sleep(delay).await;
            for member in self
                .members
                .iter()
                .filter(|member| member.is_away.load(Ordering::Relaxed))
            {
                let address = member.target.address();
                match timeout(CONNECT_TIMEOUT, connect(&member.target)).await {
                    Ok(Ok(_)) => {
                        member.is_away.store(false, Ordering::Relaxed);
                        info!(address, "activated");
                    }
                    _ => {
                        warn!(address, interval = ?delay, "failed to activate endpoint (stay inactive for another interval)")
                    }
                }
            }
        }
    }
}

async fn connect(target: &Target) -> io::Result<TcpStream> {
    names::connect(&target.host, target.port).await
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    fn gateway(targets: &[(u16, u16)]) -> Gateway {
        let target = |(port, (priority, weight)): (usize, &(u16, u16))| Target {
            host: "a".into(),
            port: port as u16,
            priority: *priority,
            weight: *weight,
            is_secure: false,
        };
        Gateway::new(targets.iter().enumerate().map(target).collect())
    }

    /// How often it is each one's turn.
    fn turns(gateway: &Gateway, count: usize) -> Vec<usize> {
        let mut chance = StdRng::seed_from_u64(7);
        let mut turns = vec![0; gateway.members.len()];
        for turn in 0..count {
            let picked = gateway.pick(turn, &mut chance).unwrap();
            turns[usize::from(picked.target.port)] += 1;
        }
        turns
    }

    #[test]
    fn members_take_turns_and_those_who_are_away_are_left_out() {
        let gateway = gateway(&[(0, 0), (0, 0), (0, 0)]);
        assert_eq!(turns(&gateway, 30), [10, 10, 10]);
        gateway.members[1].is_away.store(true, Ordering::Relaxed);
        assert_eq!(turns(&gateway, 30), [15, 0, 15]);
        gateway
            .members
            .iter()
            .for_each(|member| member.is_away.store(true, Ordering::Relaxed));
        assert!(gateway.pick(0, &mut StdRng::seed_from_u64(7)).is_none());
    }

    #[test]
    fn the_best_priority_is_used_and_weights_are_followed() {
        let gateway = gateway(&[(1, 10), (1, 30), (2, 100)]);
        let [first, second, third] = turns(&gateway, 4000)[..] else {
            panic!("three members")
        };
        assert!(
            (900..1100).contains(&first) && (2900..3100).contains(&second),
            "{first} {second}"
        );
        assert_eq!(third, 0);
        gateway.members[0].is_away.store(true, Ordering::Relaxed);
        gateway.members[1].is_away.store(true, Ordering::Relaxed);
        assert_eq!(turns(&gateway, 10), [0, 0, 10]);
    }
}
