//! Clients and servers that do one thing as fast as it goes.
//!
//! Decides what one operation is. Must not know who translates addresses in between. Invariant: an operation counts
//! when the other side has taken part in it.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;
use lb_tests::lab::Netns;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::machine;

/// Where pods serve.
pub(super) const POD_PORT: u16 = 8_080;
/// A connection that takes longer is a failure.
const LIMIT: Duration = Duration::from_secs(2);
const BACKLOG: i32 = 4_096;
const BULK: usize = 128 << 10;

/// What servers do with a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Mode {
    /// Close it.
    Close,
    /// Send back what comes.
    Echo,
    /// Take what comes.
    Sink,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// New connections, one after the other.
    Connections,
    /// One byte there and back on one connection.
    Requests,
    /// Datagrams one way, of 64 bytes.
    Datagrams,
    /// Bytes one way on one connection.
    Bytes,
}

/// What a load did, in one go or in several.
pub(super) struct Did {
    /// Connections, requests, datagrams that arrived, or bits.
    count: f64,
    /// How many of them processors' time is told for.
    unit: f64,
    seconds: f64,
    busy_seconds: f64,
    /// Nanoseconds of one operation, where it is one that ends.
    pub(super) latency: Option<Histogram<u64>>,
}

impl Did {
    /// How many operations.
    pub(super) fn count(&self) -> f64 {
        self.count
    }

    /// Operations a second.
    pub(super) fn rate(&self) -> f64 {
        self.count / self.seconds
    }

    /// Processors' time for an operation, in microseconds; for bytes, for a megabyte.
    pub(super) fn cpu_us(&self) -> f64 {
        self.busy_seconds * 1e6 / (self.count / self.unit).max(1.0)
    }

    /// The same load, gone on with.
    pub(super) fn add(&mut self, more: &Self) -> Result<()> {
        self.count += more.count;
        self.seconds += more.seconds;
        self.busy_seconds += more.busy_seconds;
        if let (Some(latency), Some(more)) = (&mut self.latency, &more.latency) {
            latency.add(more).context("adding up latencies")?;
        }
        Ok(())
    }
}

/// Servers in pods, for as long as this process lives.
#[derive(Clone, Default)]
pub(super) struct Servers {
    mode: Arc<AtomicU8>,
    datagrams: Arc<AtomicU64>,
    bytes: Arc<AtomicU64>,
}

impl Servers {
    /// Serves in a pod, TCP and UDP, until the process ends.
    pub(super) fn start(&self, netns: &Netns) -> Result<()> {
        let (tcp, udp) = netns.run(|| {
            let udp = UdpSocket::bind(("0.0.0.0", POD_PORT))?;
            let tcp = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
            tcp.bind(&SocketAddr::from(([0, 0, 0, 0], POD_PORT)).into())?;
            // A full backlog would show as connections of a second: SYNs that were lost.
            tcp.listen(BACKLOG)?;
            anyhow::Ok((TcpListener::from(tcp), udp))
        })?;
        let servers = self.clone();
        thread::Builder::new().name("accept".to_owned()).spawn(move || servers.accept(&tcp))?;
        let servers = self.clone();
        thread::Builder::new().name("receive".to_owned()).spawn(move || servers.receive(&udp))?;
        Ok(())
    }

    fn accept(&self, listener: &TcpListener) {
        pin_to_last();
        for stream in listener.incoming().flatten() {
            if self.mode.load(Ordering::Relaxed) != Mode::Close as u8 {
                let servers = self.clone();
                // Where no thread can be had, the client sees its connection close.
                let _ = thread::Builder::new().spawn(move || servers.serve(stream));
            }
        }
    }

    fn serve(&self, mut stream: TcpStream) {
        pin_to_last();
        let echo = self.mode.load(Ordering::Relaxed) == Mode::Echo as u8;
        let mut buffer = vec![0; BULK];
        let _ = stream.set_nodelay(true);
        while let Ok(count) = stream.read(&mut buffer) {
            if count == 0 || (echo && stream.write_all(&buffer[..count]).is_err()) {
                return;
            }
            self.bytes.fetch_add(count as u64, Ordering::Relaxed);
        }
    }

