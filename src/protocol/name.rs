//! The names of tunnels, which are the first labels of their host names, and the URLs that are made of them.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use data_encoding::{BASE32_NOPAD, BASE64};
use serde::{Deserialize, Serialize};
use tungstenite::handshake::derive_accept_key;

use super::envelope;
use super::text::Text;
use crate::http1::is_host;
use crate::tunnel_id::TunnelId;

/// The capability of an agent that wants to know its tunnel's URL.
pub const URL_CAPABILITY: &str = "url";

/// `message_type` of the message with which a gateway tells a tunnel's URL.
pub const TUNNEL_URL: &str = "tunnel_url";

/// Longest label of a host name (RFC 1035 §2.3.4).
const LABEL_MAX: usize = 63;

/// Characters of a purpose that stand in a derived name, at most.
const PURPOSE_KEPT: usize = 40;

/// Bytes of the hash in a derived name: 16 characters.
const HASH_KEPT: usize = 10;

/// Longest URL that an agent believes: a host name has 255 bytes at most.
const URL_MAX: usize = 300;

/// The name of a tunnel: the label before the gateway's domain in the tunnel's host name.
///
/// A name that is asked for has 1 to 63 lower-case letters, digits and single hyphens inside. A tunnel without one has a
/// name that is [derived](Self::derived) from its ID; the two cannot be the same.
///
/// ```
/// use tunnel_agent::TunnelName;
///
/// let name: TunnelName = "shop".parse()?;
/// assert_eq!(name.as_str(), "shop");
/// assert!("Shop".parse::<TunnelName>().is_err());
/// # Ok::<(), tunnel_agent::InvalidTunnelName>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TunnelName(String);

impl TunnelName {
    /// The name of a tunnel that asks for none: its purpose, two hyphens, and a part of a hash of the whole ID. It does
    /// not give the ID away.
    pub fn derived(id: &TunnelId) -> TunnelName {
        let mut purpose = String::new();
        for c in id.purpose().chars().take(PURPOSE_KEPT) {
            match c {
                '_' if purpose.is_empty() || purpose.ends_with('-') => {}
                '_' => purpose.push('-'),
                c => purpose.push(c.to_ascii_lowercase()),
            }
        }
        let purpose = purpose.trim_end_matches('-');
        let purpose = match purpose.len() {
            0 => "tunnel".to_owned(),
            // Two hyphens behind two letters are IDNA's (RFC 5891 §4.2.3.1).
            2 => format!("t-{purpose}"),
            _ => purpose.to_owned(),
        };
        // SHA-1 in base64: it cannot be inverted for the 122 random bits of an ID, and is in the tree anyway.
        let hash = BASE64.decode(derive_accept_key(id.expose().as_bytes()).as_bytes()).unwrap_or_default();
        let hash = BASE32_NOPAD.encode(&hash[..HASH_KEPT.min(hash.len())]).to_ascii_lowercase();
        TunnelName(format!("{purpose}--{hash}"))
    }

    /// The name as a label.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for TunnelName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TunnelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The error of a text that is no [`TunnelName`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidTunnelName;

impl fmt::Display for InvalidTunnelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "expected 1 to 63 lower-case letters, digits and single hyphens between them, such as shop",
        )
    }
}

impl std::error::Error for InvalidTunnelName {}

impl FromStr for TunnelName {
    type Err = InvalidTunnelName;

    fn from_str(text: &str) -> Result<Self, InvalidTunnelName> {
        let is_part = |part: &str| {
            !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        };
        let is_name = text.len() <= LABEL_MAX && text.split('-').all(is_part);
        if is_name { Ok(TunnelName(text.to_owned())) } else { Err(InvalidTunnelName) }
    }
}

/// Where visitors reach a tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelUrl {
    /// Scheme, host and perhaps a port.
    pub url: String,
    /// Whether the tunnel has the name that it asked for.
    pub wanted: Wanted,
}

/// The gateway's decision on the name that a tunnel asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// It has it, or asked for none.
    Granted,
    /// It is another tunnel's, or the gateway's own.
    Taken,
}

/// The fields of a URL, in a payload of their own or in that of a `welcome`.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct UrlFields<'a> {
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(crate) url: Option<Text<'a>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(crate) wanted: Option<Text<'a>>,
}

