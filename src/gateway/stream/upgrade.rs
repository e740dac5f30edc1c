//! A response that changes the protocol: bytes both ways until both sides have ended.

use std::io;

use http::{header, response};

use super::{PIECE_MIN, StreamedExchange, grow};
use crate::http1::fields::{remove_hop_by_hop, set_upgrade};
use crate::http1::write_response_head;
use crate::mux::{Reset, ResetCode, Stream, StreamEnd, StreamError};

impl StreamedExchange<'_> {
    /// Passes bytes both ways until both sides have ended, or one has failed.
    pub(super) fn answer_upgrade(mut self, stream: &Stream, mut parts: response::Parts) -> io::Result<()> {
        let protocol = parts.headers.get(header::UPGRADE).cloned();
        remove_hop_by_hop(&mut parts.headers);
        if let Some(protocol) = protocol {
            set_upgrade(&mut parts.headers, protocol);
        }
        let mut bytes = Vec::new();
        write_response_head(&mut bytes, &parts);
        self.begin_lasting();
        self.begin_response(parts.status);
        self.output.send(&bytes)?;
        self.watch()?;
        self.upload.switch();
        let mut buffer = vec![0; PIECE_MIN];
        let result = loop {
            match stream.read(&mut buffer, None) {
                Ok(0) => break self.output.finish(),
                Ok(read) => {
                    if let Err(error) = self.output.send(&buffer[..read]) {
                        break Err(error);
                    }
                    grow(&mut buffer, read);
                }
                Err(error) => break Err(io::Error::other(error)),
            }
        };
        if result.is_err() || stream.ended() != StreamError::Closed(StreamEnd::Ended) {
            stream.reset(Reset::new(ResetCode::Cancelled, "the visitor disconnected"));
            self.closer.abort();
        } else {
            self.request.record.finish();
        }
        Ok(())
    }
}
