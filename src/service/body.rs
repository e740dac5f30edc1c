//! Bodies: streams of bytes, whose length may be known.

use std::fmt;
use std::io::{self, Read};

use tungstenite::Bytes;

use super::failure::{Failure, FailureKind};
use crate::advice::Advice;

/// A body: a stream of bytes, whose length may be known.
pub struct Body(BodySource);

enum BodySource {
    Bytes(Bytes),
    Stream { reader: Box<dyn Read + Send>, length: Option<u64> },
}

impl Body {
    /// No bytes.
    pub fn empty() -> Self {
        Body::from(Vec::new())
    }

    /// The bytes that `reader` gives until it ends. A body that ends before a stated `length` is truncated, which is
    /// an error. One that goes on past it is an error in an envelope, and is cut off there in a stream.
    pub fn from_reader(reader: impl Read + Send + 'static, length: Option<u64>) -> Self {
        Body(BodySource::Stream { reader: Box::new(reader), length })
    }

    /// The number of bytes that are still to be read, if it is known.
    pub fn length(&self) -> Option<u64> {
        match &self.0 {
            BodySource::Bytes(bytes) => Some(bytes.len() as u64),
            BodySource::Stream { length, .. } => *length,
        }
    }

    /// The bytes that are still to be read, when all of them are in memory.
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match &self.0 {
            BodySource::Bytes(bytes) => Some(bytes),
            BodySource::Stream { .. } => None,
        }
    }

    /// A copy of the body, when all of it is in memory.
    pub(crate) fn replay(&self) -> Option<Body> {
        match &self.0 {
            BodySource::Bytes(bytes) => Some(Body(BodySource::Bytes(bytes.clone()))),
            BodySource::Stream { .. } => None,
        }
    }

    /// A body that breaks off at once.
    pub(crate) fn broken(error: io::Error, length: u64) -> Self {
        struct FailingReader(Option<io::Error>);
        impl Read for FailingReader {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(self.0.take().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into()))
            }
        }
        Body::from_reader(FailingReader(Some(error)), Some(length))
    }

    /// Reads the body to its end.
    ///
    /// # Errors
    ///
    /// [`FailureKind::TooLarge`] past `max` bytes, [`FailureKind::Truncated`] for a body that breaks off or is longer than its
    /// stated length. A service that returns it answers 502: to a request that is too large, answer 413 yourself.
    pub fn into_bytes(self, max: usize) -> Result<Vec<u8>, Failure> {
        let too_large = || {
            let text = format!("the body is larger than {max} bytes");
            Failure::new(FailureKind::TooLarge, text).with_advice(Advice::EnvelopedBody)
        };
        let (mut reader, length) = match self.0 {
            // Without a copy, when there is no other reference.
            BodySource::Bytes(bytes) => {
                return if bytes.len() > max { Err(too_large()) } else { Ok(bytes.into()) };
            }
            BodySource::Stream { reader, length } => (reader, length),
        };
        if length.is_some_and(|length| length > max as u64) {
            return Err(too_large());
        }
        // With room to spare, or `read_to_end` makes a small read to see whether it can stop.
        let mut bytes = Vec::with_capacity(length.map_or(0, |length| (length as usize).saturating_add(32)));
        // One byte more than there should be: it tells a body at its limit from one past it, and lets the
        // reader see its end, without which a connection below it is not used again.
        let wanted = length.unwrap_or(max as u64).saturating_add(1);
        let result = reader.by_ref().take(wanted).read_to_end(&mut bytes);
        result.map_err(|error| Failure::broken_off(bytes.len(), length, error))?;
        match length {
            Some(length) if (bytes.len() as u64) < length => {
                Err(Failure::broken_off(bytes.len(), Some(length), io::ErrorKind::UnexpectedEof.into()))
            }
            Some(length) if (bytes.len() as u64) > length => Err(longer_than(length)),
            None if bytes.len() > max => Err(too_large()),
            _ => Ok(bytes),
        }
    }
}

fn longer_than(length: u64) -> Failure {
    Failure::new(FailureKind::Truncated, format!("the body is longer than its stated {length} bytes"))
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            BodySource::Bytes(bytes) => {
                let read = buffer.len().min(bytes.len());
                buffer[..read].copy_from_slice(&bytes.split_to(read));
                Ok(read)
            }
            BodySource::Stream { reader, length: None } => reader.read(buffer),
            BodySource::Stream { reader, length: Some(0) } => match reader.read(&mut [0])? {
                0 => Ok(0),
                _ => Err(io::Error::other(longer_than(0))),
            },
            BodySource::Stream { reader, length: Some(left) } => {
                let most = buffer.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                let read = reader.read(&mut buffer[..most])?;
                if read == 0 && most > 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                *left -= read as u64;
                Ok(read)
            }
        }
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Body(BodySource::Bytes(bytes.into()))
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Body::from(text.into_bytes())
    }
}

impl From<&str> for Body {
    fn from(text: &str) -> Self {
        Body::from(text.as_bytes().to_vec())
    }
}

impl Default for Body {
    fn default() -> Self {
        Body::empty()
    }
}

impl fmt::Debug for Body {
    /// The length alone: a body may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.length() {
            Some(length) => write!(f, "Body({length} bytes)"),
            None => f.write_str("Body(a stream)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(body: Body, max: usize, expected: Result<&[u8], FailureKind>) {
        let got = body.into_bytes(max);
        assert_eq!(got.as_deref().map_err(Failure::kind), expected);
    }

    #[test]
    fn reads_up_to_the_limit_and_no_further() {
        check(Body::from("four"), 4, Ok(b"four"));
        check(Body::from("fiver"), 4, Err(FailureKind::TooLarge));
        check(Body::from_reader(&b"four"[..], None), 4, Ok(b"four"));
        check(Body::from_reader(&b"four"[..], None), usize::MAX, Ok(b"four"));
        check(Body::from_reader(io::repeat(b'x'), None), 4, Err(FailureKind::TooLarge));
        check(Body::from_reader(io::repeat(b'x'), Some(5)), 4, Err(FailureKind::TooLarge));
        check(Body::from_reader(&b"four"[..], Some(4)), 4, Ok(b"four"));
    }

    #[test]
    fn a_body_longer_than_stated_is_refused() {
        check(Body::from_reader(io::repeat(b'x'), Some(4)), 10, Err(FailureKind::Truncated));
        let mut body = Body::from_reader(io::repeat(b'x'), Some(4));
        assert!(body.read_to_end(&mut Vec::new()).is_err());
    }

    #[test]
    fn the_reader_sees_its_end() {
        /// Notes that it was asked for more than it had.
        struct Ends<'a>(&'a [u8], std::sync::Arc<std::sync::atomic::AtomicBool>);
        impl Read for Ends<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let read = self.0.read(buffer)?;
                self.1.fetch_or(read == 0, std::sync::atomic::Ordering::Relaxed);
                Ok(read)
            }
        }
        for length in [None, Some(4)] {
            let ended = std::sync::Arc::default();
            check(Body::from_reader(Ends(b"four", std::sync::Arc::clone(&ended)), length), 10, Ok(b"four"));
            assert!(ended.load(std::sync::atomic::Ordering::Relaxed), "{length:?}");
        }
    }

    #[test]
    fn a_body_shorter_than_stated_is_broken_off() {
        check(Body::from_reader(&b"fo"[..], Some(4)), 10, Err(FailureKind::Truncated));
        let mut body = Body::from_reader(&b"fo"[..], Some(4));
        let error = body.read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn debug_shows_no_bytes() {
        assert_eq!(format!("{:?}", Body::from("secret")), "Body(6 bytes)");
    }
}
