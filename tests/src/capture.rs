//! Frames seen on an interface.
//!
//! Decides what is kept: frames of one interface, both directions, that a filter accepts, up to a
//! limit. Must not know what they mean. Invariant: a frame that passes after `start` has returned
//! is seen (unless more come than the socket's buffer holds, which `lost` tells).
//!
//! A packet socket taps before tc ingress and after tc egress: what comes in is seen as the wire
//! brought it, what goes out as the programs left it. A local sender's checksums are seen
//! unfinished unless its offload is switched off.

use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use etherparse::SlicedPacket;
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, recvmsg, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::lab::Netns;

/// How often the thread looks whether it is to stop.
const STOP_LATENCY_MS: i64 = 20;

/// Room for frames that wait to be read, in bytes.
const SOCKET_BUFFER: usize = 16 << 20;

/// Frames that are read at most when the capture is told to stop.
const FRAMES_AFTER_STOP: usize = 20_000;

/// Larger than any frame, GSO ones included.
const FRAME_MAX: usize = 1 << 18;

/// A capture under way. Stops when dropped.
#[derive(Debug)]
pub struct Capture {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    frames: Mutex<Vec<Vec<u8>>>,
    lost: AtomicU64,
    stop: AtomicBool,
}

impl Capture {
    /// Captures on `interface` in `netns` the first `limit` frames that `filter` accepts.
    ///
    /// Frames that etherparse cannot slice are not offered to the filter.
    pub fn start(
        netns: &Netns,
        interface: &str,
        limit: usize,
        filter: impl FnMut(&SlicedPacket<'_>) -> bool + Send + 'static,
    ) -> Result<Self> {
        let place = || format!("capture on {interface} in {}", netns.name());
        let (socket, index) = netns.run(|| open(interface)).with_context(place)?;
        let shared = Arc::new(Shared::default());
        let inside = Arc::clone(&shared);
        let thread = netns
            .spawn("capture", move || collect(&socket, index, limit, filter, &inside))
            .with_context(place)?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// The frames so far, oldest first, each from its Ethernet header on.
    pub fn frames(&self) -> Vec<Vec<u8>> {
        self.shared.frames.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Frames that the filter accepted when the limit was reached already.
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }

    /// Stops and returns the frames.
    pub fn stop(mut self) -> Vec<Vec<u8>> {
        self.end();
        self.frames()
    }

    fn end(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.end();
    }
}

fn open(interface: &str) -> Result<(OwnedFd, u32)> {
    let index = if_nametoindex(interface).with_context(|| format!("find interface {interface}"))?;
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)
        .context("open a packet socket; this needs root")?;
    setsockopt(&socket, sockopt::RcvBufForce, &SOCKET_BUFFER)
        .context("enlarge the packet socket's buffer")?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(STOP_LATENCY_MS))
        .context("set the packet socket's timeout")?;
    Ok((socket, index))
}

/// The socket hears every interface of the namespace; the others' frames are passed over here,
/// since binding it to one cannot be said in safe code.
fn collect(
    socket: &OwnedFd,
    index: u32,
    limit: usize,
    mut filter: impl FnMut(&SlicedPacket<'_>) -> bool,
    shared: &Shared,
) {
    let mut buffer = vec![0; FRAME_MAX];
    // Once it is told to stop it reads on until the socket has run dry, so that what has passed is
    // not missed; but not for ever, since others may go on sending.
    let mut after_stop = 0;
    while after_stop < FRAMES_AFTER_STOP {
        after_stop += usize::from(shared.stop.load(Ordering::Relaxed));
        let mut into = [IoSliceMut::new(&mut buffer)];
        let received = recvmsg::<LinkAddr>(socket.as_raw_fd(), &mut into, None, MsgFlags::empty())
            .map(|message| (message.bytes, message.address));
        let (count, from) = match received {
            Ok((count, Some(from))) => (count, from),
            Ok((_, None)) | Err(Errno::EINTR) => continue,
            Err(_) if shared.stop.load(Ordering::Relaxed) => return,
            // EAGAIN is the timeout; ENETDOWN that some interface went down.
            Err(Errno::EAGAIN | Errno::ENETDOWN) => continue,
            Err(_) => return,
        };
        let frame = buffer.get(..count).unwrap_or_default();
        if from.ifindex() != index as usize
            || !SlicedPacket::from_ethernet(frame).is_ok_and(|packet| filter(&packet))
        {
            continue;
        }
        let mut frames = shared.frames.lock().unwrap_or_else(PoisonError::into_inner);
        if frames.len() < limit {
            frames.push(frame.to_vec());
        } else {
            shared.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}
