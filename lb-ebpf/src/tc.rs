//! What differs at a traffic-control hook: how packet bytes are reached and changed.
//!
//! Decides the helpers, so that partial, complete and software checksums all stay right (C42).
//! Must not decide verdicts. Invariant: every read is checked against the packet's end, here.

use aya_ebpf::bindings::{__sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM};
use aya_ebpf::helpers::generated::{
    bpf_l3_csum_replace, bpf_l4_csum_replace, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes,
};
use bytemuck::Pod;
use lb_common::abi::{Hook, Verdict};
use lb_common::address::{V4, V6};
use lb_common::wire::{Bytes, Ethernet, Link};

use crate::maps::Family;
use crate::packet::{Change, Checksum, Packet, Refused};
use crate::service::Side;
use crate::{destination, source, stranger, verdict};

/// Tells the checksum helper that the pseudo-header is IPv6's (kernel commit 6043b794c766); a kernel
/// without it answers EINVAL.
const BPF_F_IPV6: u64 = 1 << 7;

/// The bit of a packet's `tc_index` that says it was vouched for. The kernel carries that number along with a packet, also
/// through forwarding, fragments and clones; other programs that use it take its low bits.
const VOUCHED: u32 = 1 << 15;

/// No header begins further in; tells the verifier a bound for offsets that come from memory.
const LAST_OFFSET: usize = 0x3fff;

/// Where a program hangs.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    /// At ingress, into the node, or at egress.
    pub hook: Hook,
    /// What the interface leads to.
    pub side: Side,
    /// Do its packets begin with an Ethernet header?
    pub ethernet: bool,
}

/// Runs the datapath on a packet; returns the hook's action.
#[inline(always)]
pub(crate) fn run(skb: *mut __sk_buff, place: Place) -> i32 {
    let packet = Skb(skb);
    if place.hook == Hook::INGRESS {
        packet.trust_nobody();
    } else if place.side == Side::Inside && packet.is_vouched_for() {
        return verdict::finish(Verdict::NotTranslated, &packet);
    }
    let link = if place.ethernet { Link::of_ethernet(&packet) } else { Link::of_bare(&packet) };
    let verdict = match link {
        Link::V4(l3) => judge::<V4>(&packet, l3, place),
        Link::V6(l3) => judge::<V6>(&packet, l3, place),
        Link::Other => Verdict::NotIp,
    };
    verdict::finish(verdict, &packet)
}

/// What goes off the node translated or answered may; of all else nothing to an address for Services that none has (C34),
/// whatever its protocol.
#[inline(always)]
fn judge<A: Family>(packet: &Skb, l3: usize, place: Place) -> Verdict {
    let verdict = family::<A>(packet, l3, place);
    let as_it_came =
        matches!(verdict, Verdict::NotTranslated | Verdict::NotTransport | Verdict::PassedFragment);
    let leaves = place.hook == Hook::EGRESS && place.side == Side::Outside;
    if leaves && as_it_came && goes_to_nobody::<A>(packet, l3) { Verdict::DroppedNoService } else { verdict }
}

/// The address is copied by a helper: what else the verifier learns of the packet's length here it would keep apart for
/// each way that leads here.
#[inline(never)]
fn goes_to_nobody<A: Family>(packet: &Skb, l3: usize) -> bool {
    packet.load(l3 + A::DST).is_some_and(source::is_unheld::<A>)
}

/// Strangers first, then the common case; its frame is gone before the other's begins, so that both fit the stack. A
/// packet with a VLAN tag takes the slow path, which knows no more of the network header than where it may not begin:
/// the verifier would look at each path once for each place.
#[inline(always)]
fn family<A: Family>(packet: &Skb, l3: usize, Place { hook, side, ethernet }: Place) -> Verdict {
    let usual = if ethernet { size_of::<Ethernet>() } else { 0 };
    if l3 == usual {
        let known = stranger::wave_on::<A, Skb>(packet, usual, hook).or_else(|| {
            if hook == Hook::INGRESS {
                destination::fast::<A, Skb>(packet, usual)
            } else {
                source::fast::<A, Skb>(packet, usual, side)
            }
        });
        if let Some(verdict) = known {
            return verdict;
        }
    }
    if hook == Hook::INGRESS {
        destination::slow::<A, Skb>(packet, l3, side)
    } else {
        source::slow::<A, Skb>(packet, l3, side)
    }
}

/// A packet at a traffic-control hook.
pub(crate) struct Skb(*mut __sk_buff);

impl Bytes for Skb {
    #[inline(always)]
    fn peek<T: Pod>(&self, offset: usize) -> Option<T> {
        // SAFETY: `self.0` is the context the kernel called the program with.
        let (start, end) = unsafe { ((*self.0).data as usize, (*self.0).data_end as usize) };
        if offset > LAST_OFFSET {
            return None;
        }
        let at = start + offset;
        // SAFETY: inside the linear part, just checked. The pointer may be misaligned, which the
        // BPF machine allows (the verifier would refuse it where not); a byte-wise
        // `read_unaligned` would cost a load per byte.
        (at + size_of::<T>() <= end).then(|| unsafe { *(at as *const T) })
    }

