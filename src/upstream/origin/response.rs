//! The body of the local server's response, read as it comes.

use std::io::{self, Read};
use std::time::Duration;

use super::client::Connection;
use super::connections::Connections;
use super::upload::{Upload, UploadState};
use crate::advice::Advice;
use crate::http1::{Decoder, Persistence};
use crate::service::{Body, Cancellation, Failure, FailureKind};

/// The body of the local server's response, with errors that say what went wrong.
pub(super) struct ResponseBody {
    pub(super) decoder: Decoder,
    pub(super) persistence: Persistence,
    /// Not for anybody else before the body is done.
    pub(super) connection: Option<Connection>,
    /// The request's body, as far as it is still being sent.
    pub(super) upload: Option<Upload>,
    pub(super) upgraded: bool,
    pub(super) idle: Duration,
    pub(super) connections: Connections,
    pub(super) cancellation: Cancellation,
}

impl ResponseBody {
    /// As a body that is read as it comes.
    pub(super) fn into_body(mut self) -> Body {
        let length = self.decoder.remaining();
        match length.filter(|length| self.has_all(*length)) {
            // The usual small answer: it is here already, and its connection is free again.
            Some(length) => {
                self.take_all(length).map_or_else(|error| Body::broken(error, length), Body::from)
            }
            None => {
                if let Some(connection) = &mut self.connection {
                    connection.input.shrink();
                }
                Body::from_reader(self, length)
            }
        }
    }

    /// Whether so many bytes are all there is, and in memory.
    fn has_all(&self, length: u64) -> bool {
        self.is_sent()
            && self
                .connection
                .as_ref()
                .is_some_and(|connection| connection.input.unread().len() as u64 >= length)
    }

    fn take_all(mut self, length: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(length as usize + 1);
        self.read_to_end(&mut bytes).map(|_| bytes)
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
}

impl Read for ResponseBody {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(connection) = &mut self.connection else { return Ok(0) };
        let decoder = &mut self.decoder;
        let result = if self.upgraded {
            // What was agreed on may be silent for as long as it likes.
            connection.limit_reads(None).and_then(|()| connection.input.read_body(decoder, buffer))
        } else {
            connection
                .read_with_timeout(self.idle, self.upload.as_ref(), |input| input.read_body(decoder, buffer))
        };
        let read = result.map_err(|error| self.explain(error))?;
        if self.decoder.is_done() && !self.upgraded {
            self.finish();
        }
        Ok(read)
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            // After the server's last word in another protocol, the client may go on to the end of its own.
            if !(self.upgraded && self.decoder.is_done()) {
                connection.closer.close();
            }
            self.connections.end(connection.id);
        }
        if let Some(upload) = self.upload.take() {
            drop(upload.join());
        }
    }
}
