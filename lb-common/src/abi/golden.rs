//! The golden file of layouts, and the asserts that hold them at compile time.
//!
//! Decides nothing; it shows. Invariant: `abi.txt` equals what the compiler laid out. A change is
//! blessed on purpose, with `cargo xtask abi --bless`, and raises [`super::ABI_VERSION`] once released.

use core::mem::{offset_of, size_of};

use super::{
    AffinityKey, AffinityRow, BackendCounters, BackendRow, Config, FlowEntry, FlowKey, FlowRow, ForeignRow,
    FragmentKey, FragmentRow, FrontendKey, FrontendRow, InterfaceRow, Prefix, RangeKey, ServiceCounters,
    ServicePortName, Shortcut, SlotRange, SocketKey, SocketRow,
};
use crate::address::{V4, V6};

/// A type of the contract: name, size and the offset of each field, in bytes.
#[cfg(test)]
struct Layout {
    name: &'static str,
    size: usize,
    fields: Vec<(&'static str, usize)>,
}

macro_rules! layouts {
    ($($name:literal: $ty:ty = $size:literal { $($field:ident @ $offset:literal),* $(,)? })*) => {
        $(const _: () = {
            assert!(size_of::<$ty>() == $size, "the size is part of the contract");
            assert!(size_of::<$ty>().is_multiple_of(4), "rows are whole words");
            $(assert!(offset_of!($ty, $field) == $offset, "the offset is part of the contract");)*
        };)*

        #[cfg(test)]
        fn layouts() -> Vec<Layout> {
            vec![$(Layout {
                name: $name,
                size: size_of::<$ty>(),
                fields: vec![$((stringify!($field), offset_of!($ty, $field))),*],
            }),*]
        }
    };
}

layouts! {
    "FrontendKey<V4>": FrontendKey<V4> = 12 { addr @ 0, port @ 4, protocol @ 6, pad @ 7 }
    "FrontendKey<V6>": FrontendKey<V6> = 24 { addr @ 0, port @ 16, protocol @ 18, pad @ 19 }
    "FrontendRow": FrontendRow = 32 {
        tag @ 0, service_port @ 4, flags @ 8, affinity_seconds @ 12, inside @ 16, outside @ 24,
    }
    "SlotRange": SlotRange = 8 { start @ 0, len @ 4 }
    "BackendRow<V4>": BackendRow<V4> = 20 {
        addr @ 0, port @ 4, flags @ 6, generation @ 8, service_port @ 12, pad @ 16,
    }
    "BackendRow<V6>": BackendRow<V6> = 32 {
        addr @ 0, port @ 16, flags @ 18, generation @ 20, service_port @ 24, pad @ 28,
    }
    "ServicePortName": ServicePortName = 256 { len @ 0, bytes @ 4 }
    "FlowKey<V4>": FlowKey<V4> = 16 {
        src @ 0, dst @ 4, src_port @ 8, dst_port @ 10, protocol @ 12, hook @ 13, pad @ 14,
    }
    "FlowKey<V6>": FlowKey<V6> = 40 {
        src @ 0, dst @ 16, src_port @ 32, dst_port @ 34, protocol @ 36, hook @ 37, pad @ 38,
    }
    "FlowRow<V4>": FlowRow<V4> = 36 {
        tag @ 0, service_port @ 4, backend @ 8, generation @ 12, since @ 16, last_seen @ 20,
        addr @ 24, port @ 28, other_port @ 30, state @ 32, flags @ 33, pad @ 34,
    }
    "FlowRow<V6>": FlowRow<V6> = 48 {
        tag @ 0, service_port @ 4, backend @ 8, generation @ 12, since @ 16, last_seen @ 20,
        addr @ 24, port @ 40, other_port @ 42, state @ 44, flags @ 45, pad @ 46,
    }
    "AffinityKey<V4>": AffinityKey<V4> = 12 { client @ 0, service_port @ 4, pad @ 8 }
    "AffinityKey<V6>": AffinityKey<V6> = 24 { client @ 0, service_port @ 16, pad @ 20 }
    "AffinityRow": AffinityRow = 12 { backend @ 0, generation @ 4, last_used @ 8 }
    "FragmentKey<V4>": FragmentKey<V4> = 16 { src @ 0, dst @ 4, id @ 8, protocol @ 12, hook @ 13, pad @ 14 }
    "FragmentKey<V6>": FragmentKey<V6> = 40 { src @ 0, dst @ 16, id @ 32, protocol @ 36, hook @ 37, pad @ 38 }
    "FragmentRow": FragmentRow = 4 { src_port @ 0, dst_port @ 2 }
    "InterfaceRow": InterfaceRow = 32 { role @ 0, l2_len @ 4, masquerade_v6 @ 8, masquerade_v4 @ 24, flags @ 28 }
    "FlowEntry<V4>": FlowEntry<V4> = 72 { row @ 0, shortcut @ 36 }
    "FlowEntry<V6>": FlowEntry<V6> = 96 { row @ 0, shortcut @ 48 }
    "Shortcut<V4>": Shortcut<V4> = 36 {
        route_generation @ 0, made @ 4, addr @ 8, port @ 12, other_port @ 14, mtu @ 16, ifindex @ 20,
        macs @ 24,
    }
    "Shortcut<V6>": Shortcut<V6> = 48 {
        route_generation @ 0, made @ 4, addr @ 8, port @ 24, other_port @ 26, mtu @ 28, ifindex @ 32,
        macs @ 36,
    }
    "RangeKey<V4>": RangeKey<V4> = 12 { prefix_len @ 0, range @ 4 }
    "RangeKey<V6>": RangeKey<V6> = 24 { prefix_len @ 0, range @ 4 }
    "Prefix<V4>": Prefix<V4> = 16 { addr @ 0, mask @ 4, present @ 8, pad @ 12 }
    "Prefix<V6>": Prefix<V6> = 40 { addr @ 0, mask @ 16, present @ 32, pad @ 36 }
    "SocketKey<V4>": SocketKey<V4> = 20 { cookie @ 0, addr @ 8, port @ 12, protocol @ 14, way @ 15, pad @ 16 }
    "SocketKey<V6>": SocketKey<V6> = 32 { cookie @ 0, addr @ 8, port @ 24, protocol @ 26, way @ 27, pad @ 28 }
    "SocketRow<V4>": SocketRow<V4> = 28 {
        tag @ 0, backend @ 4, generation @ 8, last_used @ 12, addr @ 16, port @ 20, flags @ 22, service_port @ 24,
    }
    "SocketRow<V6>": SocketRow<V6> = 40 {
        tag @ 0, backend @ 4, generation @ 8, last_used @ 12, addr @ 16, port @ 32, flags @ 34, service_port @ 36,
    }
    "ForeignRow": ForeignRow = 4 { last_seen @ 0 }
    "ServiceCounters": ServiceCounters = 40 {
        connections @ 0, packets @ 8, bytes @ 16, reply_packets @ 24, reply_bytes @ 32,
    }
    "BackendCounters": BackendCounters = 8 { connections @ 0 }
    "Config": Config = 56 {
        abi_version @ 0, ticks_per_second @ 4, masquerade_port_first @ 8, masquerade_port_last @ 10,
        opening_timeout @ 12, flags @ 16, node_v4 @ 20, netns_cookie @ 24, node_v6 @ 32,
        route_generation @ 48, pad @ 52,
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::path::Path;

    use super::super::{ABI_VERSION, MAPS, Verdict};
    use super::*;

    fn render() -> String {
        let mut out = format!("version {ABI_VERSION}\n");
        for map in MAPS {
            writeln!(out, "map {} layout {}", map.name, map.layout).unwrap();
        }
        for layout in layouts() {
            writeln!(out, "type {} size {}", layout.name, layout.size).unwrap();
            for (field, offset) in layout.fields {
                writeln!(out, "  {offset:4} {field}").unwrap();
            }
        }
        for verdict in Verdict::ALL {
            writeln!(out, "verdict {} {}", verdict.index(), verdict.name()).unwrap();
        }
        out
    }

    #[test]
    fn abi_matches_the_golden_file() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("abi.txt");
        let now = render();
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&path, &now).unwrap();
        }
        let golden = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(golden, now, "a layout moved: `cargo xtask abi --bless` if that is meant");
    }
}