    fn receive(&self, socket: &UdpSocket) {
        pin_to_last();
        let mut buffer = [0; 2_048];
        while socket.recv_from(&mut buffer).is_ok() {
            self.datagrams.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Runs a load from a pod for a while; each connection goes to any of the targets, all else to the first.
    pub(super) fn measure(
        &self,
        client: &Netns,
        kind: Kind,
        targets: &[SocketAddr],
        length: Duration,
    ) -> Result<Did> {
        let target = *targets.first().context("a load needs somebody to dial")?;
        let mode = match kind {
            Kind::Connections => Mode::Close,
            Kind::Requests => Mode::Echo,
            Kind::Bytes | Kind::Datagrams => Mode::Sink,
        };
        self.mode.store(mode as u8, Ordering::Relaxed);
        client.run(|| {
            pin_to_first();
            match kind {
                Kind::Connections => connections(targets, length),
                Kind::Requests => requests(target, length),
                Kind::Datagrams => self.send_datagrams(target, length),
                Kind::Bytes => self.send_bytes(target, length),
            }
        })
    }

    fn send_datagrams(&self, target: SocketAddr, length: Duration) -> Result<Did> {
        let socket = UdpSocket::bind(("0.0.0.0", 0))?;
        socket.connect(target)?;
        let (before, clock) = (self.datagrams.load(Ordering::Relaxed), Clock::start());
        while clock.wall() < length {
            for _ in 0..64 {
                match socket.send(&[7; 64]) {
                    Err(error)
                        if error.kind() != ErrorKind::WouldBlock
                            && error.kind() != ErrorKind::ConnectionRefused =>
                    {
                        return Err(error).context("sending a datagram");
                    }
                    _ => {}
                }
            }
        }
        let arrived = || self.datagrams.load(Ordering::Relaxed) - before;
        if arrived() == 0 {
            // On a busy machine the receiver may not have run yet: that is slow, not wrong.
            lb_tests::poll::until("a datagram to arrive", LIMIT, || {
                if arrived() > 0 { Ok(()) } else { Err(format!("none of those to {target}")) }
            })?;
        }
        Ok(clock.done(arrived() as f64, 1.0, None))
    }

    fn send_bytes(&self, target: SocketAddr, length: Duration) -> Result<Did> {
        let mut stream = connect(target)?;
        let (before, clock, buffer) = (self.bytes.load(Ordering::Relaxed), Clock::start(), vec![0; BULK]);
        while clock.wall() < length {
            stream.write_all(&buffer).context("sending bytes")?;
        }
        let arrived = (self.bytes.load(Ordering::Relaxed) - before) as f64;
        let mut did = clock.done(arrived * 8.0, 8e6, None);
        did.latency = None;
        Ok(did)
    }
}

fn connections(targets: &[SocketAddr], length: Duration) -> Result<Did> {
    let (clock, mut latency, mut count) = (Clock::start(), histogram()?, 0u32);
    while clock.wall() < length {
        // In no order, as a load balancer chooses (Knuth's multiplicative hash).
        let any = count.wrapping_mul(2_654_435_769) >> 16;
        let target = targets[any as usize % targets.len()];
        let began = Instant::now();
        let stream = connect(target)?;
        latency.saturating_record(u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX));
        drop(stream);
        count += 1;
    }
    Ok(clock.done(count.into(), 1.0, Some(latency)))
}

fn requests(target: SocketAddr, length: Duration) -> Result<Did> {
    let mut stream = TcpStream::from(connect(target)?);
    stream.set_nodelay(true)?;
    let (clock, mut latency, mut count) = (Clock::start(), histogram()?, 0u32);
    let mut byte = [1];
    while clock.wall() < length {
        let began = Instant::now();
        stream.write_all(&byte).context("sending a request")?;
        stream.read_exact(&mut byte).context("reading the answer")?;
        latency.saturating_record(u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX));
        count += 1;
    }
    Ok(clock.done(count.into(), 1.0, Some(latency)))
}

/// A connection that ends by a reset, so that its port is free at once.
fn connect(target: SocketAddr) -> Result<Socket> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_linger(Some(Duration::ZERO))?;
    socket.set_write_timeout(Some(LIMIT))?;
    socket.set_read_timeout(Some(LIMIT))?;
    socket.connect(&SockAddr::from(target)).with_context(|| format!("connecting to {target}"))?;
    Ok(socket)
}

/// Nanoseconds, up to ten seconds.
fn histogram() -> Result<Histogram<u64>> {
    Histogram::new_with_bounds(100, 10_000_000_000, 3).context("a histogram")
}

/// Wall time and the processors' time since some moment.
struct Clock {
    began: Instant,
    busy: f64,
}

impl Clock {
    fn start() -> Self {
        Self { began: Instant::now(), busy: machine::busy_seconds() }
    }

    fn wall(&self) -> Duration {
        self.began.elapsed()
    }

    /// `count` of what the rate is in; processors' time is for each `unit` of it.
    fn done(&self, count: f64, unit: f64, latency: Option<Histogram<u64>>) -> Did {
        let busy_seconds = machine::busy_seconds() - self.busy;
        Did { count, unit, seconds: self.wall().as_secs_f64(), busy_seconds, latency }
    }
}

fn pin_to_first() {
    machine::pin(0);
}

fn pin_to_last() {
    machine::pin(thread::available_parallelism().map_or(0, |count| count.get() - 1));
}
