//! What a flow's rows know of its life, as pure tables.
//!
//! Decides how the flags of a TCP packet move one side's state, what two sides' states mean
//! together, and how long an idle pair is kept. Must not know maps, clocks or packets.
//! Invariant: total over all inputs; only packets move a state, never time.

/// TCP flag bits, as in byte 13 of the header (RFC 9293 section 3.1).
pub mod tcp_flag {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronize sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// The acknowledgment field counts.
    pub const ACK: u8 = 0x10;
}

/// `true` for a segment that opens a connection: SYN without ACK or RST.
#[must_use]
#[inline(always)]
pub const fn opens(flags: u8) -> bool {
    flags & (tcp_flag::SYN | tcp_flag::ACK | tcp_flag::RST) == tcp_flag::SYN
}

/// What one side of a connection has said so far, as stored in a flow row's `state`.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SideState(pub u8);

impl SideState {
    /// It may have sent a SYN; nothing else yet.
    pub const OPENING: Self = Self(0);
    /// It has acknowledged something (TCP), or sent something (UDP).
    pub const OPEN: Self = Self(1);
    /// It has sent a FIN.
    pub const FINISHED: Self = Self(2);
    /// It has sent a RST, and nothing after it.
    pub const RESET: Self = Self(3);

    /// The state after a TCP segment with `flags` from this side.
    ///
    /// A RST is believed for as long as nothing follows it: one out of the window is forged or
    /// stale, its connection goes on, and so does the row.
    #[must_use]
    #[inline(always)]
    pub const fn after(self, flags: u8) -> Self {
        if flags & tcp_flag::RST != 0 {
            Self::RESET
        } else if flags & tcp_flag::FIN != 0 || self.0 == Self::FINISHED.0 {
            Self::FINISHED
        } else if flags & tcp_flag::ACK != 0 {
            Self::OPEN
        } else {
            self
        }
    }
}

/// What the two sides' states mean together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PairState {
    /// One side has yet to answer.
    Opening,
    /// Data may flow both ways.
    Established,
    /// One side has finished, the other may still send.
    HalfClosed,
    /// Both have finished, or one has reset it.
    Closed,
}

impl PairState {
    /// The state of a pair of rows.
    #[must_use]
    #[inline(always)]
    pub const fn of(client: SideState, backend: SideState) -> Self {
        if client.0 == SideState::RESET.0 || backend.0 == SideState::RESET.0 {
            Self::Closed
        } else if client.0 == SideState::FINISHED.0 || backend.0 == SideState::FINISHED.0 {
            if client.0 == backend.0 { Self::Closed } else { Self::HalfClosed }
        } else if client.0 == SideState::OPENING.0 || backend.0 == SideState::OPENING.0 {
            Self::Opening
        } else {
            Self::Established
        }
    }
}

/// How long an idle pair of rows is kept, in seconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts {
    /// A TCP connection that is not yet answered.
    pub opening: u32,
    /// An established TCP connection. kube-proxy sets netfilter's to the same 24 h.
    pub established: u32,
    /// A TCP connection that one side has closed. kube-proxy: 1 h.
    pub half_closed: u32,
    /// A closed TCP connection: longer than the backend's TIME_WAIT, so that a masquerade port is not
    /// used again within it.
    pub closed: u32,
    /// A UDP flow that only the client has sent on.
    pub udp_opening: u32,
    /// A UDP flow that was answered.
    pub udp_established: u32,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl Timeouts {
    /// Unless options say otherwise.
    pub const DEFAULT: Self = Self {
        opening: 60,
        established: 86_400,
        half_closed: 3_600,
        closed: 120,
        udp_opening: 30,
        udp_established: 120,
    };

    /// Seconds for a TCP pair in `state`.
    #[must_use]
    pub const fn tcp(&self, state: PairState) -> u32 {
        match state {
            PairState::Opening => self.opening,
            PairState::Established => self.established,
            PairState::HalfClosed => self.half_closed,
            PairState::Closed => self.closed,
        }
    }

    /// Seconds for a UDP pair, `answered` or not.
    #[must_use]
    pub const fn udp(&self, answered: bool) -> u32 {
        if answered { self.udp_established } else { self.udp_opening }
    }
}

#[cfg(test)]
mod tests {
    use super::tcp_flag::{ACK, FIN, RST, SYN};
    use super::*;

    fn walk(flags: &[u8]) -> SideState {
        flags.iter().fold(SideState::OPENING, |state, &flags| state.after(flags))
    }

    #[test]
    fn a_connection_opens_lives_and_closes() {
        assert_eq!(walk(&[SYN]), SideState::OPENING);
        assert_eq!(walk(&[SYN | ACK]), SideState::OPEN);
        assert_eq!(walk(&[SYN, ACK, ACK]), SideState::OPEN);
        assert_eq!(walk(&[SYN, ACK, FIN | ACK]), SideState::FINISHED);
        assert_eq!(walk(&[SYN, ACK, FIN | ACK, ACK]), SideState::FINISHED, "the last ACK reopens nothing");
    }

    #[test]
    fn a_reset_that_is_followed_by_data_was_not_one() {
        assert_eq!(walk(&[SYN, ACK, RST]), SideState::RESET);
        assert_eq!(walk(&[SYN, ACK, RST, ACK]), SideState::OPEN);
    }

    #[test]
    fn a_pair_is_closed_by_two_fins_or_one_reset() {
        use SideState as S;
        let table = [
            (S::OPENING, S::OPENING, PairState::Opening),
            (S::OPENING, S::OPEN, PairState::Opening),
            (S::OPEN, S::OPEN, PairState::Established),
            (S::FINISHED, S::OPEN, PairState::HalfClosed),
            (S::OPEN, S::FINISHED, PairState::HalfClosed),
            (S::FINISHED, S::FINISHED, PairState::Closed),
            (S::RESET, S::OPEN, PairState::Closed),
            (S::OPENING, S::RESET, PairState::Closed),
        ];
        for (client, backend, expected) in table {
            assert_eq!(PairState::of(client, backend), expected, "{client:?} {backend:?}");
        }
    }

    #[test]
    fn only_a_bare_syn_opens() {
        assert!(opens(SYN));
        assert!(opens(SYN | 0xc0), "ECN bits do not matter");
        assert!(!opens(SYN | ACK));
        assert!(!opens(SYN | RST));
        assert!(!opens(ACK));
    }
}
