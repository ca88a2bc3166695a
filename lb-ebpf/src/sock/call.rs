//! A system call that names a socket's peer, as the hooks get it.
//!
//! Decides where in the kernel's context the peer stands: an IPv4 socket's, an IPv6 socket's, or IPv4 in an IPv6
//! socket's (RFC 4291 section 2.5.5.2). Must not decide anything about the peer. Invariant: each field is read and
//! written whole, at its own offset, which is what the verifier takes (`sock_addr_is_valid_access`).

use aya_ebpf::bindings::{bpf_sock, bpf_sock_addr};
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie};
use lb_common::abi::Config;
use lb_common::address::{Address, Port, Protocol, V4, V6};

/// The third word of an IPv4 address in an IPv6 one.
const MAPPED: u32 = 0xffff_u32.to_be();

/// A call on a socket: its context.
#[derive(Clone, Copy)]
pub(crate) struct Call(pub(super) *mut bpf_sock_addr);

/// A call whose peer is of the family `A`.
pub(super) trait Peer<A: Local> {
    /// The call.
    fn call(&self) -> Call;
    /// The address that the peer is called by.
    fn addr(&self) -> A;
    /// Calls it by another.
    fn set_addr(&self, addr: A);
}

/// A family, by this end of a call.
pub(crate) trait Local: Address {
    /// The address that the call's socket is bound to; all zero: none.
    fn bound(call: Call) -> Self;
    /// The node's address of the family.
    fn node(config: &Config) -> Self;
}

/// An IPv4 socket.
pub(super) struct Plain4(pub(super) Call);
/// An IPv6 socket and an IPv6 peer.
pub(super) struct Plain6(pub(super) Call);
/// An IPv6 socket and an IPv4 peer.
pub(super) struct Mapped4(pub(super) Call);

impl Call {
    /// The peer's port.
    #[inline(always)]
    pub(super) fn port(self) -> Port {
        // SAFETY: the context the kernel called the program with. The field's low half is the port in network order.
        bytemuck::cast(unsafe { (&raw const (*self.0).user_port).read_volatile() } as u16)
    }

    /// Gives the peer another port.
    #[inline(always)]
    pub(super) fn set_port(self, port: Port) {
        // SAFETY: as above.
        unsafe { (&raw mut (*self.0).user_port).write_volatile(port.bits().into()) }
    }

    /// The socket's protocol, where it is TCP or UDP.
    #[inline(always)]
    pub(super) fn protocol(self) -> Option<Protocol> {
        const TCP: u32 = Protocol::TCP.0 as u32;
        const UDP: u32 = Protocol::UDP.0 as u32;
        // SAFETY: as above.
        match unsafe { (&raw const (*self.0).protocol).read_volatile() } {
            TCP => Some(Protocol::TCP),
            UDP => Some(Protocol::UDP),
            _ => None,
        }
    }

    /// The socket's own number, never given twice.
    #[inline(always)]
    pub(super) fn cookie(self) -> u64 {
        // SAFETY: a helper on the context.
        unsafe { bpf_get_socket_cookie(self.0.cast()) }
    }

    /// The number of the socket's network namespace.
    #[inline(always)]
    pub(super) fn netns(self) -> u64 {
        // SAFETY: a helper on the context.
        unsafe { bpf_get_netns_cookie(self.0.cast()) }
    }

    /// Does an IPv6 socket talk to an IPv4 peer?
    #[inline(always)]
    pub(super) fn is_mapped(self) -> bool {
        self.word(0) == 0 && self.word(1) == 0 && self.word(2) == MAPPED
    }

    #[inline(always)]
    fn word(self, index: usize) -> u32 {
        // SAFETY: as above; the callers' indices are constants below four.
        unsafe { (&raw const (*self.0).user_ip6).cast::<u32>().add(index).read_volatile() }
    }

    #[inline(always)]
    fn set_word(self, index: usize, word: u32) {
        // SAFETY: as above.
        unsafe { (&raw mut (*self.0).user_ip6).cast::<u32>().add(index).write_volatile(word) }
    }

    #[inline(always)]
    fn socket(self) -> *const bpf_sock {
        // SAFETY: as above; the kernel's socket is never null in these hooks.
        unsafe { (&raw const (*self.0).__bindgen_anon_1.sk).read_volatile() }
    }
}

impl Local for V4 {
    #[inline(always)]
    fn bound(call: Call) -> Self {
        // SAFETY: a field of the kernel's socket, which lives as long as the call.
        bytemuck::cast(unsafe { (&raw const (*call.socket()).src_ip4).read_volatile() })
    }

    #[inline(always)]
    fn node(config: &Config) -> Self {
        config.node_v4
    }
}

impl Local for V6 {
    #[inline(always)]
    fn bound(call: Call) -> Self {
        // SAFETY: a field of the kernel's socket, which lives as long as the call; the indices are constants below four.
        let word =
            |index| unsafe { (&raw const (*call.socket()).src_ip6).cast::<u32>().add(index).read_volatile() };
        bytemuck::cast([word(0), word(1), word(2), word(3)])
    }

    #[inline(always)]
    fn node(config: &Config) -> Self {
        config.node_v6
    }
}

impl Peer<V4> for Plain4 {
    #[inline(always)]
    fn call(&self) -> Call {
        self.0
    }

    #[inline(always)]
    fn addr(&self) -> V4 {
        // SAFETY: the context the kernel called the program with.
        bytemuck::cast(unsafe { (&raw const (*self.0.0).user_ip4).read_volatile() })
    }

    #[inline(always)]
    fn set_addr(&self, addr: V4) {
        // SAFETY: as above.
        unsafe { (&raw mut (*self.0.0).user_ip4).write_volatile(bytemuck::cast(addr)) }
    }
}

impl Peer<V4> for Mapped4 {
    #[inline(always)]
    fn call(&self) -> Call {
        self.0
    }

    #[inline(always)]
    fn addr(&self) -> V4 {
        bytemuck::cast(self.0.word(3))
    }

    #[inline(always)]
    fn set_addr(&self, addr: V4) {
        self.0.set_word(3, bytemuck::cast(addr));
    }
}

impl Peer<V6> for Plain6 {
    #[inline(always)]
    fn call(&self) -> Call {
        self.0
    }

    #[inline(always)]
    fn addr(&self) -> V6 {
        bytemuck::cast([self.0.word(0), self.0.word(1), self.0.word(2), self.0.word(3)])
    }

    #[inline(always)]
    fn set_addr(&self, addr: V6) {
        let [a, b, c, d]: [u32; 4] = bytemuck::cast(addr);
        self.0.set_word(0, a);
        self.0.set_word(1, b);
        self.0.set_word(2, c);
        self.0.set_word(3, d);
    }
}
