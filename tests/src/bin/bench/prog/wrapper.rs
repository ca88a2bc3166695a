//! The programs around the one that is measured: restore the packet, then run the target on it.
//!
//! A target rewrites its packet, so a plain repetition would measure its second packet for ever. The wrapper writes the
//! template over it, puts in the number of a client and a frontend, and tail-calls. Beside it stand two yardsticks: a
//! program that does nothing, and one that does a single lookup in the flow table.
//!
//! Decides the wrapper's instructions. Must not know what targets do. Invariant: whatever the target, the wrapper's own
//! work is the same, so that it can be subtracted.

use anyhow::Result;
use lb_common::abi;

use super::asm::{Alu, Assembler, Helper, R, STACK, Width};
use super::object::{self, MapDef};

/// Which kind of program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hook {
    /// Traffic control.
    Tc,
    /// Express data path.
    Xdp,
}

impl Hook {
    /// The hook's name in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tc => "tc",
            Self::Xdp => "XDP",
        }
    }

    fn section(self) -> &'static str {
        match self {
            Self::Tc => "classifier",
            Self::Xdp => "xdp",
        }
    }

    /// Where the context has the packet's begin and end: `struct __sk_buff`, `struct xdp_md`.
    fn data(self) -> (i16, i16) {
        match self {
            Self::Tc => (76, 80),
            Self::Xdp => (0, 4),
        }
    }
}

/// The action of a program that did its work; nothing the datapath answers with.
pub(super) const DONE: i32 = 41;
/// That of one that could not.
const FAILED: i32 = 42;

/// The map whose row 0 is the number of the next packet.
pub(super) const NEXT: &str = "NEXT";
/// The map whose row 0 is the target.
pub(super) const TARGET: &str = "TARGET";
/// The flow table.
pub(super) const FLOWS: &str = "FLOWS";

/// Clients are told apart by their port and their address: so many ports each.
pub(super) const PORTS_SHIFT: i32 = 6;

/// A number in the packet: where it stands and what it counts from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    pub(super) offset: i16,
    pub(super) base: i32,
}

/// What the wrapper makes of each packet.
#[derive(Clone, Debug)]
pub(super) struct Recipe {
    pub(super) hook: Hook,
    pub(super) template: Vec<u8>,
    /// Flows that take turns, a power of two, in an order without a pattern that a cache would know; `None`: each packet
    /// is of a flow of its own.
    pub(super) flows: Option<u32>,
    /// The client: the last four bytes of its address, and its port.
    pub(super) client: Option<(Field, Field)>,
    /// The frontend: the last four bytes of its address, and how many there are.
    pub(super) frontend: Option<(Field, u32)>,
    /// The target changes the packet's length.
    pub(super) resized: bool,
    /// Where the tuple begins, for the single lookup; `None` where it would not be a flow's.
    pub(super) tuple: Option<Tuple>,
}

/// Where a packet's tuple stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tuple {
    pub(super) addresses: i16,
    /// Of both addresses.
    pub(super) addresses_len: i16,
    pub(super) ports: i16,
    pub(super) protocol: u8,
    pub(super) hook: u8,
}

impl Tuple {
    /// The size of a flow's key.
    fn key_len(self) -> i16 {
        self.addresses_len + 8
    }
}

/// The object with `wrapper`, `empty`, `lookup`, and at the hooks of traffic control `rewrite`.
pub(super) fn object(recipe: &Recipe) -> Result<Vec<u8>> {
    let mut maps = vec![
        MapDef { name: NEXT, kind: 2, key: 4, value: 8, rows: 1 },
        MapDef { name: TARGET, kind: 3, key: 4, value: 4, rows: 1 },
    ];
    let mut empty = Assembler::default();
    empty.end(DONE);
    let mut programs = vec![("wrapper", wrapper(recipe)), ("empty", empty)];
    if let Some(tuple) = recipe.tuple {
        // The pinned table is what it is; this only says that there is one.
        let rows = abi::FLOWS_V4.default_rows;
        maps.push(MapDef {
            name: FLOWS,
            kind: 1,
            key: tuple.key_len().unsigned_abs().into(),
            value: 8,
            rows,
        });
        programs.push(("lookup", lookup(recipe, tuple)));
        if recipe.hook == Hook::Tc {
            programs.push(("rewrite", rewrite(recipe, tuple)));
        }
    }
    object::write(recipe.hook.section(), programs, &maps)
}

fn wrapper(recipe: &Recipe) -> Assembler {
    let mut code = restored(recipe);
    let context = R(6);
    code.copy(R(1), context).map(R(2), TARGET).alu(Alu::Move, R(3), 0).call(Helper::TailCall).end(FAILED);
    code
}

/// An object whose program `generator` sends each packet out of an interface.
pub(super) fn generator(recipe: &Recipe, ifindex: u32) -> Result<Vec<u8>> {
    let mut code = restored(recipe);
    code.alu(Alu::Move, R(1), ifindex.cast_signed()).alu(Alu::Move, R(2), 0).call(Helper::Redirect);
    code.end_as_helper();
    let next = MapDef { name: NEXT, kind: 2, key: 4, value: 8, rows: 1 };
    object::write(recipe.hook.section(), vec![("generator", code)], &[next])
}

