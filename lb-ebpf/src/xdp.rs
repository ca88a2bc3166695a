//! What differs at the XDP hook: how packet bytes are reached and changed, and how a route is asked for.
//!
//! Decides that checksums are updated in place, which is right here: what XDP sees of a device has whole checksums.
//! Must not decide which packets take the shortcut. Invariant: every access is checked against the packet's end, here.

use core::ffi::c_void;

use aya_ebpf::bindings::{xdp_action, xdp_md};
use aya_ebpf::helpers::generated::{bpf_fib_lookup, bpf_redirect};
use bytemuck::{Pod, Zeroable};
use lb_common::abi::{Macs, Verdict};
use lb_common::address::{V4, V6};
use lb_common::csum;
use lb_common::wire::{Bytes, Ethernet, Link};

use crate::forward::{self, Way};
use crate::maps;
use crate::packet::{Change, Checksum, Packet, Refused};

/// No header begins further in; tells the verifier a bound for offsets that come from memory.
const LAST_OFFSET: usize = 0x3fff;

/// Runs the shortcut on a frame; returns the hook's action.
#[inline(always)]
pub(crate) fn run(ctx: *mut xdp_md) -> u32 {
    let frame = Frame::of(ctx);
    let way = match Link::of_ethernet(&frame) {
        // A tagged frame would have to get its tag back on the way out.
        Link::V4(l3) if l3 == size_of::<Ethernet>() => forward::shortcut::<V4>(&frame, l3),
        Link::V6(l3) if l3 == size_of::<Ethernet>() => forward::shortcut::<V6>(&frame, l3),
        _ => Err(Verdict::ShortcutLeft),
    };
    match way {
        Ok(ifindex) => {
            maps::count(Verdict::ShortcutTaken);
            frame.send(ifindex)
        }
        Err(verdict) => {
            maps::count(verdict);
            if verdict == Verdict::ShortcutLeft { xdp_action::XDP_PASS } else { xdp_action::XDP_DROP }
        }
    }
}

/// A frame at the XDP hook. Where it begins and ends is read once, since nothing here moves it: so what was compared with
/// its end once need not be again.
#[derive(Clone, Copy)]
pub(crate) struct Frame {
    context: Context,
    start: usize,
    end: usize,
}

/// What the kernel called the program with.
#[derive(Clone, Copy)]
pub(crate) struct Context(*mut xdp_md);

impl Context {
    #[inline(always)]
    fn ifindex(self) -> u32 {
        // SAFETY: the context the kernel called the program with.
        unsafe { (*self.0).ingress_ifindex }
    }

    /// Asks the kernel's routes; `None` where they do not lead to a neighbour that is known.
    #[inline(always)]
    pub(crate) fn route(self, query: &Route) -> Option<Way> {
        let mut route = *query;
        route.ifindex = self.ifindex();
        let size = size_of::<Route>() as i32;
        // SAFETY: `Route` has the layout of the kernel's `struct bpf_fib_lookup`, and the helper reads and
        // writes no more than its size.
        let result = unsafe { bpf_fib_lookup(self.0.cast::<c_void>(), (&raw mut route).cast(), size, 0) };
        let way = Way {
            ifindex: route.ifindex,
            mtu: route.length_or_mtu.into(),
            macs: Macs::new(route.dst_mac, route.src_mac),
        };
        (result == 0).then_some(way)
    }
}

impl Frame {
    #[inline(always)]
    fn of(ctx: *mut xdp_md) -> Self {
        // SAFETY: the context the kernel called the program with.
        let (start, end) = unsafe { ((*ctx).data as usize, (*ctx).data_end as usize) };
        Self { context: Context(ctx), start, end }
    }

    /// What it came with.
    #[inline(always)]
    pub(crate) fn context(&self) -> Context {
        self.context
    }

    /// Where a `T` at `offset` stands; `None` where the frame ends before it does.
    #[inline(always)]
    fn at<T>(&self, offset: usize) -> Option<*mut T> {
        if offset > LAST_OFFSET {
            return None;
        }
        let at = self.start + offset;
        (at + size_of::<T>() <= self.end).then_some(at as *mut T)
    }

