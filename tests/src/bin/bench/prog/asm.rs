//! BPF instructions, written down one by one.
//!
//! Decides their encoding (the kernel's Documentation/bpf/standardization/instruction-set.rst). Must not know what
//! they are for. Invariant: a jump skips only instructions that the same call writes.

/// A register.
#[derive(Clone, Copy)]
pub(super) struct R(pub(super) u8);

/// The stack's end.
pub(super) const STACK: R = R(10);

/// How wide a load or store is.
#[derive(Clone, Copy)]
pub(super) enum Width {
    B1,
    B2,
    B4,
    B8,
}

impl Width {
    fn bits(self) -> u8 {
        match self {
            Self::B4 => 0x00,
            Self::B2 => 0x08,
            Self::B1 => 0x10,
            Self::B8 => 0x18,
        }
    }
}

/// 64-bit arithmetic with a constant.
#[derive(Clone, Copy)]
pub(super) enum Alu {
    Add,
    And,
    ShiftRight,
    Modulo,
    Multiply,
    Move,
}

impl Alu {
    fn bits(self) -> u8 {
        match self {
            Self::Add => 0x00,
            Self::Multiply => 0x20,
            Self::And => 0x50,
            Self::ShiftRight => 0x70,
            Self::Modulo => 0x90,
            Self::Move => 0xb0,
        }
    }
}

/// A helper of the kernel, by its number in `enum bpf_func_id`.
#[derive(Clone, Copy)]
pub(super) enum Helper {
    MapLookup = 1,
    StoreBytes = 9,
    TailCall = 12,
    Redirect = 23,
    ChangeTail = 38,
    AdjustTailXdp = 65,
}

/// A program under way, and where it names maps.
#[derive(Default)]
pub(super) struct Assembler {
    code: Vec<u8>,
    maps: Vec<(u64, &'static str)>,
}

impl Assembler {
    fn emit(&mut self, code: u8, registers: (u8, u8), offset: i16, constant: i32) -> &mut Self {
        self.code.extend([code, registers.0 | (registers.1 << 4)]);
        self.code.extend(offset.to_le_bytes());
        self.code.extend(constant.to_le_bytes());
        self
    }

    /// `to = from`.
    pub(super) fn copy(&mut self, to: R, from: R) -> &mut Self {
        self.emit(0xbf, (to.0, from.0), 0, 0)
    }

    /// `to = to op constant`, in 64 bits; the constant is sign-extended.
    pub(super) fn alu(&mut self, op: Alu, to: R, constant: i32) -> &mut Self {
        self.emit(0x07 | op.bits(), (to.0, 0), 0, constant)
    }

    /// `to += from`.
    pub(super) fn add(&mut self, to: R, from: R) -> &mut Self {
        self.emit(0x0f, (to.0, from.0), 0, 0)
    }

    /// `to = constant`, of 64 bits.
    pub(super) fn constant(&mut self, to: R, constant: u64) -> &mut Self {
        let [a, b, c, d, e, f, g, h] = constant.to_le_bytes();
        let (low, high) = (i32::from_le_bytes([a, b, c, d]), i32::from_le_bytes([e, f, g, h]));
        self.emit(0x18, (to.0, 0), 0, low).emit(0, (0, 0), 0, high)
    }

    /// `to = the map of that name`.
    pub(super) fn map(&mut self, to: R, name: &'static str) -> &mut Self {
        self.maps.push((self.code.len() as u64, name));
        self.constant(to, 0)
    }

    /// `to = *(from + offset)`.
    pub(super) fn load(&mut self, width: Width, to: R, from: R, offset: i16) -> &mut Self {
        self.emit(0x61 | width.bits(), (to.0, from.0), offset, 0)
    }

    /// `*(to + offset) = from`.
    pub(super) fn store(&mut self, width: Width, to: R, offset: i16, from: R) -> &mut Self {
        self.emit(0x63 | width.bits(), (to.0, from.0), offset, 0)
    }

    /// `*(to + offset) = constant`.
    pub(super) fn store_constant(&mut self, width: Width, to: R, offset: i16, constant: i32) -> &mut Self {
        self.emit(0x62 | width.bits(), (to.0, 0), offset, constant)
    }

    /// Turns the low bits to network byte order, and clears the others.
    pub(super) fn big_endian(&mut self, register: R, bits: i32) -> &mut Self {
        self.emit(0xdc, (register.0, 0), 0, bits)
    }

    /// Ends with `result` unless `register` is another than zero.
    pub(super) fn end_if_zero(&mut self, register: R, result: i32) -> &mut Self {
        self.emit(0x55, (register.0, 0), 2, 0).end(result)
    }

    /// Ends with `result` unless `register` is zero.
    pub(super) fn end_unless_zero(&mut self, register: R, result: i32) -> &mut Self {
        self.emit(0x15, (register.0, 0), 2, 0).end(result)
    }

    /// Ends with `result` if `end < needed`.
    pub(super) fn end_if_short(&mut self, end: R, needed: R, result: i32) -> &mut Self {
        self.emit(0x3d, (end.0, needed.0), 2, 0).end(result)
    }

    /// Calls a helper.
    pub(super) fn call(&mut self, helper: Helper) -> &mut Self {
        self.emit(0x85, (0, 0), 0, helper as i32)
    }

    /// `*to += register`, in 64 bits and in one go.
    pub(super) fn count(&mut self, to: R, register: R) -> &mut Self {
        self.emit(0xdb, (to.0, register.0), 0, 0)
    }

    /// Ends with what the last helper returned.
    pub(super) fn end_as_helper(&mut self) -> &mut Self {
        self.emit(0x95, (0, 0), 0, 0)
    }

    /// Ends with `result`.
    pub(super) fn end(&mut self, result: i32) -> &mut Self {
        self.alu(Alu::Move, R(0), result).emit(0x95, (0, 0), 0, 0)
    }

    /// The instructions, and at which of their bytes which map is named.
    pub(super) fn finish(self) -> (Vec<u8>, Vec<(u64, &'static str)>) {
        (self.code, self.maps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_encoded_as_the_kernel_reads_them() {
        let mut assembler = Assembler::default();
        assembler
            .copy(R(6), R(1))
            .load(Width::B4, R(2), R(6), 76)
            .constant(R(5), 0x1122_3344_aabb_ccdd)
            .end(-1);
        let (code, _) = assembler.finish();
        let words: Vec<String> =
            code.chunks(8).map(|word| word.iter().map(|b| format!("{b:02x}")).collect()).collect();
        assert_eq!(
            words,
            [
                "bf16000000000000",
                "61624c0000000000",
                "18050000ddccbbaa",
                "0000000044332211",
                "b7000000ffffffff",
                "9500000000000000"
            ]
        );
    }
}
