//! The body of the local server's response, read as it comes.

use std::io::{self, Read};
use std::time::Duration;

use ureq::BodyReader;

use super::channel::Channel;
use super::client::Connection;
use super::connections::Connections;
use super::upload::{Upload, UploadState};
use crate::advice::Advice;
use crate::http1::Persistence;
use crate::service::{Body, Cancellation, Failure, FailureKind};

/// The body of the local server's response, with errors that say what went wrong.
pub(super) struct ResponseBody {
    pub(super) source: ResponseSource,
    /// The bytes that are still to be read, where that is known.
    pub(super) remaining: Option<u64>,
    pub(super) persistence: Persistence,
    /// Not for anybody else before the body is done.
    pub(super) connection: Option<Connection>,
    /// The request's body, as far as it is still being sent.
    pub(super) upload: Option<Upload>,
    pub(super) idle: Duration,
    pub(super) connections: Connections,
    pub(super) cancellation: Cancellation,
}

/// Where the bytes come from.
pub(super) enum ResponseSource {
    /// There are none.
    Nothing,
    /// ureq reads them.
    Http(Box<BodyReader<'static>>),
    /// Another protocol on the connection: as they are, to its end.
    Switched(Box<Channel>),
    /// All were read.
    Ended,
}

impl ResponseSource {
    fn is_switched(&self) -> bool {
        matches!(self, ResponseSource::Switched(_))
    }
}

impl ResponseBody {
    /// As a body that is read as it comes.
    pub(super) fn into_body(self) -> Body {
        let length = self.remaining;
        match length.filter(|length| self.has_all(*length)) {
            // The usual small answer: it is here already, and its connection is free again.
            Some(length) => {
                self.take_all(length).map_or_else(|error| Body::broken(error, length), Body::from)
            }
            None => Body::from_reader(self, length),
        }
    }

    /// Whether so many bytes are all there is, and in memory.
    fn has_all(&self, length: u64) -> bool {
        self.is_sent()
            && self.connection.as_ref().is_some_and(|connection| connection.unread() as u64 >= length)
    }

    fn take_all(mut self, length: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length as usize];
        self.read_exact(&mut bytes)?;
        if length == 0 {
            self.end()?;
        }
        Ok(bytes)
    }

    /// The body is complete: ureq gives the connection back with one more read.
    fn end(&mut self) -> io::Result<()> {
        if let ResponseSource::Http(reader) = &mut self.source {
            let read = reader.read(&mut [0]).map_err(|error| self.explain(error))?;
            debug_assert_eq!(read, 0);
        }
        self.source = ResponseSource::Ended;
        self.finish();
        Ok(())
    }

    /// The response is complete: its connection may carry another request, if this one is all sent.
    fn finish(&mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        let id = connection.id;
        // A cancellation has nothing to end any more.
        let is_wanted = self.cancellation.disarm();
        if !self.is_sent() {
            // The server has heard enough. The upload's thread is joined when the response is dropped: until
            // then the client may not know that it need not send more.
            connection.closer.close();
            self.connections.end(id);
        } else if connection.take_back(self.upload.take())
            && self.persistence == Persistence::KeepAlive
            && is_wanted
        {
            connection.shrink();
            self.connections.put(connection);
        } else {
            self.connections.end(id);
        }
    }

    /// Whether all of the request is sent.
    fn is_sent(&self) -> bool {
        self.upload.as_ref().is_none_or(|upload| matches!(upload.state(), UploadState::Sent(_)))
    }

    fn explain(&self, error: io::Error) -> io::Error {
        match (error.kind(), self.upload.as_ref().map(Upload::state)) {
            (_, Some(UploadState::Failed(failure))) => io::Error::other(failure),
            (_, Some(UploadState::Stalled)) => io::Error::other(Failure::stalled()),
            _ if self.connections.are_stopped() => io::Error::other(super::given_up()),
            (io::ErrorKind::TimedOut, _) => {
                let text = format!("the response body stalled for {:?}", self.idle);
                let failure = Failure::new(FailureKind::Timeout, text);
                io::Error::other(failure.with_advice(Advice::IdleTimeout))
            }
            _ => error,
        }
    }

    /// Counts bytes of the body that were read.
    fn count(&mut self, read: usize) -> io::Result<usize> {
        self.remaining = self.remaining.map(|remaining| remaining.saturating_sub(read as u64));
        if read == 0 || self.remaining == Some(0) {
            self.end()?;
        }
        Ok(read)
    }
}

impl Read for ResponseBody {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        match &mut self.source {
            ResponseSource::Ended => Ok(0),
            ResponseSource::Nothing => self.count(0),
            ResponseSource::Http(reader) => {
                self.connection.as_ref().inspect(|connection| connection.begin_read());
                let read = reader.read(buffer).map_err(|error| self.explain(error))?;
                self.count(read)
            }
            ResponseSource::Switched(channel) => {
                // Another protocol may be silent for as long as it likes.
                let read = channel.limit_reads(None).and_then(|()| channel.read_raw(buffer));
                let read = read.map_err(|error| self.explain(error))?;
                if read == 0 {
                    self.remaining = Some(0);
                }
                Ok(read)
            }
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            // After the server's last word in another protocol, the client may go on to the end of its own.
            if !(self.source.is_switched() && self.remaining == Some(0)) {
                connection.closer.close();
            }
            self.connections.end(connection.id);
        }
        if let Some(upload) = self.upload.take() {
            drop(upload.join());
        }
    }
}
