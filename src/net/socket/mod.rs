//! A socket that one thread reads while another writes, plain or with TLS, and no lock over I/O.
//!
//! A plain socket is read and written through shared references, so there is nothing to lock. rustls has
//! one object for both directions; it is locked only to move bytes in memory, never over a system call.
//! The reading half never writes: what rustls wants to send because of what it read goes out with the next
//! write.

#[cfg(feature = "tls")]
mod tls;

mod system;
mod timeouts;
mod traffic;
mod when_full;
mod write_half;

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use self::system::SystemSocket;
use self::timeouts::SetTimeout;
#[cfg(feature = "tls")]
use self::tls::Tls;
pub use self::traffic::Traffic;
pub(crate) use self::when_full::CAN_WRITE_WITHOUT_WAITING;
pub use self::write_half::WriteHalf;
use super::tls::{ClientTls, ServerTls};
use crate::clock::SharedInstant;

/// The bytes that the kernel may hold unsent before a write waits; those under way come on top.
pub(crate) const UNSENT_FAST: u32 = 128 << 10;

/// Unsent bytes in the kernel of a slow connection, where all of them delay what comes behind them.
pub(crate) const UNSENT_SLOW: u32 = 16 << 10;

/// How long, and for how many bytes, a client whose TLS handshake was refused is still heard out.
#[cfg(feature = "tls")]
const REFUSAL_LINGER: (Duration, usize) = (Duration::from_secs(1), 64 << 10);

/// After this long without a byte the system asks whether the other side is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// A connected socket. While it is whole it reads and writes; once [`split`](Self::split) it only reads,
/// and drops what is written to it, since the writing half alone decides what goes out.
#[derive(Debug)]
pub struct Socket {
    stream: Arc<SystemSocket>,
    #[cfg(feature = "tls")]
    tls: Option<tls::Reading>,
    write: Option<WriteHalf>,
    closed: Arc<AtomicBool>,
    heard: Arc<SharedInstant>,
    traffic: Arc<Traffic>,
    deadline: Option<Instant>,
    read_timeout: SetTimeout,
}

/// Ends a connection from any thread: blocked reads and writes return at once, with an error.
#[derive(Debug, Clone)]
pub struct Closer {
    stream: Arc<SystemSocket>,
    /// Set by a local close: an end of file after it is not the peer's.
    closed: Arc<AtomicBool>,
}

impl Closer {
    /// Shuts both directions down.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        // An error means that it is closed already.
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// Lets blocked and further reads find the end, as if the other side had said its last; it can still be told something.
    pub fn stop_reading(&self) {
        let _ = self.stream.shutdown(Shutdown::Read);
    }

    /// Resets the connection (RST by SO_LINGER 0), which the peer cannot take for a clean end: blocked reads return
    /// at once, and the reset goes out when the last owner of the socket drops it.
    pub fn abort(&self) {
        self.closed.store(true, Ordering::SeqCst);
        let _ = self.stream.settings().set_linger(Some(Duration::ZERO));
        let _ = self.stream.shutdown(Shutdown::Read);
    }
}

impl Socket {
    /// A plain socket.
    pub fn plain(tcp: TcpStream) -> io::Result<Self> {
        // Without it, small frames wait up to 40 ms for an acknowledgement.
        tcp.set_nodelay(true)?;
        let socket = Socket::over(SystemSocket::Tcp(tcp));
        keep_unsent(&socket.stream, UNSENT_FAST);
        Ok(socket)
    }

    /// A Unix socket.
    #[cfg(unix)]
    pub fn unix(unix: std::os::unix::net::UnixStream) -> Self {
        Socket::over(SystemSocket::Unix(unix))
    }

    fn over(stream: SystemSocket) -> Self {
        let stream = Arc::new(stream);
        let traffic = Arc::<Traffic>::default();
        let write = WriteHalf {
            stream: stream.clone(),
            traffic: traffic.clone(),
            timeout: SetTimeout::default(),
            #[cfg(feature = "tls")]
            tls: None,
        };
        Socket {
            stream,
            #[cfg(feature = "tls")]
            tls: None,
            write: Some(write),
            closed: Arc::default(),
            heard: Arc::new(SharedInstant::new()),
            traffic,
            deadline: None,
            read_timeout: SetTimeout::default(),
        }
    }

