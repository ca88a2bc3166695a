//! The datapath's entry points.
//!
//! Decides which function hangs on which hook, and nothing else. Must not read packets or maps.
//! Invariant: every run ends in [`verdict::finish`], which moves exactly one counter.

#![no_std]
#![no_main]
// For one instruction, in `maps::add_preempted`.
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]
#![expect(
    missing_docs,
    unreachable_pub,
    reason = "the entry points' macro leaves their functions undocumented and public"
)]
#![expect(
    clippy::cast_possible_truncation,
    clippy::multiple_bound_locations,
    clippy::needless_pass_by_value,
    reason = "helpers take and give wider registers than they fill; bytemuck's derive repeats bounds; entry points get contexts"
)]
#![deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod conntrack;
mod destination;
mod forward;
mod fragment;
mod head;
mod icmp;
mod kernel;
mod maps;
mod masquerade;
mod packet;
mod parse;
mod reject;
mod reopen;
mod rewrite;
mod service;
mod sock;
mod source;
mod stranger;
mod tc;
mod verdict;
mod xdp;

use aya_ebpf::macros::{cgroup_sock_addr, classifier, xdp};
use aya_ebpf::programs::{SockAddrContext, TcContext, XdpContext};
use lb_common::abi::Hook;

use crate::service::Side;
use crate::sock::Asks;
use crate::tc::Place;

/// On the host's side of a pod's interface: what the pod sends.
#[classifier]
pub fn pod_ingress(ctx: TcContext) -> i32 {
    tc::run(ctx.skb.skb, Place { hook: Hook::INGRESS, side: Side::Inside, ethernet: true })
}

/// On the host's side of a pod's interface: what the pod is sent.
#[classifier]
pub fn pod_egress(ctx: TcContext) -> i32 {
    tc::run(ctx.skb.skb, Place { hook: Hook::EGRESS, side: Side::Inside, ethernet: true })
}

/// On a device that leads off the node: what comes in.
#[classifier]
pub fn net_ingress(ctx: TcContext) -> i32 {
    tc::run(ctx.skb.skb, Place { hook: Hook::INGRESS, side: Side::Outside, ethernet: true })
}

/// On a device that leads off the node: what goes out.
#[classifier]
pub fn net_egress(ctx: TcContext) -> i32 {
    tc::run(ctx.skb.skb, Place { hook: Hook::EGRESS, side: Side::Outside, ethernet: true })
}

/// As `net_ingress`, on a device without Ethernet headers (WireGuard, IP in IP).
#[classifier]
pub fn bare_ingress(ctx: TcContext) -> i32 {
    tc::run(ctx.skb.skb, Place { hook: Hook::INGRESS, side: Side::Outside, ethernet: false })
}

/// As `net_egress`, on a device without Ethernet headers.
#[classifier]
pub fn bare_egress(ctx: TcContext) -> i32 {
    tc::run(ctx.skb.skb, Place { hook: Hook::EGRESS, side: Side::Outside, ethernet: false })
}

/// On an uplink, before the stack: packets that can go on at once.
#[xdp]
pub fn net_xdp(ctx: XdpContext) -> u32 {
    xdp::run(ctx.ctx)
}

/// An IPv4 socket connects.
#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    sock::ask4(ctx.sock_addr, Asks::ToConnect)
}

/// An IPv4 socket sends to an address.
#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    sock::ask4(ctx.sock_addr, Asks::ToSend)
}

/// An IPv4 socket has received, and is told from whom.
#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4(ctx: SockAddrContext) -> i32 {
    sock::show4(ctx.sock_addr)
}

/// An IPv4 socket is told its peer.
#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    sock::show4(ctx.sock_addr)
}

/// An IPv6 socket connects.
#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    sock::ask6(ctx.sock_addr, Asks::ToConnect)
}

/// An IPv6 socket sends to an address.
#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    sock::ask6(ctx.sock_addr, Asks::ToSend)
}

/// An IPv6 socket has received, and is told from whom.
#[cgroup_sock_addr(recvmsg6)]
pub fn recvmsg6(ctx: SockAddrContext) -> i32 {
    sock::show6(ctx.sock_addr)
}

/// An IPv6 socket is told its peer.
#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    sock::show6(ctx.sock_addr)
}

/// The kernel learns from this that the programs may use helpers reserved to GPL-compatible code.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // Unreachable: clippy denies what panics. The verifier would refuse a loop that can be reached.
    loop {}
}
