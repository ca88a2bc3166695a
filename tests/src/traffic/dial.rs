//! One exchange with an echo server, by TCP or UDP.
//!
//! Decides how a client dials, what it sends and what it accepts as the answer; must not know how
//! often that is done. Invariant: a reply names the backend and the source the backend saw.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

use super::failure::{Failure, FailureKind};
use crate::lab::Netns;

/// What a TCP client sends once it is connected, and wants back.
const QUESTION: &[u8] = b"is it me you are looking for";

/// Longest first line of a server: a name, an address, a port.
const BANNER_MAX: usize = 300;

/// Digits of a datagram's number.
const NUMBER_MAX: usize = 20;

/// Makes each datagram's payload differ from every other's of this process.
static DATAGRAMS: AtomicU64 = AtomicU64::new(0);

/// What an exchange that succeeded brought to light.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Name of the server that answered.
    pub backend: String,
    /// The client as the server saw it.
    pub seen_source: SocketAddr,
    /// The client as it sees itself.
    pub source: SocketAddr,
    /// Until the connection was established; for UDP the same as `total`.
    pub connect_time: Duration,
    /// Until the answer was complete; the closing of the connection is not counted.
    pub total: Duration,
}

/// How a client dials. Then [`Dial::tcp`] or [`Dial::udp`] does it, once.
#[derive(Clone, Debug)]
pub struct Dial {
    to: SocketAddr,
    limit: Duration,
    source: Option<IpAddr>,
    source_port: u16,
    reset_on_close: bool,
    size: usize,
}

impl Dial {
    /// Dials this address, with a second for the whole exchange and any source port.
    pub fn to(address: SocketAddr) -> Self {
        let limit = Duration::from_secs(1);
        Self { to: address, limit, source: None, source_port: 0, reset_on_close: false, size: 0 }
    }

    /// How long the exchange may take in all.
    pub fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Dials from this port, also if an earlier connection from it is in TIME_WAIT.
    pub fn from_port(mut self, port: u16) -> Self {
        self.source_port = port;
        self
    }

    /// Dials from this address, which must be one of the client's own.
    pub fn from_address(mut self, address: IpAddr) -> Self {
        self.source = Some(address);
        self
    }

    /// Ends the connection by a reset (SO_LINGER with zero seconds), so that it leaves no TIME_WAIT.
    pub fn reset_on_close(mut self) -> Self {
        self.reset_on_close = true;
        self
    }

    /// Sends so many bytes, and wants as many back: over TCP in one stream, over UDP in one datagram.
    /// A few by default.
    pub fn sending(mut self, bytes: usize) -> Self {
        self.size = bytes;
        self
    }

    /// The address that is dialled.
    pub fn target(&self) -> SocketAddr {
        self.to
    }

    /// Connects from within `netns`, reads the server's name, sends a line and waits for its echo,
    /// and closes.
    pub fn tcp(&self, netns: &Netns) -> Result<Reply, Failure> {
        inside(netns, self.tcp_exchange())
    }

    /// Connects and reads the server's name only; the connection is the caller's (blocking).
    pub fn tcp_stream(&self, netns: &Netns) -> Result<(std::net::TcpStream, Reply), Failure> {
        inside(netns, async {
            let (stream, reply) = self.in_time(self.greeted()).await?;
            let stream = stream.into_std().and_then(|stream| {
                stream.set_nonblocking(false)?;
                Ok(stream)
            });
            Ok((stream.map_err(|error| Failure::from_io("hand over the connection", &error))?, reply))
        })
    }

    /// Sends one datagram from within `netns` and waits for its answer.
    pub fn udp(&self, netns: &Netns) -> Result<Reply, Failure> {
        inside(netns, self.udp_exchange())
    }

    pub(super) async fn tcp_exchange(&self) -> Result<Reply, Failure> {
        self.in_time(async {
            let start = Instant::now();
            let (mut stream, mut reply) = self.greeted().await?;
            self.echo(&mut stream, &self.question()).await?;
            reply.total = start.elapsed();
            self.close(stream).await?;
            Ok(reply)
        })
        .await
    }

    pub(super) async fn udp_exchange(&self) -> Result<Reply, Failure> {
        let socket = self.udp_socket().await?;
        let start = Instant::now();
        let mut reply = self.ask(&socket).await?;
        reply.total = start.elapsed();
        reply.connect_time = reply.total;
        Ok(reply)
    }

    /// A connected UDP socket. Being connected it learns of ICMP errors, and takes answers from the
    /// dialled address only.
    pub(super) async fn udp_socket(&self) -> Result<UdpSocket, Failure> {
        let opened = async {
            let socket = UdpSocket::bind((self.source(), self.source_port)).await?;
            socket.connect(self.to).await?;
            Ok(socket)
        };
        opened.await.map_err(|error| self.failed("open a socket for", &error))
    }

    /// Sends a new datagram and waits for the answer to it; answers to earlier ones are dropped.
    pub(super) async fn ask(&self, socket: &UdpSocket) -> Result<Reply, Failure> {
        let number = DATAGRAMS.fetch_add(1, Ordering::Relaxed);
        let payload = format!("{number:0size$}", size = self.size);
        self.in_time(async {
            socket.send(payload.as_bytes()).await.map_err(|error| self.failed("send to", &error))?;
            let mut buffer = vec![0; BANNER_MAX + NUMBER_MAX + self.size];
            loop {
                let count = socket
                    .recv(&mut buffer)
                    .await
                    .map_err(|error| self.failed("wait for the answer of", &error))?;
                let text = String::from_utf8_lossy(buffer.get(..count).unwrap_or_default());
                let Some((banner, echoed)) = text.rsplit_once(' ') else {
                    return Err(self.nonsense(&text));
                };
                if echoed == payload {
                    let source =
                        socket.local_addr().map_err(|error| self.failed("look at socket for", &error))?;
                    return self.reply(banner, source, Duration::ZERO);
                }
            }
        })
        .await
    }

