//! TLS between the two halves of a socket: one rustls object, locked only to move bytes in memory.

use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard};

use super::system::SystemSocket;
use super::when_full::WhenFull;
use crate::sync::lock;

/// Ciphertext that is read at once: a TLS record and a bit.
const CIPHER_BUFFER: usize = 18 << 10;

#[derive(Debug)]
pub(super) struct Tls(Mutex<rustls::Connection>);

impl Tls {
    pub(super) fn new(connection: rustls::Connection) -> Self {
        Tls(Mutex::new(connection))
    }

    /// The other side's own certificate, as it came.
    fn certificate(&self) -> Option<Vec<u8>> {
        self.lock().peer_certificates()?.first().map(|certificate| certificate.to_vec())
    }

    fn lock(&self) -> MutexGuard<'_, rustls::Connection> {
        lock(&self.0)
    }
}

#[derive(Debug)]
pub(super) struct Reading {
    tls: Arc<Tls>,
    cipher: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Reading {
    pub(super) fn new(tls: Arc<Tls>) -> Self {
        Reading { tls, cipher: vec![0; CIPHER_BUFFER].into(), start: 0, end: 0 }
    }

    pub(super) fn certificate(&self) -> Option<Vec<u8>> {
        self.tls.certificate()
    }

    /// Plaintext, from what rustls holds, or else from what `receive` brings in.
    pub(super) fn read(
        &mut self,
        buffer: &mut [u8],
        mut receive: impl FnMut(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        loop {
            if let Some(read) = self.decrypt(buffer)? {
                return Ok(read);
            }
            // Both before it can fail: a read that timed out is tried again, and nothing is fed twice.
            (self.start, self.end) = (0, 0);
            self.end = receive(&mut self.cipher)?;
            if self.end == 0 {
                // No goodbye came before it: the stream was cut, or its owner is careless.
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Plaintext, or `None` when more ciphertext is needed for any. Plaintext is taken out after each
    /// record that is fed in, since rustls refuses ciphertext while too much plaintext waits.
    fn decrypt(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let mut connection = self.tls.lock();
        loop {
            match connection.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other.map(Some),
            }
            if self.start == self.end {
                return Ok(None);
            }
            let mut rest = &self.cipher[self.start..self.end];
            self.start += connection.read_tls(&mut rest)?;
            connection
                .process_new_packets()
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        }
    }
}

#[derive(Debug)]
pub(super) struct Writing {
    tls: Arc<Tls>,
    cipher: Vec<u8>,
    /// How much of `cipher` is sent.
    sent: usize,
    /// Sending stalled after bytes had been taken; the next call says so.
    stalled: bool,
}

impl Writing {
    pub(super) fn new(tls: Arc<Tls>) -> Self {
        Writing { tls, cipher: Vec::new(), sent: 0, stalled: false }
    }

    /// Encrypts under the lock, then sends without it. May take only a part of the bytes. Bytes that
    /// are encrypted are taken, whether or not all of it could be sent at once.
    pub(super) fn write(&mut self, stream: &SystemSocket, bytes: &[u8], full: WhenFull) -> io::Result<usize> {
        self.flush(stream, full)?;
        let mut connection = self.tls.lock();
        let taken = connection.writer().write(bytes)?;
        take_cipher(&mut connection, &mut self.cipher)?;
        drop(connection);
        match self.send(stream, full) {
            // A write that does not wait stalls no time at all.
            Err(error) if error.kind() == io::ErrorKind::TimedOut => self.stalled = full == WhenFull::Wait,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            other => other?,
        }
        Ok(taken)
    }

    /// Sends what an earlier call left.
    pub(super) fn flush(&mut self, stream: &SystemSocket, full: WhenFull) -> io::Result<()> {
        if std::mem::take(&mut self.stalled) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.send(stream, full)
    }

    pub(super) fn finish(&mut self, stream: &SystemSocket) -> io::Result<()> {
        let mut connection = self.tls.lock();
        connection.send_close_notify();
        take_cipher(&mut connection, &mut self.cipher)?;
        drop(connection);
        self.send(stream, WhenFull::Wait)
    }

    /// Sends the ciphertext that waits. A time-out after some of it went out is `WouldBlock`.
    fn send(&mut self, stream: &SystemSocket, full: WhenFull) -> io::Result<()> {
        let before = self.sent;
        while self.sent < self.cipher.len() {
            match full.send(stream, &self.cipher[self.sent..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(sent) => self.sent += sent,
                Err(error) if error.kind() == io::ErrorKind::TimedOut && self.sent > before => {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                Err(error) => return Err(error),
            }
        }
        self.cipher.clear();
        self.sent = 0;
        Ok(())
    }
}

fn take_cipher(connection: &mut rustls::Connection, cipher: &mut Vec<u8>) -> io::Result<()> {
    while connection.wants_write() {
        connection.write_tls(cipher)?;
    }
    Ok(())
}