/// The beginning of a program that has written the next packet over the one it was given.
fn restored(recipe: &Recipe) -> Assembler {
    let mut code = Assembler::default();
    let (context, number, data) = (R(6), R(7), R(2));
    code.copy(context, R(1));
    if recipe.resized {
        resize(&mut code, recipe);
    }
    code.store_constant(Width::B4, STACK, -4, 0).copy(R(2), STACK).alu(Alu::Add, R(2), -4).map(R(1), NEXT);
    code.call(Helper::MapLookup).end_if_zero(R(0), FAILED);
    code.load(Width::B8, number, R(0), 0).copy(R(1), number).alu(Alu::Add, R(1), 1);
    code.store(Width::B8, R(0), 0, R(1));
    if let Some(flows) = recipe.flows {
        // Odd, so a permutation of each power of two: 2^31 divided by the golden ratio.
        code.alu(Alu::Multiply, number, 0x4f1b_bcdd).alu(Alu::And, number, flows.cast_signed() - 1);
    }
    bounds(&mut code, recipe, context, data);
    template(&mut code, &recipe.template, data);
    if let Some((address, port)) = recipe.client {
        code.copy(R(5), number).alu(Alu::ShiftRight, R(5), PORTS_SHIFT).alu(Alu::Add, R(5), address.base);
        code.big_endian(R(5), 32).store(Width::B4, data, address.offset, R(5));
        code.copy(R(5), number).alu(Alu::And, R(5), (1 << PORTS_SHIFT) - 1).alu(Alu::Add, R(5), port.base);
        code.big_endian(R(5), 16).store(Width::B2, data, port.offset, R(5));
    }
    if let Some((address, count)) = recipe.frontend {
        code.copy(R(5), number).alu(Alu::Modulo, R(5), count.cast_signed()).alu(Alu::Add, R(5), address.base);
        code.big_endian(R(5), 32).store(Width::B4, data, address.offset, R(5));
    }
    code
}

/// Gives the packet its length back.
fn resize(code: &mut Assembler, recipe: &Recipe) {
    let len = length(recipe);
    match recipe.hook {
        Hook::Tc => {
            code.copy(R(1), R(6)).alu(Alu::Move, R(2), len.into()).alu(Alu::Move, R(3), 0);
            code.call(Helper::ChangeTail);
        }
        Hook::Xdp => {
            code.load(Width::B4, R(2), R(6), 0).load(Width::B4, R(3), R(6), 4);
            // The change is what is wanted less what there is.
            code.alu(Alu::Multiply, R(3), -1).add(R(2), R(3)).alu(Alu::Add, R(2), len.into());
            code.copy(R(1), R(6)).call(Helper::AdjustTailXdp);
        }
    }
}

/// Loads where the packet begins, and ends the program where it is shorter than its template.
fn bounds(code: &mut Assembler, recipe: &Recipe, context: R, data: R) {
    let (begin, end) = recipe.hook.data();
    code.load(Width::B4, data, context, begin).load(Width::B4, R(3), context, end);
    code.copy(R(4), data).alu(Alu::Add, R(4), length(recipe).into()).end_if_short(R(3), R(4), FAILED);
}

fn length(recipe: &Recipe) -> i16 {
    i16::try_from(recipe.template.len()).unwrap_or(i16::MAX)
}

/// Writes the template over the packet.
fn template(code: &mut Assembler, template: &[u8], data: R) {
    let mut offset = 0;
    for word in template.chunks(8) {
        match *word {
            [a, b, c, d, e, f, g, h] => {
                code.constant(R(5), u64::from_le_bytes([a, b, c, d, e, f, g, h]));
                code.store(Width::B8, data, offset, R(5));
            }
            _ => {
                for (byte, at) in word.iter().zip(offset..) {
                    code.store_constant(Width::B1, data, at, (*byte).into());
                }
            }
        }
        offset += 8;
    }
}

/// One lookup of the packet's tuple in the flow table, which must be there.
fn lookup(recipe: &Recipe, tuple: Tuple) -> Assembler {
    let mut code = Assembler::default();
    let (data, key) = (R(2), -tuple.key_len());
    code.copy(R(6), R(1));
    bounds(&mut code, recipe, R(6), data);
    for part in (0..tuple.addresses_len).step_by(8) {
        code.load(Width::B8, R(5), data, tuple.addresses + part).store(Width::B8, STACK, key + part, R(5));
    }
    code.load(Width::B4, R(5), data, tuple.ports).store(Width::B4, STACK, -8, R(5));
    code.store_constant(Width::B4, STACK, -4, i32::from(tuple.protocol) | (i32::from(tuple.hook) << 8));
    code.copy(R(2), STACK).alu(Alu::Add, R(2), key.into()).map(R(1), FLOWS).call(Helper::MapLookup);
    code.end_if_zero(R(0), FAILED).end(DONE);
    code
}

/// The headers up to the transport's checksum read, and written back by the one helper that keeps a socket buffer's own
/// checksum right: what translating takes at least at such a hook.
fn rewrite(recipe: &Recipe, tuple: Tuple) -> Assembler {
    /// The kernel's `BPF_F_RECOMPUTE_CSUM`.
    const RECOMPUTE: i32 = 1;
    let mut code = Assembler::default();
    // Of whole words: IPv4 and 20 bytes of TCP, or IPv6 and 16; less where the packet is shorter.
    let (data, begin): (_, i16) = (R(2), 14);
    let len = (length(recipe) - begin).min(if tuple.addresses_len > 8 { 56 } else { 40 }) / 8 * 8;
    code.copy(R(6), R(1));
    bounds(&mut code, recipe, R(6), data);
    for part in (0..len).step_by(8) {
        code.load(Width::B8, R(5), data, begin + part).store(Width::B8, STACK, part - len, R(5));
    }
    code.copy(R(1), R(6)).alu(Alu::Move, R(2), begin.into()).copy(R(3), STACK).alu(
        Alu::Add,
        R(3),
        -i32::from(len),
    );
    code.alu(Alu::Move, R(4), len.into()).alu(Alu::Move, R(5), RECOMPUTE).call(Helper::StoreBytes);
    code.end_unless_zero(R(0), FAILED).end(DONE);
    code
}