    /// Opens TLS as the client of the server with this name, which goes out as SNI and must be in its
    /// certificate.
    #[cfg(feature = "tls")]
    pub fn start_tls(mut self, name: &str, config: &ClientTls) -> io::Result<Self> {
        let name = rustls::pki_types::ServerName::try_from(name.to_owned())
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "not a name that TLS can verify"))?;
        let connection = rustls::ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
        let mut connection = connection.into();
        self.shake_hands(&mut connection)?;
        Ok(self.with_tls(connection))
    }

    /// The certificate of a TLS server at the other side, as it is on the wire (DER).
    #[cfg(feature = "tls")]
    pub(crate) fn certificate(&self) -> Option<Vec<u8>> {
        self.tls.as_ref().and_then(tls::Reading::certificate)
    }

    /// Opens TLS as the server.
    #[cfg(feature = "tls")]
    pub fn accept_tls(mut self, config: &ServerTls) -> io::Result<Self> {
        let connection = rustls::ServerConnection::new(config.clone()).map_err(io::Error::other)?;
        let mut connection = connection.into();
        if let Err(error) = self.shake_hands(&mut connection) {
            // So that the client reads why before it learns of the end.
            let (time, bytes) = REFUSAL_LINGER;
            if self.finish().and_then(|()| self.set_deadline(Some(Instant::now() + time))).is_ok() {
                self.discard(bytes);
            }
            return Err(error);
        }
        Ok(self.with_tls(connection))
    }

    #[cfg(feature = "tls")]
    fn shake_hands(&mut self, connection: &mut rustls::Connection) -> io::Result<()> {
        while connection.is_handshaking() {
            connection.complete_io(self)?;
        }
        // The last flight may still wait to be sent.
        while connection.wants_write() {
            connection.write_tls(self)?;
        }
        Ok(())
    }

    #[cfg(feature = "tls")]
    fn with_tls(mut self, connection: rustls::Connection) -> Self {
        let shared = Arc::new(Tls::new(connection));
        self.tls = Some(tls::Reading::new(shared.clone()));
        if let Some(write) = &mut self.write {
            write.tls = Some(tls::Writing::new(shared));
        }
        self
    }

    /// Opens TLS, which this build does not have.
    #[cfg(not(feature = "tls"))]
    pub fn start_tls(self, _name: &str, config: &ClientTls) -> io::Result<Self> {
        match *config {}
    }

    /// Opens TLS, which this build does not have.
    #[cfg(not(feature = "tls"))]
    pub fn accept_tls(self, config: &ServerTls) -> io::Result<Self> {
        match *config {}
    }

    /// Lets every read and write fail with [`io::ErrorKind::TimedOut`] once this time has come; `None` lets
    /// them wait for ever. For one thread that has the whole socket.
    pub fn set_deadline(&mut self, deadline: Option<Instant>) -> io::Result<()> {
        self.deadline = deadline;
        if deadline.is_none() {
            self.set_read_timeout(None)?;
            if let Some(write) = &self.write {
                write.timeout.set(None, |timeout| self.stream.set_write_timeout(timeout))?;
            }
        }
        Ok(())
    }

    /// Lets a read fail when nothing comes for this long, or wait for ever.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.read_timeout.set(timeout, |timeout| self.stream.set_read_timeout(timeout))
    }

    /// Reads what is there. `None` when that is nothing: under TLS there may be bytes on the socket that
    /// hold nothing to read. For one thread that has the whole socket.
    pub fn read_available(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        self.stream.settings().set_nonblocking(true)?;
        let read = self.read(buffer);
        self.stream.settings().set_nonblocking(false)?;
        match read {
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Ok(None),
            other => other.map(Some),
        }
    }

    /// Whether nothing has come that could be read, and the other side has not ended. For one thread that
    /// has the reading half.
    pub fn check_quiet(&mut self) -> bool {
        #[cfg(target_os = "linux")]
        if !self.is_tls() {
            // One system call instead of three.
            const PEEK_DONT_WAIT: i32 = 0x02 | 0x40;
            let mut byte = [std::mem::MaybeUninit::uninit()];
            let peeked = self.stream.settings().recv_with_flags(&mut byte, PEEK_DONT_WAIT);
            return peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        }
        matches!(self.read_available(&mut [0]), Ok(None))
    }

    /// Whether the connection is encrypted.
    pub fn is_tls(&self) -> bool {
        #[cfg(feature = "tls")]
        return self.tls.is_some();
        #[cfg(not(feature = "tls"))]
        false
    }

    /// Lets the system find out by itself when the other side is gone without a word.
    pub fn keep_alive(&self) -> io::Result<()> {
        let probes = socket2::TcpKeepalive::new().with_time(KEEP_ALIVE).with_interval(KEEP_ALIVE / 4);
        match self.stream.tcp() {
            Some(tcp) => socket2::SockRef::from(tcp).set_tcp_keepalive(&probes),
            // The system knows it at once.
            None => Ok(()),
        }
    }

    /// Gives the writing half away. `None` when that has happened already.
    pub fn split(&mut self) -> Option<WriteHalf> {
        self.write.take()
    }

    /// When a byte was last received.
    pub fn heard(&self) -> Arc<SharedInstant> {
        self.heard.clone()
    }

    /// How much the connection has moved.
    pub fn traffic(&self) -> Arc<Traffic> {
        self.traffic.clone()
    }

    /// A handle that ends the connection.
    pub fn closer(&self) -> Closer {
        Closer { stream: self.stream.clone(), closed: self.closed.clone() }
    }

    /// Where the other end is.
    pub fn peer(&self) -> io::Result<SocketAddr> {
        self.stream.peer_addr()
    }

    /// Ends the writing direction; reading goes on.
    pub fn finish(&mut self) -> io::Result<()> {
        self.write.as_mut().map_or(Ok(()), WriteHalf::finish)
    }

    /// Reads and throws away raw bytes until the other side ends or the deadline has come, at most `max` of
    /// them. So a reset does not overtake what was sent last.
    pub fn discard(&mut self, max: usize) {
        let mut buffer = [0; 16 << 10];
        let mut remaining = max;
        while remaining > 0 {
            match self.receive(&mut buffer) {
                Ok(0) | Err(_) => return,
                Ok(read) => remaining = remaining.saturating_sub(read),
            }
        }
    }

    fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(deadline) = self.deadline {
            self.read_timeout.read_until(&self.stream, deadline)?;
        }
        let read = retry(|| (&*self.stream).read(buffer))?;
        match read {
            0 if self.closed.load(Ordering::SeqCst) => return Err(io::ErrorKind::ConnectionAborted.into()),
            0 => {}
            _ => {
                self.heard.set_now();
                self.traffic.add_received(read);
            }
        }
        Ok(read)
    }
}