    /// Connects and reads the banner.
    pub(super) async fn greeted(&self) -> Result<(TcpStream, Reply), Failure> {
        let start = Instant::now();
        let mut stream = self.connect().await.map_err(|error| self.failed("connect to", &error))?;
        let connect_time = start.elapsed();
        let mut banner = Vec::new();
        // Byte by byte, so that nothing of what follows the banner is taken: the line is short.
        while banner.last() != Some(&b'\n') {
            let byte = stream.read_u8().await.map_err(|error| self.failed("read the banner of", &error))?;
            banner.push(byte);
            if banner.len() > BANNER_MAX {
                return Err(self.nonsense(&String::from_utf8_lossy(&banner)));
            }
        }
        let source = stream.local_addr().map_err(|error| self.failed("look at the connection to", &error))?;
        let reply = self.reply(String::from_utf8_lossy(&banner).trim_end(), source, connect_time)?;
        Ok((stream, Reply { total: start.elapsed(), ..reply }))
    }

    async fn connect(&self) -> io::Result<TcpStream> {
        let socket = if self.to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if self.source_port != 0 || self.source.is_some() {
            socket.set_reuseaddr(true)?;
            socket.bind((self.source(), self.source_port).into())?;
        }
        let stream = socket.connect(self.to).await?;
        stream.set_nodelay(true)?;
        if self.reset_on_close {
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        }
        Ok(stream)
    }

    /// Sends `bytes` and reads as many back, which must be the same.
    pub(super) async fn echo(&self, stream: &mut TcpStream, bytes: &[u8]) -> Result<(), Failure> {
        let mut back = vec![0; bytes.len()];
        let (mut reader, mut writer) = stream.split();
        // Both at once: where there is more than buffers hold, the server stops reading until it is read.
        let (written, read) = tokio::join!(writer.write_all(bytes), reader.read_exact(&mut back));
        written.map_err(|error| self.failed("write to", &error))?;
        read.map_err(|error| self.failed("read the echo of", &error))?;
        if back == bytes { Ok(()) } else { Err(self.nonsense(&String::from_utf8_lossy(&back))) }
    }

    /// Closes in order, both sides, unless it is to be by reset.
    pub(super) async fn close(&self, mut stream: TcpStream) -> Result<(), Failure> {
        if self.reset_on_close {
            return Ok(());
        }
        stream.shutdown().await.map_err(|error| self.failed("close the connection to", &error))?;
        let rest =
            stream.read(&mut [0; 1]).await.map_err(|error| self.failed("wait for the end of", &error))?;
        if rest == 0 { Ok(()) } else { Err(self.nonsense("more than was asked for")) }
    }

    pub(super) async fn in_time<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        tokio::time::timeout(self.limit, work).await.unwrap_or_else(|_elapsed| {
            Err(Failure::new(FailureKind::Timeout, format!("{}: no answer within {:?}", self.to, self.limit)))
        })
    }

    fn question(&self) -> Vec<u8> {
        QUESTION.iter().copied().cycle().take(self.size.max(QUESTION.len())).collect()
    }

    /// The address to bind to: the one asked for, or any.
    fn source(&self) -> IpAddr {
        let any = if self.to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        self.source.unwrap_or(any)
    }

    fn failed(&self, doing: &str, error: &io::Error) -> Failure {
        Failure::from_io(&format!("{doing} {}", self.to), error)
    }

    fn nonsense(&self, text: &str) -> Failure {
        Failure::new(FailureKind::Other, format!("{} answered what no echo server says: {text:?}", self.to))
    }

    /// Reads `name peer_ip peer_port`.
    fn reply(&self, banner: &str, source: SocketAddr, connect_time: Duration) -> Result<Reply, Failure> {
        let mut words = banner.split(' ');
        let parsed = (|| {
            let backend = words.next()?.to_owned();
            let address: IpAddr = words.next()?.parse().ok()?;
            Some((backend, SocketAddr::new(address, words.next()?.parse().ok()?)))
        })();
        let Some((backend, seen_source)) = parsed else { return Err(self.nonsense(banner)) };
        Ok(Reply { backend, seen_source, source, connect_time, total: connect_time })
    }
}

/// Dials `address` by TCP once from within `netns`; `limit` is for the whole exchange.
pub fn tcp_once(netns: &Netns, address: SocketAddr, limit: Duration) -> Result<Reply, Failure> {
    Dial::to(address).within(limit).tcp(netns)
}

/// Sends one datagram to `address` from within `netns` and waits for the answer for `limit`.
pub fn udp_once(netns: &Netns, address: SocketAddr, limit: Duration) -> Result<Reply, Failure> {
    Dial::to(address).within(limit).udp(netns)
}

fn inside<T: Send>(
    netns: &Netns,
    work: impl Future<Output = Result<T, Failure>> + Send,
) -> Result<T, Failure> {
    netns.run(|| {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::from_io("make a runtime", &error))?
            .block_on(work)
    })
}
