//! `welcome`: how a gateway switches mux/2 on, and within which limits.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::http1::fields::X_REAL_IP;
use crate::protocol::name::{TunnelUrl, UrlFields};
use crate::protocol::text::Text;
use crate::protocol::{MUX_PROTOCOL, envelope};

/// `message_type` of this message.
pub const WELCOME: &str = "welcome";

/// Most bytes of its envelope.
pub const WELCOME_MAX: usize = 4 << 10;

/// Whether the payload of a `welcome` says that the gateway sets `X-Real-IP` in every request itself.
pub fn names_visitors(payload: &str) -> bool {
    #[derive(Deserialize)]
    struct VisitorIn<'a> {
        #[serde(borrow)]
        visitor: Text<'a>,
    }
    serde_json::from_str::<VisitorIn<'_>>(payload).is_ok_and(|wire| wire.visitor.0 == X_REAL_IP)
}

/// The limits that a gateway sets on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MuxLimits {
    /// Bytes of body that either side may send on a new stream: 16 KiB to 4 MiB, by default 256 KiB.
    pub window: u32,
    /// Streams that are open at once: 1 to 4,096, by default 256.
    pub max_streams: u32,
    /// Bytes of body in one frame: 1 to 64 KiB, by default 64 KiB.
    pub max_frame: u32,
}

impl Default for MuxLimits {
    fn default() -> Self {
        MuxLimits { window: 256 << 10, max_streams: 256, max_frame: 64 << 10 }
    }
}

/// The meaning of a gateway's `welcome`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Welcome {
    /// It speaks mux/2 within these limits.
    Mux(MuxLimits),
    /// It speaks something else.
    Other,
    /// It speaks mux/2, within limits that there are not; the text names the first.
    OutOfRange(&'static str),
}

#[derive(Deserialize)]
struct WelcomeIn<'a> {
    #[serde(borrow)]
    protocol: Text<'a>,
    window: Option<Value>,
    max_streams: Option<Value>,
    max_frame: Option<Value>,
}

#[derive(Serialize)]
struct WelcomeOut<'a> {
    protocol: &'a str,
    window: u32,
    max_streams: u32,
    max_frame: u32,
    visitor: &'a str,
    #[serde(flatten)]
    url: UrlFields<'a>,
}

impl Welcome {
    /// Reads the payload of a `welcome`.
    pub fn decode(payload: &str) -> Welcome {
        let Ok(wire) = serde_json::from_str::<WelcomeIn<'_>>(payload) else { return Welcome::Other };
        if wire.protocol.0 != MUX_PROTOCOL {
            return Welcome::Other;
        }
        let within = |value: Option<Value>, default: u32, min: u32, max: u32| match value {
            None => Some(default),
            // Some write whole numbers as 1.0.
            Some(value) => value
                .as_f64()
                .filter(|value| value.fract() == 0.0 && (f64::from(min)..=f64::from(max)).contains(value))
                .map(|value| value as u32),
        };
        let default = MuxLimits::default();
        let Some(window) = within(wire.window, default.window, 16 << 10, 4 << 20) else {
            return Welcome::OutOfRange("window");
        };
        let Some(max_streams) = within(wire.max_streams, default.max_streams, 1, 4096) else {
            return Welcome::OutOfRange("max_streams");
        };
        match within(wire.max_frame, default.max_frame, 1 << 10, 64 << 10) {
            Some(max_frame) => Welcome::Mux(MuxLimits { window, max_streams, max_frame }),
            None => Welcome::OutOfRange("max_frame"),
        }
    }
}

impl MuxLimits {
    /// Writes the envelope of a `welcome`, with the tunnel's URL where it has one.
    pub fn encode_welcome(&self, url: Option<&TunnelUrl>) -> Vec<u8> {
        let wire = WelcomeOut {
            protocol: MUX_PROTOCOL,
            window: self.window,
            max_streams: self.max_streams,
            max_frame: self.max_frame,
            visitor: X_REAL_IP,
            url: url.map(TunnelUrl::fields).unwrap_or_default(),
        };
        // A few bytes, which fit.
        envelope::nested(WELCOME, &wire, usize::MAX).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Wanted;

    #[test]
    fn a_welcome_has_defaults_and_a_range() {
        let decode = |rest: &str| Welcome::decode(&format!("{{\"protocol\":\"mux/2\"{rest}}}"));
        assert_eq!(decode(""), Welcome::Mux(MuxLimits::default()));
        let limits = MuxLimits { window: 16_384, max_streams: 1, max_frame: 1024 };
        assert_eq!(
            decode(",\"window\":16384,\"max_streams\":1,\"max_frame\":1024,\"x\":[]"),
            Welcome::Mux(limits)
        );
        for (rest, name) in [
            (",\"window\":16383", "window"),
            (",\"window\":4194305", "window"),
            (",\"max_streams\":0", "max_streams"),
            (",\"max_streams\":4097", "max_streams"),
            (",\"max_frame\":1023", "max_frame"),
            (",\"max_frame\":65537", "max_frame"),
            (",\"window\":-1", "window"),
            (",\"window\":16384.5", "window"),
            (",\"max_streams\":\"9\"", "max_streams"),
        ] {
            assert_eq!(decode(rest), Welcome::OutOfRange(name), "{rest}");
        }
        assert_eq!(decode(",\"window\":16384.0,\"max_streams\":1,\"max_frame\":1024"), Welcome::Mux(limits));
        // As PHP writes it.
        assert_eq!(Welcome::decode("{\"protocol\":\"mux\\/2\"}"), Welcome::Mux(MuxLimits::default()));
        for other in ["", "{}", "[]", "{\"protocol\":\"mux/3\"}", "{\"protocol\":2}"] {
            assert_eq!(Welcome::decode(other), Welcome::Other, "{other}");
        }
    }

    #[test]
    fn a_welcome_is_written_as_documented() {
        let expected = r#"{"message_type":"welcome","payload":"{\"protocol\":\"mux/2\",\"window\":262144,\"max_streams\":256,\"max_frame\":65536,\"visitor\":\"x-real-ip\"}"}"#;
        assert_eq!(MuxLimits::default().encode_welcome(None), expected.as_bytes());
        let expected = r#"{"message_type":"welcome","payload":"{\"protocol\":\"mux/2\",\"window\":262144,\"max_streams\":256,\"max_frame\":65536,\"visitor\":\"x-real-ip\",\"url\":\"https://shop.tunnel.example\",\"wanted\":\"taken\"}"}"#;
        assert!(names_visitors(r#"{"protocol":"mux\/2","visitor":"x-real-ip"}"#));
        for other in ["", "{}", r#"{"visitor":true}"#, r#"{"visitor":"x-forwarded-for"}"#] {
            assert!(!names_visitors(other), "{other}");
        }
        let url = TunnelUrl { url: "https://shop.tunnel.example".to_owned(), wanted: Wanted::Taken };
        assert_eq!(MuxLimits::default().encode_welcome(Some(&url)), expected.as_bytes());
    }
}
