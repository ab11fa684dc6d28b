//! Telling systemd how the service is (`Type=notify`): a datagram to the socket it names, when clients are served, when
//! the process begins to stop, and in between as often as the unit's `WatchdogSec` asks for.
//!
//! The signs of life come from the thread that waits for signals, so they end with the process or when it starves.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// What systemd wants to know, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Systemd {
    socket: Option<String>,
    watchdog: Option<Duration>,
}

impl Systemd {
    /// As the environment has it, of the process with this id.
    pub fn new(variable: impl Fn(&str) -> Option<String>, process: u32) -> Self {
        let number = |name| variable(name)?.parse::<u64>().ok();
        // Set for another process, it is inherited by mistake.
        let is_ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(process));
        let limit = number("WATCHDOG_USEC").filter(|limit| *limit > 0 && is_ours);
        Systemd {
            socket: variable("NOTIFY_SOCKET").filter(|name| !name.is_empty()),
            watchdog: limit.map(Duration::from_micros),
        }
    }

    /// Clients are served.
    pub fn ready(&self) {
        self.tell(&format!("READY=1\nMAINPID={}", std::process::id()));
    }

    /// The process begins to stop.
    pub fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    /// Gives signs of life, two in the time after which systemd would miss them.
    pub async fn live(self) {
        let (Some(limit), true) = (self.watchdog, self.socket.is_some()) else {
            return;
        };
        let mut ticks = tokio::time::interval(limit / 2);
        loop {
            ticks.tick().await;
            // One that is lost is followed by the next.
            let _ = self.send("WATCHDOG=1");
        }
    }

    fn tell(&self, state: &str) {
        match self.send(state) {
            Ok(false) => {}
            Ok(true) => tracing::info!(state, "notified init daemon"),
            Err(error) => tracing::warn!(error = %error, "failed to notify init daemon"),
        }
    }

    /// Whether anybody wanted to know.
    fn send(&self, state: &str) -> io::Result<bool> {
        let Some(name) = &self.socket else {
            return Ok(false);
        };
        let address = match name.strip_prefix('@') {
            Some(abstract_name) => SocketAddr::from_abstract_name(abstract_name),
            None => SocketAddr::from_pathname(name),
        };
        let socket = UnixDatagram::unbound()?;
        // Whoever does not read is not waited for.
        socket.set_nonblocking(true)?;
        socket.send_to_addr(state.as_bytes(), &address?)?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn systemd(variables: &[(&str, &str)]) -> Systemd {
        let value = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| value.to_string())
        };
        Systemd::new(value, 7)
    }

    fn received(listener: &UnixDatagram) -> String {
        let mut datagram = [0; 100];
        let length = listener.recv(&mut datagram).unwrap();
        String::from_utf8(datagram[..length].to_vec()).unwrap()
    }

    #[test]
    fn what_is_told_is_a_datagram_to_a_path_or_an_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let name = format!("@keelson-test-{}", std::process::id());
        let abstract_address = SocketAddr::from_abstract_name(&name[1..]).unwrap();
        for (listener, name) in [
            (UnixDatagram::bind(&path).unwrap(), path.to_str().unwrap()),
            (UnixDatagram::bind_addr(&abstract_address).unwrap(), &name),
        ] {
            let systemd = systemd(&[("NOTIFY_SOCKET", name)]);
            systemd.ready();
            let expected = format!("READY=1\nMAINPID={}", std::process::id());
            assert_eq!(received(&listener), expected);
            systemd.stopping();
            assert_eq!(received(&listener), "STOPPING=1");
        }
    }

    #[test]
    fn signs_of_life_are_wanted_from_the_process_that_is_named() {
        let watchdog = |variables: &[(&str, &str)]| systemd(variables).watchdog;
        let second = ("WATCHDOG_USEC", "1000000");
        assert_eq!(watchdog(&[second]), Some(Duration::from_secs(1)));
        assert_eq!(
            watchdog(&[second, ("WATCHDOG_PID", "7")]),
            Some(Duration::from_secs(1))
        );
        assert_eq!(watchdog(&[second, ("WATCHDOG_PID", "8")]), None);
        assert_eq!(watchdog(&[("WATCHDOG_USEC", "0")]), None);
        assert_eq!(systemd(&[("NOTIFY_SOCKET", "")]), Systemd::default());
        assert!(!systemd(&[]).send("READY=1").unwrap());
        assert!(
            systemd(&[("NOTIFY_SOCKET", "/nowhere/at/all")])
                .send("READY=1")
                .is_err()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn signs_of_life_come_twice_in_the_time_after_which_they_are_missed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let listener = UnixDatagram::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        let variables = [
            ("NOTIFY_SOCKET", path.to_str().unwrap()),
            ("WATCHDOG_USEC", "1000000"),
        ];
        let life = tokio::spawn(systemd(&variables).live());
        tokio::time::sleep(Duration::from_millis(2250)).await;
        life.abort();
        let mut count = 0;
        while listener.recv(&mut [0; 100]).is_ok() {
            count += 1;
        }
        assert_eq!(count, 5);
    }
}
