//! The close codes of the tunnel (RFC 6455 §7.4 and its IANA registry; 4000 and above are the tunnel's own).

/// The session has done what it was for.
pub const NORMAL: u16 = 1000;

/// The program stops.
pub const GOING_AWAY: u16 = 1001;

/// The peer broke the protocol.
pub const PROTOCOL_ERROR: u16 = 1002;

/// The peer may try again later.
pub const TRY_AGAIN_LATER: u16 = 1013;

/// A newer session of the same agent has taken the place of this one.
pub const REPLACED: u16 = 4000;

/// The code that replies to a close frame with this one: the same, unless it must not be sent (RFC 6455 §7.4).
pub fn reply_to(code: u16) -> u16 {
    match code {
        1000..=1003 | 1007..=1014 | 3000..=4999 => code,
        _ => PROTOCOL_ERROR,
    }
}