impl TunnelUrl {
    /// Reads the payload of a `tunnel_url` or of a `welcome`. `None` where there is no URL in it that can be one.
    pub fn decode(payload: &str) -> Option<TunnelUrl> {
        let fields: UrlFields<'_> = serde_json::from_str(payload).ok()?;
        let url = fields.url?.0.into_owned();
        let authority = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"))?;
        if url.len() > URL_MAX || !is_host(authority.as_bytes()) {
            return None;
        }
        let is_taken = fields.wanted.is_some_and(|wanted| wanted.0 == "taken");
        Some(TunnelUrl { url, wanted: if is_taken { Wanted::Taken } else { Wanted::Granted } })
    }

    pub(crate) fn fields(&self) -> UrlFields<'_> {
        let wanted = (self.wanted == Wanted::Taken).then(|| Text("taken".into()));
        UrlFields { url: Some(Text(self.url.as_str().into())), wanted }
    }

    /// Writes the envelope of a `tunnel_url`.
    pub fn encode(&self) -> Vec<u8> {
        // A few bytes, which fit.
        envelope::nested(TUNNEL_URL, &self.fields(), usize::MAX).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_label_with_single_hyphens() {
        for good in ["a", "shop", "a-b-c", "0", "x1-2y", &"a".repeat(63)] {
            assert!(good.parse::<TunnelName>().is_ok(), "{good}");
        }
        for bad in ["", "-", "a-", "-a", "a--b", "A", "a.b", "a_b", "ä", "a b", &"a".repeat(64)] {
            assert!(bad.parse::<TunnelName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_derived_name_has_the_purpose_and_gives_nothing_away() {
        let derived = |purpose: &str| {
            let id = format!("agent_550e8400-e29b-41d4-a716-446655440000_{purpose}");
            TunnelName::derived(&id.parse().unwrap()).0
        };
        // SHA-1 of the ID and of RFC 6455's GUID, the first ten bytes of it.
        assert_eq!(derived("prod"), "prod--t7pwrbk2jfc2hc3n");
        assert_ne!(derived("prod")[6..], derived("Prod")[6..]);
        for (purpose, shown) in [
            ("My_Shop", "my-shop"),
            ("__a___b__", "a-b"),
            ("___", "tunnel"),
            ("xn", "t-xn"),
            (&"x".repeat(64), &"x".repeat(40)),
        ] {
            let name = derived(purpose);
            let (purpose, hash) = name.split_once("--").unwrap();
            assert_eq!((purpose, hash.len()), (shown, 16));
            assert!(name.parse::<TunnelName>().is_err());
        }
    }

    #[test]
    fn a_url_is_told_as_documented() {
        let url = TunnelUrl { url: "https://shop.tunnel.example".to_owned(), wanted: Wanted::Granted };
        assert_eq!(
            String::from_utf8(url.encode()).unwrap(),
            r#"{"message_type":"tunnel_url","payload":"{\"url\":\"https://shop.tunnel.example\"}"}"#
        );
        let taken = TunnelUrl { wanted: Wanted::Taken, ..url.clone() };
        assert_eq!(
            String::from_utf8(taken.encode()).unwrap(),
            r#"{"message_type":"tunnel_url","payload":"{\"url\":\"https://shop.tunnel.example\",\"wanted\":\"taken\"}"}"#
        );
        let payload = r#"{"protocol":"mux/2","url":"https:\/\/shop.tunnel.example","more":[1]}"#;
        assert_eq!(TunnelUrl::decode(payload), Some(url));
        let payload = r#"{"wanted":"taken","url":"http://x.localhost:3000"}"#;
        assert_eq!(TunnelUrl::decode(payload).unwrap().wanted, Wanted::Taken);
        for bad in ["", "{}", "[]", r#"{"url":7}"#, r#"{"url":""}"#, r#"{"url":"ftp://x"}"#, r#"{"url":"x"}"#]
        {
            assert_eq!(TunnelUrl::decode(bad), None, "{bad}");
        }
        for bad in ["https://", "https://x/path", "https://x\\u001b[31m", "https://a b", "https://u@x"] {
            assert_eq!(TunnelUrl::decode(&format!(r#"{{"url":"{bad}"}}"#)), None, "{bad}");
        }
    }
}
