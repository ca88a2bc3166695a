//! The node's own processes: their peers are translated in the system call (contract C17, C24).
//!
//! Their packets never cross an ingress hook, so a backend is chosen at connect(2) or sendmsg(2), and getpeername(2)
//! and recvmsg(2) show the frontend again. Decides whose sockets these are, where loopback's NodePorts are, and how long
//! an unconnected socket keeps its backend. Must not choose backends. Invariants: a socket of nobody's concern sees
//! what it asked for (C44); programs here may be preempted and interrupted by the packets' hooks on the same CPU,
//! so they use no scratch memory and count in one instruction.
//!
//! A hook can refuse the call or change the address, and the socket has no source port yet. So what must be silent
//! (C33, C35) keeps its address, and goes no further than the uplink's egress hook.

mod call;

use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::helpers::generated::bpf_set_retval;
use lb_common::abi::{
    Action, BackendFlags, ConfigFlags, FrontendFlags, FrontendKey, FrontendRow, SocketFlags, SocketKey,
    SocketRow, Verdict, Way, Word,
};
use lb_common::address::{Port, Protocol};

use crate::maps::{self, Family, Missing};
use crate::service::{Choice, Request, Side};
use crate::{kernel, service, source};
pub(crate) use call::Local;
use call::{Call, Mapped4, Peer, Plain4, Plain6};

/// What the hook of a refused call answers with (errno of every architecture that has BPF).
const ECONNREFUSED: i32 = -111;
const EHOSTUNREACH: i32 = -113;

/// Seconds without a datagram after which an unconnected socket chooses anew, as netfilter forgets an answered flow.
const IDLE_SECONDS: u32 = 120;

/// The system call.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asks {
    /// connect(2).
    ToConnect,
    /// sendmsg(2) and its relatives, with an address.
    ToSend,
}

/// A hook of IPv4 sockets before the call.
#[inline(always)]
pub(crate) fn ask4(context: *mut bpf_sock_addr, asks: Asks) -> i32 {
    answer(ask(&Plain4(Call(context)), asks))
}

/// A hook of IPv6 sockets before the call.
#[inline(always)]
pub(crate) fn ask6(context: *mut bpf_sock_addr, asks: Asks) -> i32 {
    let call = Call(context);
    answer(if call.is_mapped() { ask(&Mapped4(call), asks) } else { ask(&Plain6(call), asks) })
}

/// A hook of IPv4 sockets that are told their peer.
#[inline(always)]
pub(crate) fn show4(context: *mut bpf_sock_addr) -> i32 {
    maps::count_preempted(show(&Plain4(Call(context))));
    1
}

/// A hook of IPv6 sockets that are told their peer.
#[inline(always)]
pub(crate) fn show6(context: *mut bpf_sock_addr) -> i32 {
    let call = Call(context);
    maps::count_preempted(if call.is_mapped() { show(&Mapped4(call)) } else { show(&Plain6(call)) });
    1
}

/// Counts the verdict and turns it into the hook's return code: 1, or 0 with an errno.
#[inline(always)]
fn answer(verdict: Verdict) -> i32 {
    maps::count_preempted(verdict);
    let errno = match verdict.action() {
        Action::Pass => return 1,
        Action::Answer => ECONNREFUSED,
        Action::Drop => EHOSTUNREACH,
    };
    // SAFETY: a helper without pointers (kernel commit b44123b4a3dc).
    unsafe { bpf_set_retval(errno) };
    0
}

/// Whose socket it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    Node,
    Pod,
}

#[inline(always)]
fn whose(call: Call, protocol: Protocol) -> Option<Whose> {
    let config = maps::config();
    if call.netns() == config.netns_cookie {
        config.flags.has(ConfigFlags::SOCKETS).then_some(Whose::Node)
    } else {
        (protocol == Protocol::TCP && config.flags.has(ConfigFlags::POD_SOCKETS)).then_some(Whose::Pod)
    }
}

/// A socket names a peer to connect or send to.
#[inline(always)]
fn ask<A: Family, P: Peer<A>>(peer: &P, asks: Asks) -> Verdict {
    let call = peer.call();
    let Some(protocol) = call.protocol() else { return Verdict::SocketNotOurs };
    let Some(whose) = whose(call, protocol) else { return Verdict::SocketNotOurs };
    let key = key(call, (peer.addr(), call.port()), protocol, Way::FORTH);
    let frontend = match frontend(&key, whose) {
        Ok(frontend) => frontend,
        Err(verdict) => {
            forget(&key, asks);
            return verdict;
        }
    };
    if asks == Asks::ToSend
        && let Some((addr, port)) = settled(&key)
    {
        peer.set_addr(addr);
        call.set_port(port);
        return Verdict::SocketForwarded;
    }
    if whose == Whose::Pod && (frontend.affinity_seconds != 0 || frontend.flags.has(FrontendFlags::GUARDED)) {
        // A pod's address is not known yet. The packets' hook at the pod's interface will see it.
        return Verdict::SocketNotOurs;
    }
    let request =
        Request { client: client::<A, P>(peer), side: Side::Inside, spread: key.spread(), opens: true };
    let mut choice = Choice::unmade(key.addr, key.port);
    // Two calls, one after the other: the stack has no room for one within the other.
    let chosen = service::choose(&request, &frontend, &mut choice);
    match chosen.and_then(|()| remember(&key, &choice, frontend.service_port, asks)) {
        Ok(()) => {
            maps::count_connection(frontend.service_port, choice.id);
            peer.set_addr(choice.addr);
            call.set_port(choice.port);
            Verdict::SocketForwardedNew
        }
        Err(Verdict::DroppedNoLocalEndpoint | Verdict::DroppedSourceRange) => Verdict::SocketLeft,
        Err(verdict) => verdict,
    }
}

