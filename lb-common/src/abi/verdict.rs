//! What a program run ends in: one counter each.
//!
//! Decides the list of verdicts and drop reasons and their names in metrics and output.
//! Invariant: exactly one counter moves per program run. Numbers are never reused; new verdicts
//! go to the end.

macro_rules! verdicts {
    ($($(#[$doc:meta])* $name:ident => $text:literal,)*) => {
        /// What a program run ended in.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Verdict { $($(#[$doc])* $name),* }

        impl Verdict {
            /// Every verdict, in the order of its counter's index.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The name in metrics and output.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }
        }
    };
}

verdicts! {
    /// Neither IPv4 nor IPv6; left alone.
    NotIp => "not_ip",
    /// IP, but not TCP, UDP or SCTP, nor an ICMP error about one; left alone.
    NotTransport => "not_transport",
    /// Ingress: addressed to no frontend; left alone (C44).
    NotService => "not_service",
    /// Egress: of no flow; left alone (C44).
    NotTranslated => "not_translated",
    /// Ingress: of a known flow; its destination was translated.
    Forwarded => "forwarded",
    /// Ingress: a new flow; a backend was chosen.
    ForwardedNew => "forwarded_new",
    /// Egress: the reply of a backend; its source became the frontend.
    Replied => "replied",
    /// Egress: its source became the node's.
    Masqueraded => "masqueraded",
    /// Ingress: the reply to a masqueraded packet; its destination became the client.
    Unmasqueraded => "unmasqueraded",
    /// A direct connection, given another source port because a translated flow holds its tuple.
    MovedAside => "moved_aside",
    /// An ICMP error about a flow was translated inside and out (C39).
    IcmpTranslated => "icmp_translated",
    /// Nobody serves: answered with a reset or ICMP port unreachable (C32).
    RejectedNoEndpoint => "rejected_no_endpoint",
    /// A segment of no known connection to a ClusterIP: answered with a reset.
    RejectedNoFlow => "rejected_no_flow",
    /// Endpoints exist, none is local, the policy says Local (C33).
    DroppedNoLocalEndpoint => "dropped_no_local_endpoint",
    /// A reset of no known connection to a frontend.
    DroppedNoFlow => "dropped_no_flow",
    /// An answer to a refused packet could not be built.
    DroppedUnrejectable => "dropped_unrejectable",
    /// An ICMP redirect about a translated flow (C39).
    DroppedRedirect => "dropped_redirect",
    /// No free source port for the translated flow (C27).
    DroppedNoPort => "dropped_no_port",
    /// The device it leaves by has no address to masquerade with.
    DroppedNoMasqueradeAddress => "dropped_no_masquerade_address",
    /// A row changed owners under the reader twice.
    DroppedRowRecycled => "dropped_row_recycled",
    /// A frontend named a slot or backend that is not there.
    DroppedNoBackendRow => "dropped_no_backend_row",
    /// A flow row could not be written.
    DroppedTableFull => "dropped_table_full",
    /// The packet could not be rewritten.
    DroppedRewriteFailed => "dropped_rewrite_failed",
    /// A header is cut short or contradicts itself; left to the stack (C41).
    PassedMalformed => "passed_malformed",
    /// A later fragment whose first was not seen; left to the stack.
    PassedFragment => "passed_fragment",
    /// Egress: a connection of the node itself whose source port is one for masqueraded flows; its tuple is held from
    /// now on, under another port if it was taken.
    PortHeld => "port_held",
    /// A port that a ClusterIP's Service has not: answered with a reset or ICMP port unreachable (C34).
    RejectedNoPort => "rejected_no_port",
    /// An address of a service network that no Service has (C34).
    DroppedNoService => "dropped_no_service",
    /// The client is in none of the load balancer address's source ranges (C35).
    DroppedSourceRange => "dropped_source_range",
    /// Off the node, still addressed to a frontend: the socket hooks refused it.
    DroppedRefusedSocket => "dropped_refused_socket",
    /// Socket: of a network namespace or protocol whose sockets are not translated; left alone.
    SocketNotOurs => "socket_not_ours",
    /// Socket: connects or sends to no frontend; left alone (C44).
    SocketNotService => "socket_not_service",
    /// Socket: connected or sent to a frontend; a backend was chosen.
    SocketForwardedNew => "socket_forwarded_new",
    /// Socket: sent to a frontend that it has a backend for.
    SocketForwarded => "socket_forwarded",
    /// Socket: its peer, a backend, was shown as the frontend.
    SocketReplied => "socket_replied",
    /// Socket: its peer was shown as it is.
    SocketNotTranslated => "socket_not_translated",
    /// Socket: may not reach the frontend, silently (C33, C35): the address stays, and its packets go nowhere.
    SocketLeft => "socket_left",
    /// XDP: a packet of a masqueraded flow, translated at both ends and sent on at once.
    ShortcutTaken => "shortcut_taken",
    /// XDP: left to the traffic-control hook behind it.
    ShortcutLeft => "shortcut_left",
    /// Ingress: of a connection to a frontend that netfilter translates since before; left to it.
    PassedForeign => "passed_foreign",
    /// A segment to a backend that has vanished, where the option says so: answered with a reset (C37).
    RejectedVanished => "rejected_vanished",
}

/// What happens to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It goes on, translated or not.
    Pass,
    /// It is gone.
    Drop,
    /// It became its own answer, which goes back where it came from.
    Answer,
}

impl Verdict {
    /// How many there are: the size of the counters' array.
    pub const COUNT: u32 = 41;

    /// The counter's index.
    #[must_use]
    #[inline(always)]
    pub const fn index(self) -> u32 {
        self as u32
    }

    /// What happens to the packet.
    #[must_use]
    #[inline(always)]
    pub const fn action(self) -> Action {
        match self {
            Self::RejectedNoEndpoint
            | Self::RejectedNoFlow
            | Self::RejectedNoPort
            | Self::RejectedVanished => Action::Answer,
            Self::DroppedNoLocalEndpoint
            | Self::DroppedNoFlow
            | Self::DroppedUnrejectable
            | Self::DroppedRedirect
            | Self::DroppedNoPort
            | Self::DroppedNoMasqueradeAddress
            | Self::DroppedRowRecycled
            | Self::DroppedNoBackendRow
            | Self::DroppedTableFull
            | Self::DroppedRewriteFailed
            | Self::DroppedNoService
            | Self::DroppedSourceRange
            | Self::DroppedRefusedSocket => Action::Drop,
            _ => Action::Pass,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verdict_has_its_counter() {
        assert_eq!(Verdict::ALL.len(), Verdict::COUNT as usize);
        for (index, verdict) in Verdict::ALL.iter().enumerate() {
            assert_eq!(verdict.index() as usize, index);
            let expected = match verdict.name() {
                name if name.starts_with("dropped_") => Action::Drop,
                name if name.starts_with("rejected_") => Action::Answer,
                _ => Action::Pass,
            };
            assert_eq!(verdict.action(), expected, "{}", verdict.name());
        }
    }
}
