//! The passwords that visitors have to show, by the scheme that browsers know (RFC 7617).

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE64;
use http::header::{self, HeaderMap};

use crate::link::secret::is_same_secret;

/// Users at most.
const USERS_MAX: usize = 1024;

/// Users and their passwords. Never shown.
///
/// ```
/// use tunnel_agent::Passwords;
///
/// let passwords: Passwords = "anna:correct horse\nbert:battery staple\n".parse()?;
/// assert_eq!(format!("{passwords:?}"), "Passwords(2 users)");
/// # Ok::<(), tunnel_agent::InvalidPasswords>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Passwords(Vec<String>);

/// The error of a text that is no list of [`Passwords`]. The text itself is never repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvalidPasswords {
    /// There is none.
    Empty,
    /// There are more than 1,024.
    TooMany,
    /// The line with this number is no `user:password`, or holds a control character.
    Line(usize),
}

impl fmt::Display for InvalidPasswords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InvalidPasswords::Empty => f.write_str("there is no line user:password"),
            InvalidPasswords::TooMany => write!(f, "there are more than {USERS_MAX} users"),
            InvalidPasswords::Line(number) => {
                write!(
                    f,
                    "line {number} is no user:password, or has an empty password or a control character"
                )
            }
        }
    }
}

impl std::error::Error for InvalidPasswords {}

impl FromStr for Passwords {
    type Err = InvalidPasswords;

    fn from_str(text: &str) -> Result<Self, InvalidPasswords> {
        let mut users = Vec::new();
        for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.is_empty()) {
            let is_pair =
                line.split_once(':').is_some_and(|(user, word)| !user.is_empty() && !word.is_empty());
            if !is_pair || line.chars().any(char::is_control) {
                return Err(InvalidPasswords::Line(index + 1));
            }
            users.push(line.to_owned());
        }
        match users.len() {
            0 => Err(InvalidPasswords::Empty),
            1..=USERS_MAX => Ok(Passwords(users)),
            _ => Err(InvalidPasswords::TooMany),
        }
    }
}

impl Passwords {
    /// These and the other ones.
    pub(crate) fn and(mut self, other: Passwords) -> Result<Self, InvalidPasswords> {
        self.0.extend(other.0);
        if self.0.len() > USERS_MAX { Err(InvalidPasswords::TooMany) } else { Ok(self) }
    }
}

impl fmt::Debug for Passwords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Passwords({} users)", self.0.len())
    }
}

impl Passwords {
    /// Whether a request shows one of them. How long it takes does not tell which, nor how much of it is right.
    pub(crate) fn are_shown_by(&self, headers: &HeaderMap) -> bool {
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else { return false };
        let Some((scheme, shown)) = value.as_bytes().split_at_checked("Basic ".len()) else { return false };
        if !scheme.eq_ignore_ascii_case(b"Basic ") {
            return false;
        }
        let Ok(shown) = BASE64.decode(shown.trim_ascii()) else { return false };
        self.0.iter().fold(false, |found, pair| found | is_same_secret(pair.as_bytes(), &shown))
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_list_has_a_user_and_a_password_in_each_line() {
        for good in ["a:b", "a:b\n\nc:d:e\r\n", "ä:ö", "#a: "] {
            assert!(good.parse::<Passwords>().is_ok(), "{good:?}");
        }
        for (bad, why) in [
            ("", InvalidPasswords::Empty),
            ("\n\n", InvalidPasswords::Empty),
            ("a", InvalidPasswords::Line(1)),
            ("a:b\n:c", InvalidPasswords::Line(2)),
            ("a:b\n\nc:", InvalidPasswords::Line(3)),
            ("a:b\tc", InvalidPasswords::Line(1)),
            (&"a:b\n".repeat(1025), InvalidPasswords::TooMany),
        ] {
            assert_eq!(bad.parse::<Passwords>(), Err(why), "{bad:?}");
        }
    }

    #[test]
    fn one_of_the_passwords_is_enough_and_nothing_else_is() {
        let passwords: Passwords = "Aladdin:open sesame\nbert:x".parse().unwrap();
        let shown = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap());
            }
            passwords.are_shown_by(&headers)
        };
        // RFC 7617 §2.
        let right = "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==";
        assert!(shown(&[right]) && shown(&["basic YmVydDp4"]));
        for wrong in [
            &[][..],
            &[""],
            &["Basic"],
            &["Basic "],
            &["QWxhZGRpbjpvcGVuIHNlc2FtZQ=="],
            &["Bearer QWxhZGRpbjpvcGVuIHNlc2FtZQ=="],
            &["Basic QWxhZGRpbjpvcGVuIHNlc2FtZ"],
            // "Aladdin:open sesam", "bert:", and "bert:xx".
            &["Basic QWxhZGRpbjpvcGVuIHNlc2Ft"],
            &["Basic YmVydDo="],
            &["Basic YmVydDp4eA=="],
            &[right, right],
        ] {
            assert!(!shown(wrong), "{wrong:?}");
        }
    }
}
