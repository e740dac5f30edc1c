//! The tunnel ID: which tunnel an agent serves, and the right to serve it.

use std::fmt;
use std::str::FromStr;

/// Hexadecimal digits in each group of a UUID.
const UUID_GROUPS: [usize; 5] = [8, 4, 4, 4, 12];

/// Longest purpose, in characters.
const PURPOSE_MAX: usize = 64;

/// A tunnel ID of the form `agent_{uuid}_{purpose}`.
///
/// You make it yourself: of a random UUID, in small letters, and a purpose of 1 to 64 ASCII letters, digits and underscores;
/// `agent new-id` prints one. Keep it: the tunnel's derived host name depends on it, and agents with the same ID serve the
/// same tunnel. It is a credential: any program that knows it can serve the tunnel. So [`Display`](fmt::Display) and
/// [`Debug`] show a masked form, and only [`expose`](Self::expose) gives the whole.
///
/// ```
/// use tunnel_agent::TunnelId;
///
/// let id: TunnelId = "agent_550e8400-e29b-41d4-a716-446655440000_prod".parse()?;
/// assert_eq!(id.to_string(), "agent_550e…_prod");
/// # Ok::<(), tunnel_agent::InvalidTunnelId>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct TunnelId(String);

impl TunnelId {
    /// The whole ID, for the wire. Keep it out of logs.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// A foreign text, with the ID masked wherever it occurs.
    pub(crate) fn mask_in(&self, text: &str) -> String {
        let uuid = &self.0[PREFIX.len()..PREFIX.len() + UUID_LENGTH];
        // In ASCII, small letters are as long as capitals.
        let (lower, uuid) = (text.to_ascii_lowercase(), uuid.to_ascii_lowercase());
        let mut shown = String::with_capacity(text.len());
        let mut from = 0;
        for (at, _) in lower.match_indices(&uuid) {
            shown.push_str(&text[from..at + 4]);
            shown.push('…');
            from = at + UUID_LENGTH;
        }
        shown.push_str(&text[from..]);
        shown
    }

    /// The purpose: the part behind the UUID.
    pub fn purpose(&self) -> &str {
        &self.0[PREFIX.len() + UUID_LENGTH + 1..]
    }
}

const PREFIX: &str = "agent_";
const UUID_LENGTH: usize = 36;

impl FromStr for TunnelId {
    type Err = InvalidTunnelId;

    fn from_str(text: &str) -> Result<Self, InvalidTunnelId> {
        let rest = text.strip_prefix(PREFIX).ok_or(InvalidTunnelId::Prefix)?;
        let (uuid, purpose) = rest.split_once('_').unwrap_or((rest, ""));
        if !is_uuid(uuid) {
            return Err(InvalidTunnelId::Uuid);
        }
        if uuid.len() == rest.len() {
            return Err(InvalidTunnelId::NoPurpose);
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if purpose.is_empty() || purpose.len() > PURPOSE_MAX || !purpose.chars().all(allowed) {
            return Err(InvalidTunnelId::Purpose);
        }
        Ok(TunnelId(text.to_owned()))
    }
}

fn is_uuid(text: &str) -> bool {
    let mut groups = text.split('-');
    let all_fit = UUID_GROUPS.iter().all(|&digits| {
        groups.next().is_some_and(|g| g.len() == digits && g.bytes().all(|b| b.is_ascii_hexdigit()))
    });
    all_fit && groups.next().is_none()
}

impl fmt::Display for TunnelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}…_{}", &self.0[..PREFIX.len() + 4], self.purpose())
    }
}

impl fmt::Debug for TunnelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TunnelId({self})")
    }
}

/// Why a text is no [`TunnelId`]. The text itself is never repeated: it may be a mistyped credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvalidTunnelId {
    /// It does not begin with `agent_`.
    Prefix,
    /// Nothing follows the UUID.
    NoPurpose,
    /// The part behind `agent_` is no UUID in its 8-4-4-4-12 form.
    Uuid,
    /// The purpose is empty, longer than 64 characters, or holds something else than ASCII letters,
    /// digits and underscores.
    Purpose,
}

impl fmt::Display for InvalidTunnelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self {
            Self::Prefix => "it does not begin with `agent_`",
            Self::NoPurpose => "no `_purpose` follows the UUID",
            Self::Uuid => "what follows `agent_` is no UUID in 8-4-4-4-12 form",
            Self::Purpose => "its purpose is not 1 to 64 letters, digits and underscores",
        };
        write!(
            f,
            "not a tunnel ID: {what}; expected agent_{{uuid}}_{{purpose}}, \
             such as agent_550e8400-e29b-41d4-a716-446655440000_prod"
        )
    }
}

impl std::error::Error for InvalidTunnelId {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_say_of_it_is_masked() {
        let id: TunnelId = "agent_550e8400-e29b-41d4-a716-446655440000_prod".parse().unwrap();
        let said = "no tunnel agent_550e8400-e29b-41d4-a716-446655440000_prod (550E8400-E29B-41D4-A716-446655440000)";
        assert_eq!(id.mask_in(said), "no tunnel agent_550e…_prod (550E…)");
    }

    const GOOD: &str = "agent_550e8400-e29b-41d4-a716-446655440000_prod";

    #[test]
    fn reads_the_documented_form() {
        let id: TunnelId = GOOD.parse().unwrap();
        assert_eq!(id.expose(), GOOD);
        assert_eq!(id.purpose(), "prod");
    }

    #[test]
    fn shows_itself_masked() {
        let id: TunnelId = GOOD.parse().unwrap();
        assert_eq!(format!("{id} {id:?}"), "agent_550e…_prod TunnelId(agent_550e…_prod)");
    }

    #[test]
    fn refuses_everything_else() {
        let uuid = "550e8400-e29b-41d4-a716-446655440000";
        let cases = [
            ("", InvalidTunnelId::Prefix),
            ("AGENT_x", InvalidTunnelId::Prefix),
            (&format!("agent_{uuid}"), InvalidTunnelId::NoPurpose),
            (&format!("agent_{uuid}_"), InvalidTunnelId::Purpose),
            (&format!("agent_{uuid}_a b"), InvalidTunnelId::Purpose),
            (&format!("agent_{uuid}_é"), InvalidTunnelId::Purpose),
            (&format!("agent_{uuid}_{}", "x".repeat(65)), InvalidTunnelId::Purpose),
            ("agent_550e8400e29b41d4a716446655440000_prod", InvalidTunnelId::Uuid),
            ("agent_550e8400-e29b-41d4-a716-44665544000g_prod", InvalidTunnelId::Uuid),
            ("agent_550e8400-e29b-41d4-a716-446655440000-_prod", InvalidTunnelId::Uuid),
        ];
        for (text, error) in cases {
            assert_eq!(text.parse::<TunnelId>().unwrap_err(), error, "{text:?}");
        }
    }

    #[test]
    fn the_longest_purpose_may_hold_underscores() {
        let text = format!("agent_550e8400-E29B-41d4-a716-446655440000_{}", "a_".repeat(32));
        assert_eq!(text.parse::<TunnelId>().unwrap().purpose().len(), 64);
    }
}
