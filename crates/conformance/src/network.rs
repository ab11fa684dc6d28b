//! What lies between the members of a cluster: relays of ours on one machine, or a network of the kernel's.

use crate::links::{Line, Links};
use crate::server::Ports;
use crate::spaces::Spaces;

/// A network that can be cut.
#[derive(Debug)]
pub enum Network {
    /// Everybody is on 127.0.0.1, and a relay stands before each member.
    Relays(Links),
    /// Every member has a machine of its own, as far as the network goes.
    Spaces(Spaces),
}

impl Network {
    /// Relays, if this machine allows them.
    pub fn relayed() -> Result<Self, String> {
        Links::possible()?;
        Ok(Self::Relays(Links::default()))
    }

    /// Where member `number` listens, and on which port of that host the others find it.
    pub fn place(&mut self, number: usize) -> Result<(Ports, u16), String> {
        match self {
            Self::Relays(_) => Ok((Ports::free(), Ports::next())),
            Self::Spaces(spaces) => {
                let ports = Ports::usual(spaces.host(number)?);
                Ok((ports, ports.peer))
            }
        }
    }

    /// Member `number` has been started: it runs as process `pid` and listens on `behind`.
    pub async fn open(
        &mut self,
        number: usize,
        pid: u32,
        advertised: u16,
        behind: u16,
    ) -> Result<(), String> {
        match self {
            Self::Relays(links) => links.open(number, pid, advertised, behind).await,
            Self::Spaces(_) => Ok(()),
        }
    }

    /// The member's process is gone.
    pub fn close(&mut self, number: usize) {
        match self {
            Self::Relays(links) => links.close(number),
            // The kernel refuses connections by itself.
            Self::Spaces(_) => {}
        }
    }

    /// Changes the direction from one member to another.
    pub fn set(&mut self, from: usize, to: usize, line: Line) -> Result<(), String> {
        match self {
            Self::Relays(links) => {
                links.set(from, to, line);
                Ok(())
            }
            Self::Spaces(spaces) => spaces.set(from, to, line),
        }
    }

    /// Pulls a member's cable.
    pub fn unplug(&mut self, number: usize) -> Result<(), String> {
        match self {
            Self::Relays(_) => Err("a relay has no cable to pull".into()),
            Self::Spaces(spaces) => spaces.unplug(number),
        }
    }

    /// Every line is whole and fast, every cable plugged in. Returns those that were not.
    pub fn heal(&mut self) -> Result<Vec<usize>, String> {
        match self {
            Self::Relays(links) => {
                links.heal();
                Ok(Vec::new())
            }
            Self::Spaces(spaces) => spaces.heal(),
        }
    }
}
