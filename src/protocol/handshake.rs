//! The agent's first message, and the gateway's.

use serde::{Deserialize, Serialize};

use super::name::{TunnelName, URL_CAPABILITY};
use crate::tunnel_id::TunnelId;

/// The name of part 3 of the protocol, among the capabilities and in a `welcome`.
pub const MUX_PROTOCOL: &str = "mux/2";

/// This agent's capabilities beyond part 1: request IDs, base64 bodies, streams, and hearing of its URL.
pub const CAPABILITIES: [&str; 4] = ["id", "base64", MUX_PROTOCOL, URL_CAPABILITY];

/// Longest handshake that a gateway reads, in bytes: what is in it is kept, logged and shown.
pub const HANDSHAKE_MAX: usize = 4 << 10;

/// The agent's handshake as a gateway reads it.
#[derive(Debug, Clone)]
pub struct Handshake {
    /// Which tunnel the agent serves.
    pub tunnel_id: TunnelId,
    /// The agent's own version.
    pub agent_version: String,
    /// Names of what it can do beyond part 1. Unknown names are ignored.
    pub capabilities: Vec<String>,
    /// Which process it is: a random UUID.
    pub instance: Option<String>,
    /// Which of the sessions that this process keeps apart.
    pub slot: Option<u32>,
    /// The name that the tunnel would like.
    pub name: Option<TunnelName>,
}

#[derive(Serialize)]
struct HandshakeOut<'a> {
    tunnel_id: &'a str,
    agent_version: &'a str,
    capabilities: &'a [&'a str],
    instance: &'a str,
    slot: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
}

#[derive(Deserialize)]
struct In {
    tunnel_id: String,
    #[serde(default)]
    agent_version: String,
    #[serde(default)]
    capabilities: Vec<String>,
    instance: Option<String>,
    slot: Option<u32>,
    name: Option<serde_json::Value>,
}

impl Handshake {
    /// Writes the handshake of this agent.
    pub fn encode(tunnel_id: &TunnelId, instance: &str, slot: u32, name: Option<&TunnelName>) -> Vec<u8> {
        let out = HandshakeOut {
            tunnel_id: tunnel_id.expose(),
            agent_version: env!("CARGO_PKG_VERSION"),
            capabilities: &CAPABILITIES,
            instance,
            slot,
            name: name.map(TunnelName::as_str),
        };
        // Strings into memory: there is nothing in it that could fail.
        serde_json::to_vec(&out).unwrap_or_default()
    }

    /// Reads an agent's handshake, or says what is wrong with it.
    pub fn decode(frame: &str) -> Result<Self, String> {
        if frame.len() > HANDSHAKE_MAX {
            return Err(format!("its handshake is longer than {HANDSHAKE_MAX} bytes"));
        }
        let wire: In =
            serde_json::from_str(frame).map_err(|_| "the first message is no handshake".to_owned())?;
        Ok(Handshake {
            tunnel_id: wire
                .tunnel_id
                .parse()
                .map_err(|error: crate::tunnel_id::InvalidTunnelId| error.to_string())?,
            agent_version: wire.agent_version,
            capabilities: wire.capabilities,
            instance: wire.instance,
            slot: wire.slot,
            // One that cannot be a name is as good as none.
            name: wire.name.and_then(|name| name.as_str()?.parse().ok()),
        })
    }

    /// Whether the agent can do what goes by this name.
    pub fn can(&self, capability: &str) -> bool {
        self.capabilities.iter().any(|name| name == capability)
    }
}