/// Keeps what the kernel holds back unsent small, so that what is written is on its way, and a write that
/// waits goes on as soon as the other side reads. Where the system has no such setting, it is as it is.
fn keep_unsent(stream: &SystemSocket, max: u32) {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let _ = stream.tcp().map(|tcp| socket2::SockRef::from(tcp).set_tcp_notsent_lowat(max));
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = (stream, max);
}

/// Whether [`keep_unsent`] has an effect on this system.
pub(crate) const KEEPS_UNSENT: bool = cfg!(any(target_os = "linux", target_os = "android"));

/// Repeats a system call that a signal interrupted, and calls a socket's time-out by its name.
fn retry(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::ErrorKind::TimedOut.into());
            }
            other => return other,
        }
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        #[cfg(feature = "tls")]
        if let Some(mut tls) = self.tls.take() {
            let result = tls.read(buffer, |cipher| self.receive(cipher));
            self.tls = Some(tls);
            return result;
        }
        self.receive(buffer)
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(write) = &mut self.write else {
            // Discards tungstenite's automatic pongs and close replies; the writer sends ours.
            return Ok(bytes.len());
        };
        if let Some(deadline) = self.deadline {
            write.timeout.write_until(&self.stream, deadline)?;
        }
        write.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.write.as_mut().map_or(Ok(()), Write::flush)
    }
}
