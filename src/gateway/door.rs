//! The doors of a gateway: the addresses at which it listens, for visitors, agents or both.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

/// The clients that an address is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Door {
    /// Agents and visitors.
    All,
    /// Visitors, where agents have an address of their own.
    Visitors,
    Agents,
}

impl Door {
    /// The names of all doors.
    pub(super) const NAMES: [&str; 3] = ["all", "visitors", "agents"];

    /// The name, for metrics.
    pub(super) fn name(self) -> &'static str {
        match self {
            Door::All => "all",
            Door::Visitors => "visitors",
            Door::Agents => "agents",
        }
    }
}

/// The sockets that listen: one, or two where agents have an address of their own.
#[derive(Debug)]
pub(super) struct Listeners {
    pub(super) all: Vec<(Door, Arc<TcpListener>)>,
    pub(super) addresses: Addresses,
}

/// The addresses at which a gateway listens, with the ports that the system chose.
#[derive(Debug, Clone, Copy)]
pub(super) struct Addresses {
    pub(super) visitors: SocketAddr,
    pub(super) agents: SocketAddr,
}

impl Listeners {
    pub(super) fn bind(listen: SocketAddr, agents: Option<SocketAddr>) -> io::Result<Self> {
        let bind = |address| {
            let failed = |error: io::Error| io::Error::new(error.kind(), format!("{address}: {error}"));
            let listener = TcpListener::bind(address).map_err(failed)?;
            Ok::<_, io::Error>((listener.local_addr()?, Arc::new(listener)))
        };
        let (visitors, listener) = bind(listen)?;
        let Some(agents) = agents else {
            let addresses = Addresses { visitors, agents: visitors };
            return Ok(Listeners { all: vec![(Door::All, listener)], addresses });
        };
        let (agents, of_agents) = bind(agents)?;
        let all = vec![(Door::Visitors, listener), (Door::Agents, of_agents)];
        Ok(Listeners { all, addresses: Addresses { visitors, agents } })
    }
}
