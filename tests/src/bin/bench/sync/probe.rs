//! When the first packet goes to a new backend.
//!
//! A client sends datagrams, each of a socket of its own and hence a flow of its own, every few microseconds while
//! somebody waits for the backend to change. Decides how that is noticed. Must not know who brings the change about.
//! Invariant: a moment that is told is one at which a datagram that arrived at the new backend had been sent.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use lb_tests::lab::Netns;

use crate::machine;

/// Between two datagrams.
const PAUSE: Duration = Duration::from_micros(40);
/// Datagrams whose time is remembered; more than are sent while one waits.
const RING: usize = 1 << 16;
/// What a change may take.
pub(super) const LIMIT: Duration = Duration::from_secs(10);
/// Between two looks at what has arrived.
const LOOK: Duration = Duration::from_micros(150);
/// A receiver looks whether it is to end.
const POLL: Duration = Duration::from_millis(200);

struct Shared {
    began: Instant,
    stop: AtomicBool,
    armed: AtomicBool,
    /// When datagram `n` had been sent, in nanoseconds since `began`, at `n` modulo the ring.
    sent: Vec<AtomicU64>,
    /// The number of the first datagram that each backend got since it was asked; 0 for none.
    first: [AtomicU64; 2],
}

/// A client and two backends. Ends when dropped.
pub(super) struct Probe {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Probe {
    /// Starts sending from `client` to `target`, which leads to one of the backends' sockets, of this port.
    pub(super) fn start(
        client: &Netns,
        target: SocketAddr,
        backends: [&Netns; 2],
        port: u16,
    ) -> Result<Self> {
        let shared = Arc::new(Shared {
            began: Instant::now(),
            stop: AtomicBool::new(false),
            armed: AtomicBool::new(false),
            sent: (0..RING).map(|_| AtomicU64::new(0)).collect(),
            first: Default::default(),
        });
        let mut probe = Self { shared, threads: Vec::new() };
        for (index, netns) in backends.into_iter().enumerate() {
            let shared = Arc::clone(&probe.shared);
            let socket = netns.run(|| UdpSocket::bind(("0.0.0.0", port)))?;
            socket.set_read_timeout(Some(POLL))?;
            probe.threads.push(netns.spawn("receive", move || {
                shared.receive(&socket, index);
                Ok(())
            })?);
        }
        let shared = Arc::clone(&probe.shared);
        probe.threads.push(client.spawn("probe", move || shared.send(target))?);
        Ok(probe)
    }

    /// Runs `change`, after which packets are to go to backend `to`, and says when the first of them had been sent;
    /// `None` where none was within [`LIMIT`].
    pub(super) fn wait_for(&self, to: usize, change: impl FnOnce() -> Result<()>) -> Result<Option<Instant>> {
        let shared = &self.shared;
        shared.first[to].store(0, Ordering::Release);
        shared.armed.store(true, Ordering::Release);
        for thread in &self.threads {
            thread.thread().unpark();
        }
        change()?;
        let began = Instant::now();
        let number = loop {
            let number = shared.first[to].load(Ordering::Acquire);
            if number > 0 {
                break number;
            }
            ensure!(!self.threads.iter().any(JoinHandle::is_finished), "the probe's sender ended too soon");
            if began.elapsed() > LIMIT {
                shared.armed.store(false, Ordering::Release);
                return Ok(None);
            }
            std::thread::sleep(LOOK);
        };
        shared.armed.store(false, Ordering::Release);
        let slot = &shared.sent[ring(number)];
        let nanos = loop {
            // It arrives before its sender is told that it was sent.
            match slot.load(Ordering::Acquire) {
                0 => std::thread::yield_now(),
                nanos => break nanos,
            }
        };
        Ok(Some(shared.began + Duration::from_nanos(nanos)))
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            thread.thread().unpark();
            // Its own error, if any, made the measurement fail already.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn send(&self, target: SocketAddr) -> Result<()> {
        machine::pin(0);
        nix::sys::prctl::set_timerslack(1).context("asking for exact sleeps")?;
        let mut number: u64 = 0;
        while !self.stop.load(Ordering::Acquire) {
            if !self.armed.load(Ordering::Acquire) {
                std::thread::park_timeout(POLL);
                continue;
            }
            number += 1;
            let slot = &self.sent[ring(number)];
            slot.store(0, Ordering::Release);
            let socket = UdpSocket::bind(("0.0.0.0", 0)).context("a socket for a datagram")?;
            // One that is refused while the backend changes is one that has not arrived.
            let _ = socket.send_to(&number.to_be_bytes(), target);
            let now = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
            slot.store(now.max(1), Ordering::Release);
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    fn receive(&self, socket: &UdpSocket, index: usize) {
        machine::pin(0);
        let mut bytes = [0; 8];
        while !self.stop.load(Ordering::Acquire) {
            if socket.recv(&mut bytes).is_ok_and(|count| count == bytes.len()) {
                let number = u64::from_be_bytes(bytes);
                // Only the first one counts.
                let _ = self.first[index].compare_exchange(0, number, Ordering::AcqRel, Ordering::Relaxed);
            }
        }
    }
}

fn ring(number: u64) -> usize {
    usize::try_from(number).unwrap_or(0) % RING
}