/// The frontend that the socket asks for; loopback stands for the node's NodePorts (C17).
#[inline(always)]
fn frontend<A: Family>(key: &Word<A, SocketKey<A>>, whose: Whose) -> Result<FrontendRow, Verdict> {
    let at = |addr| maps::frontend(&Word::new(FrontendKey::new(addr, key.port, key.protocol)));
    match at(key.addr) {
        Ok(frontend) => Ok(frontend),
        Err(Missing::Recycled) => Err(Verdict::DroppedRowRecycled),
        Err(Missing::Absent) if { key.addr }.is_loopback() && whose == Whose::Node => {
            match at(A::node(&maps::config())) {
                Ok(frontend) if frontend.flags.has(FrontendFlags::NODE_PORT) => Ok(frontend),
                _ => Err(Verdict::SocketNotService),
            }
        }
        Err(Missing::Absent) => Err(no_port(key.addr)),
    }
}

/// The socket talks to this peer directly from now on, whatever the peer was translated from before. But what a
/// connected IPv6 socket sends to an IPv4 peer without naming it comes by here as well, with the backend's name.
#[inline(always)]
fn forget<A: Family>(key: &Word<A, SocketKey<A>>, asks: Asks) {
    let back = Word::new(SocketKey { way: Way::BACK, ..**key });
    // A lookup takes no lock, and nearly always finds nothing.
    if let Ok(found) = maps::translation(&back)
        && (asks == Asks::ToConnect || !{ found.row.flags }.has(SocketFlags::CONNECTED))
    {
        maps::forget_translation(&back);
    }
}

/// What becomes of a peer that is no frontend (C34).
#[inline(never)]
fn no_port<A: Family>(addr: A) -> Verdict {
    if maps::is_frontend(&Word::new(FrontendKey::whole(addr))) {
        Verdict::RejectedNoPort
    } else if source::is_unheld(addr) {
        Verdict::SocketLeft
    } else {
        Verdict::SocketNotService
    }
}

/// Where an unconnected socket sent its last datagram to this frontend, while that serves (C36) and was not long ago.
#[inline(never)]
fn settled<A: Family>(forth: &Word<A, SocketKey<A>>) -> Option<(A, Port)> {
    let translation = maps::translation(forth).ok()?;
    let row = &translation.row;
    let backend = maps::backend::<A>(row.backend);
    let (now, second) = (kernel::ticks(), maps::config().ticks_per_second);
    let age = now.wrapping_sub(row.last_used);
    let serves = backend.generation == row.generation && backend.flags.has(BackendFlags::SERVING);
    if !serves || age > second.wrapping_mul(IDLE_SECONDS) {
        return None;
    }
    let back = Word::new(SocketKey { way: Way::BACK, addr: row.addr, port: row.port, ..**forth });
    match maps::translation(&back) {
        // Another frontend that has the same backend may have taken the way back.
        Ok(found) if { found.row.addr } == { forth.addr } && { found.row.port } == { forth.port } => {
            if age >= second {
                found.touch(now);
                translation.touch(now);
            }
        }
        _ => return None,
    }
    Some((row.addr, row.port))
}

/// Remembers the backend for the way back and, where datagrams follow, for the way forth.
#[inline(never)]
fn remember<A: Family>(
    forth: &Word<A, SocketKey<A>>,
    choice: &Choice<A>,
    service_port: u32,
    asks: Asks,
) -> Result<(), Verdict> {
    let connected = if asks == Asks::ToConnect { SocketFlags::CONNECTED } else { 0 };
    let back = Word::new(SocketKey { way: Way::BACK, addr: choice.addr, port: choice.port, ..**forth });
    let mut row = Word::new(SocketRow {
        tag: back.tag(),
        backend: choice.id,
        generation: choice.generation,
        last_used: kernel::ticks(),
        addr: forth.addr,
        port: forth.port,
        flags: SocketFlags(connected),
        service_port,
    });
    let mut done = maps::translate(&back, &row);
    if asks == Asks::ToSend {
        (row.tag, row.addr, row.port) = (forth.tag(), choice.addr, choice.port);
        done &= maps::translate(forth, &row);
    }
    if done { Ok(()) } else { Err(Verdict::DroppedTableFull) }
}

/// Whom the socket counts as (C30): the address it is bound to, else the node's.
#[inline(always)]
fn client<A: Family, P: Peer<A>>(peer: &P) -> A {
    let bound = A::bound(peer.call());
    if bound == A::zeroed() || bound.is_loopback() { A::node(&maps::config()) } else { bound }
}

/// A socket is told its peer.
#[inline(always)]
fn show<A: Family, P: Peer<A>>(peer: &P) -> Verdict {
    let call = peer.call();
    let Some(protocol) = call.protocol() else { return Verdict::SocketNotOurs };
    if whose(call, protocol).is_none() {
        return Verdict::SocketNotOurs;
    }
    let back = key(call, (peer.addr(), call.port()), protocol, Way::BACK);
    match maps::translation(&back) {
        Ok(found) => {
            peer.set_addr(found.row.addr);
            call.set_port(found.row.port);
            Verdict::SocketReplied
        }
        Err(_) => Verdict::SocketNotTranslated,
    }
}

#[inline(always)]
fn key<A: Family>(
    call: Call,
    (addr, port): (A, Port),
    protocol: Protocol,
    way: Way,
) -> Word<A, SocketKey<A>> {
    Word::new(SocketKey { cookie: call.cookie(), addr, port, protocol, way, pad: [0; 4] })
}
