//! Connections, and trying one thing after the other.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::sleep;

use crate::addresses;

/// How long an address is tried alone before the next one is too: as in Go.
const HEAD_START: Duration = Duration::from_millis(300);

/// Connects to a host. Takes as long as the system does if nothing answers.
pub async fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    connect_from(None, host, port).await
}

/// Connects to a host from this address of the machine, if one is named.
pub async fn connect_from(from: Option<IpAddr>, host: &str, port: u16) -> io::Result<TcpStream> {
    reach(from, &addresses(host, port).await?).await
}

/// Connects to the first of these addresses that can be reached, from that address of the machine if one is named.
pub async fn reach(from: Option<IpAddr>, addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let fits = |to: &SocketAddr| from.is_none_or(|from| from.is_ipv4() == to.is_ipv4());
    let usable = addresses.iter().copied().filter(fits).collect();
    let attempts = alternate(usable).into_iter().map(|to| reach_one(from, to));
    let reached = race(attempts, HEAD_START).await;
    reached.unwrap_or_else(|| Err(io::ErrorKind::AddrNotAvailable.into()))
}

async fn reach_one(from: Option<IpAddr>, to: SocketAddr) -> io::Result<TcpStream> {
    let Some(from) = from else {
        return TcpStream::connect(to).await;
    };
    let socket = match to {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.bind((from, 0).into())?;
    socket.connect(to).await
}

/// The families by turns, each in its order, beginning as the addresses do.
fn alternate(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v4 = addresses.first().is_some_and(SocketAddr::is_ipv4);
    let (first, second): (Vec<_>, Vec<_>) = addresses
        .into_iter()
        .partition(|address| address.is_ipv4() == first_is_v4);
    let mut second = second.into_iter();
    let mut mixed = Vec::new();
    for address in first {
        mixed.push(address);
        mixed.extend(second.next());
    }
    mixed.extend(second);
    mixed
}

/// What the first attempt gives that succeeds, else what is wrong with the first that failed. One attempt follows the
/// other when that fails, and also when `head_start` is over; then both go on. `None` if there are none.
pub async fn race<T, E, A>(
    attempts: impl IntoIterator<Item = A>,
    head_start: Duration,
) -> Option<Result<T, E>>
where
    A: Future<Output = Result<T, E>>,
{
    let mut attempts = attempts.into_iter();
    let mut running = FuturesUnordered::new();
    let mut failed = None;
    loop {
        running.extend(attempts.next());
        let outcome = tokio::select! {
            outcome = running.next() => outcome,
            () = sleep(head_start) => continue,
        };
        match outcome {
            Some(Ok(done)) => return Some(Ok(done)),
            Some(Err(error)) => failed = failed.or(Some(error)),
            None => return failed.map(Err),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::net::Ipv4Addr;

    use futures_util::future::Either;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn one_attempt_follows_the_other_until_one_succeeds() {
        let long = Duration::from_secs(3600);
        let race =
            async |attempts: &[Result<i32, i32>]| race(attempts.iter().copied().map(ready), long).await;
        assert_eq!(race(&[Err(1), Ok(2), Ok(3)]).await, Some(Ok(2)));
        assert_eq!(
            race(&[Err(1), Err(2)]).await,
            Some(Err(1)),
            "the first failure is told"
        );
        assert_eq!(race(&[]).await, None);
    }

    #[tokio::test]
    async fn an_attempt_without_end_holds_nothing_up() {
        let attempts = [Either::Left(pending()), Either::Right(ready(Ok::<_, ()>(2)))];
        assert_eq!(race(attempts, Duration::ZERO).await, Some(Ok(2)));
    }

    #[tokio::test]
    async fn the_first_address_that_can_be_reached_is_connected_to() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let live = listener.local_addr().unwrap();
        let dead = SocketAddr::new([127, 0, 0, 2].into(), live.port());
        let other: SocketAddr = "[::1]:1".parse().unwrap();
        let from = Some([127, 0, 0, 3].into());
        for (from, addresses) in [(None, vec![dead, live]), (from, vec![other, dead, live])] {
            let near = reach(from, &addresses).await.unwrap();
            assert_eq!(near.peer_addr().unwrap(), live);
            let (_, far) = listener.accept().await.unwrap();
            assert!(from.is_none_or(|from| from == far.ip()), "{far}");
        }
        let refused = reach(None, &[dead]).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        for (from, addresses) in [(from, &[other][..]), (None, &[])] {
            let nowhere = reach(from, addresses).await.unwrap_err();
            assert_eq!(nowhere.kind(), io::ErrorKind::AddrNotAvailable);
        }
    }

    #[tokio::test]
    async fn a_name_is_connected_to() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        connect("localhost", port).await.unwrap();
        let unknown = connect("nobody.invalid.", port).await.unwrap_err();
        assert_eq!(unknown.kind(), io::ErrorKind::NotFound);
        assert_eq!(unknown.to_string(), "lookup nobody.invalid.: no such host");
    }

    #[test]
    fn families_take_turns_beginning_with_the_first() {
        let addresses =
            |texts: &[&str]| -> Vec<SocketAddr> { texts.iter().map(|text| text.parse().unwrap()).collect() };
        for (found, tried) in [
            (
                &["[::1]:1", "[::2]:1", "1.1.1.1:1"][..],
                &["[::1]:1", "1.1.1.1:1", "[::2]:1"][..],
            ),
            (
                &["1.1.1.1:1", "[::1]:1", "[::2]:1"],
                &["1.1.1.1:1", "[::1]:1", "[::2]:1"],
            ),
            (&["1.1.1.1:1", "2.2.2.2:1"], &["1.1.1.1:1", "2.2.2.2:1"]),
            (&[], &[]),
        ] {
            assert_eq!(alternate(addresses(found)), addresses(tried));
        }
    }
}
