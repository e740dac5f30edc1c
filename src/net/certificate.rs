//! The few facts of a certificate that people want to know: its subject, its issuer, and its last day.
//!
//! Reads just that out of X.509 (RFC 5280 §4.1) and believes nothing: trust is rustls' business. A library
//! for all of X.509 would bring a dozen crates for one line of `agent check`.

use std::fmt;

use time::{Date, Month, OffsetDateTime, PrimitiveDateTime, Time};

/// Longest name that is shown, in characters.
const NAME_MAX: usize = 80;

/// The readable part of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Certificate {
    subject: String,
    issuer: String,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
}

impl Certificate {
    /// Reads one as it is on the wire (DER); nothing where that is not possible.
    pub(crate) fn parse(der: &[u8]) -> Option<Self> {
        let mut certificate = Der(Der(der).take(SEQUENCE)?);
        let mut fields = Der(certificate.take(SEQUENCE)?);
        if fields.0.first() == Some(&VERSION) {
            fields.next()?;
        }
        fields.take(INTEGER)?;
        fields.take(SEQUENCE)?;
        let issuer = name(fields.take(SEQUENCE)?);
        let mut validity = Der(fields.take(SEQUENCE)?);
        let (not_before, not_after) = (date(validity.next()?)?, date(validity.next()?)?);
        let subject = name(fields.take(SEQUENCE)?);
        Some(Certificate { subject, issuer, not_before, not_after })
    }

    /// Whole days until it ends.
    pub(crate) fn days_until_expiry(&self, now: OffsetDateTime) -> i64 {
        (self.not_after - now).whole_days()
    }

    /// Whether it has ended.
    pub(crate) fn has_expired(&self, now: OffsetDateTime) -> bool {
        self.not_after < now
    }
}

impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Certificate { subject, issuer, not_before, not_after } = self;
        write!(f, "{subject}, issued by {issuer}, valid from {} to {}", not_before.date(), not_after.date())
    }
}

const INTEGER: u8 = 0x02;
const OBJECT_IDENTIFIER: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const VERSION: u8 = 0xa0;

/// 2.5.4.3
const COMMON_NAME: [u8; 3] = [0x55, 4, 3];

/// 2.5.4.10
const ORGANIZATION: [u8; 3] = [0x55, 4, 10];

/// The remaining elements of a sequence.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The next element: its tag, and what it holds.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            // The number of the length's bytes; four are plenty.
            0x81..=0x84 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, content))
    }

    /// The content of the next element, if it has this tag.
    fn take(&mut self, wanted: u8) -> Option<&'a [u8]> {
        self.next().filter(|(tag, _)| *tag == wanted).map(|(_, content)| content)
    }
}

/// A name by its common name or its organization, or both.
fn name(der: &[u8]) -> String {
    let part = |wanted: [u8; 3]| {
        let mut sets = Der(der);
        std::iter::from_fn(|| sets.take(SET)).find_map(|set| {
            let mut pair = Der(Der(set).take(SEQUENCE)?);
            let is_wanted = pair.take(OBJECT_IDENTIFIER)? == wanted;
            let text = pair.next().filter(|_| is_wanted)?.1;
            Some(String::from_utf8_lossy(text).escape_debug().take(NAME_MAX).collect::<String>())
        })
    };
    match (part(COMMON_NAME), part(ORGANIZATION)) {
        (Some(name), Some(organization)) => format!("{name} ({organization})"),
        (Some(name), None) | (None, Some(name)) => name,
        (None, None) => "nobody by name".to_owned(),
    }
}

/// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ` (RFC 5280 §4.1.2.5).
fn date((tag, text): (u8, &[u8])) -> Option<OffsetDateTime> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z').filter(|text| text.is_ascii())?;
    let (year, rest) = match tag {
        UTC_TIME => {
            let (year, rest) = text.split_at_checked(2)?;
            let year: i32 = number(year)?.into();
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        GENERALIZED_TIME => {
            let (century, rest) = text.split_at_checked(2)?;
            let (year, rest) = rest.split_at_checked(2)?;
            (i32::from(number(century)?) * 100 + i32::from(number(year)?), rest)
        }
        _ => return None,
    };
    let mut pairs = (0..5).map(|index| number(rest.get(index * 2..index * 2 + 2)?));
    let mut next = || pairs.next().flatten();
    let date = Date::from_calendar_date(year, Month::try_from(next()?).ok()?, next()?).ok()?;
    let time = Time::from_hms(next()?, next()?, next()?).ok()?;
    Some(PrimitiveDateTime::new(date, time).assume_utc())
}

/// Two digits.
fn number(text: &str) -> Option<u8> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DnType, KeyPair};

    fn certificate(until: (i32, u8, u8)) -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["site.test".to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Böse & Söhne");
        params.distinguished_name.push(DnType::CommonName, "site.test\n");
        params.not_before = rcgen::date_time_ymd(1999, 12, 31);
        params.not_after = rcgen::date_time_ymd(until.0, until.1, until.2);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn tells_names_and_dates() {
        for (until, shown) in [((2031, 2, 28), "2031-02-28"), ((2062, 1, 2), "2062-01-02")] {
            let certificate = Certificate::parse(&certificate(until)).unwrap();
            let name = "site.test\\n (Böse & Söhne)";
            let expected = format!("{name}, issued by {name}, valid from 1999-12-31 to {shown}");
            assert_eq!(certificate.to_string(), expected);
        }
    }

    #[test]
    fn counts_the_days_until_expiry() {
        let certificate = Certificate::parse(&certificate((2031, 2, 28))).unwrap();
        let at = |year, month, day| rcgen::date_time_ymd(year, month, day);
        assert_eq!(certificate.days_until_expiry(at(2031, 2, 1)), 27);
        assert!(!certificate.has_expired(at(2031, 2, 28)));
        assert!(certificate.has_expired(at(2031, 2, 28) + time::Duration::seconds(1)));
    }

    #[test]
    fn whatever_is_cut_or_changed_does_no_harm() {
        let whole = certificate((2031, 2, 28));
        for end in 0..whole.len() {
            assert_eq!(Certificate::parse(&whole[..end]), None, "cut at {end}");
        }
        for at in 0..whole.len() {
            for byte in [0, 0x80, 0x84, 0xff] {
                let mut changed = whole.clone();
                changed[at] = byte;
                let _ = Certificate::parse(&changed).map(|certificate| certificate.to_string());
            }
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Certificate::parse(&bytes).map(|certificate| certificate.to_string());
        }
    }
}