    #[inline(always)]
    fn read<T: Pod>(&self, offset: usize) -> Option<T> {
        self.peek(offset).or_else(|| self.load(offset))
    }

    #[inline(always)]
    fn len(&self) -> usize {
        // SAFETY: as above.
        unsafe { (*self.0).len as usize }
    }
}

impl Skb {
    /// As [`Bytes::read`], wherever in the packet's memory it is.
    #[inline(always)]
    fn load<T: Pod>(&self, offset: usize) -> Option<T> {
        if offset > LAST_OFFSET {
            return None;
        }
        let mut value = T::zeroed();
        // SAFETY: writes exactly `size_of::<T>()` bytes to `value`, any of which are a valid `T`.
        let result = unsafe {
            bpf_skb_load_bytes(self.0.cast(), offset as u32, (&raw mut value).cast(), size_of::<T>() as u32)
        };
        (result == 0).then_some(value)
    }

    #[inline(always)]
    fn write<T: Pod>(&self, offset: usize, value: &T, flags: u64) -> Result<(), Refused> {
        let (from, len) = (core::ptr::from_ref(value).cast(), size_of::<T>() as u32);
        // SAFETY: reads exactly `len` bytes of `value`; the helper checks the packet's bounds.
        done(unsafe { bpf_skb_store_bytes(self.0, offset as u32, from, len, flags) })
    }
}

impl Skb {
    /// Was it translated at this node's ingress, by rows that leave its source alone? What brought it here from another
    /// network namespace would keep the note, so each ingress begins without.
    #[inline(always)]
    fn is_vouched_for(&self) -> bool {
        // SAFETY: `self.0` is the context the kernel called the program with.
        unsafe { (*self.0).tc_index & VOUCHED != 0 }
    }

    #[inline(always)]
    fn trust_nobody(&self) {
        if self.is_vouched_for() {
            // SAFETY: as above; classifiers may write this field.
            unsafe { (*self.0).tc_index &= !VOUCHED }
        }
    }
}

impl Packet for Skb {
    #[inline(always)]
    fn store<T: Pod>(&self, offset: usize, value: &T) -> Result<(), Refused> {
        self.write(offset, value, 0)
    }

    #[inline(always)]
    fn update_ip_checksum(&self, offset: usize, old: u32, new: u32) -> Result<(), Refused> {
        // SAFETY: a helper on the context; it checks the packet's bounds.
        done(unsafe { bpf_l3_csum_replace(self.0, offset as u32, old.into(), new.into(), 4) })
    }

    #[inline(always)]
    fn update_checksum(&self, at: Checksum, change: Change) -> Result<(), Refused> {
        let mangled = if at.udp { u64::from(BPF_F_MARK_MANGLED_0) } else { 0 };
        let pseudo = u64::from(BPF_F_PSEUDO_HDR);
        let (old, new, flags) = match change {
            Change::PseudoHeader(old, new) => (old.into(), new.into(), pseudo | 4),
            Change::PseudoHeaderDiff(diff) => (0, diff as u64, pseudo),
            Change::Word(old, new) => (old.into(), new.into(), 4),
            Change::Diff(diff) => (0, diff as u64, 0),
        };
        let flags = flags | mangled;
        // SAFETY: a helper on the context; it checks the packet's bounds.
        let replace = |flags| done(unsafe { bpf_l4_csum_replace(self.0, at.offset as u32, old, new, flags) });
        if at.ipv6 && matches!(change, Change::PseudoHeaderDiff(_)) && replace(flags | BPF_F_IPV6).is_ok() {
            return Ok(());
        }
        replace(flags)
    }

    #[inline(always)]
    fn may_be_the_kernels(&self) -> bool {
        true
    }

    #[inline(always)]
    fn is_to_be_cut(&self) -> bool {
        // SAFETY: `self.0` is the context the kernel called the program with.
        unsafe { (*self.0).gso_size != 0 }
    }

    #[inline(always)]
    fn replace<T: Pod>(&self, offset: usize, value: &T) -> Result<(), Refused> {
        self.write(offset, value, BPF_F_RECOMPUTE_CSUM.into())
    }

    #[inline(always)]
    fn resize(&self, len: usize) -> Result<(), Refused> {
        // SAFETY: a helper on the context.
        done(unsafe { bpf_skb_change_tail(self.0, len as u32, 0) })
    }

    #[inline(always)]
    fn vouch(&self) {
        // SAFETY: `self.0` is the context the kernel called the program with; classifiers may write this field.
        unsafe { (*self.0).tc_index |= VOUCHED }
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: `self.0` is the context the kernel called the program with.
        unsafe { (*self.0).ifindex }
    }
}

#[inline(always)]
fn done(result: core::ffi::c_long) -> Result<(), Refused> {
    if result == 0 { Ok(()) } else { Err(Refused) }
}