    /// Back out of the interface it came in by, or out of another.
    #[inline(always)]
    fn send(&self, ifindex: u32) -> u32 {
        if ifindex == self.ifindex() {
            return xdp_action::XDP_TX;
        }
        // SAFETY: a helper without pointers.
        unsafe { bpf_redirect(ifindex, 0) as u32 }
    }
}

/// The kernel's `struct bpf_fib_lookup` (include/uapi/linux/bpf.h): a question, and then its answer.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct Route {
    /// `AF_INET` or `AF_INET6`.
    pub family: u8,
    /// Its protocol.
    pub protocol: u8,
    /// Ports, for routes that ask for them.
    pub ports: [u16; 2],
    /// Bytes of the network packet, or 0; then the route's MTU (kernel commit e1850ea9bd9e).
    pub length_or_mtu: u16,
    /// Where it comes in; then where it leaves.
    pub ifindex: u32,
    /// Type of service, or IPv6 flow label; then the metric.
    pub tos: u32,
    /// Source address; of IPv4 the first word.
    pub src: [u32; 4],
    /// Destination address; then the next hop.
    pub dst: [u32; 4],
    /// VLAN of the way out.
    pub vlan: [u16; 2],
    /// Of the interface it leaves by.
    pub src_mac: [u16; 3],
    /// Of the next hop.
    pub dst_mac: [u16; 3],
}

const _: () = assert!(size_of::<Route>() == 64, "the kernel's structure is that long");

impl Bytes for Frame {
    #[inline(always)]
    fn read<T: Pod>(&self, offset: usize) -> Option<T> {
        // SAFETY: inside the frame, as `at` checked. The BPF machine allows misaligned loads, and every bit pattern is a `T`.
        self.at::<T>(offset).map(|at| unsafe { *at })
    }

    #[inline(always)]
    fn len(&self) -> usize {
        self.end - self.start
    }
}

impl Packet for Frame {
    #[inline(always)]
    fn store<T: Pod>(&self, offset: usize, value: &T) -> Result<(), Refused> {
        let at = self.at::<T>(offset).ok_or(Refused)?;
        // SAFETY: inside the frame, as `at` checked.
        unsafe { *at = *value };
        Ok(())
    }

    #[inline(always)]
    fn update_ip_checksum(&self, offset: usize, old: u32, new: u32) -> Result<(), Refused> {
        let sum = self.read::<u16>(offset).ok_or(Refused)?;
        self.store(offset, &csum::update_sum(sum, csum::difference(old.into(), new.into(), 1)))
    }

    #[inline(always)]
    fn update_checksum(&self, at: Checksum, change: Change) -> Result<(), Refused> {
        let sum = self.read::<u16>(at.offset).ok_or(Refused)?;
        if at.udp && sum == 0 {
            return Ok(());
        }
        let difference = match change {
            Change::PseudoHeader(old, new) | Change::Word(old, new) => {
                csum::difference(old.into(), new.into(), 1)
            }
            Change::PseudoHeaderDiff(difference) | Change::Diff(difference) => {
                difference as u64 & 0xffff_ffff
            }
        };
        let sum = csum::update_sum(sum, difference);
        self.store(at.offset, &if at.udp { csum::udp_nonzero(sum) } else { sum })
    }

    #[inline(always)]
    fn may_be_the_kernels(&self) -> bool {
        false
    }

    #[inline(always)]
    fn is_to_be_cut(&self) -> bool {
        false
    }

    #[inline(always)]
    fn replace<T: Pod>(&self, offset: usize, value: &T) -> Result<(), Refused> {
        self.store(offset, value)
    }

    #[inline(always)]
    fn resize(&self, _len: usize) -> Result<(), Refused> {
        Err(Refused)
    }

    #[inline(always)]
    fn vouch(&self) {}

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        self.context.ifindex()
    }
}
