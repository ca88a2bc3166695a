//! An eBPF object in memory, out of instructions and map definitions, for the same loader as the agent's.
//!
//! Decides sections, symbols and relocations. Must not know what the programs do. Invariant: the programs' licence is
//! declared, and each map that a program names is there.

use anyhow::{Context as _, Result};
use object::write::{Object, Relocation, Symbol, SymbolId, SymbolSection};
use object::{
    Architecture, BinaryFormat, Endianness, RelocationFlags, SectionKind, SymbolFlags, SymbolKind,
    SymbolScope,
};

use super::asm::Assembler;

/// `R_BPF_64_64`: the constant of an instruction of two words.
const MAP_ADDRESS: u32 = 1;

/// A map, as `struct bpf_map_def` describes it.
#[derive(Clone, Copy)]
pub(super) struct MapDef {
    pub(super) name: &'static str,
    /// `enum bpf_map_type`.
    pub(super) kind: u32,
    pub(super) key: u32,
    pub(super) value: u32,
    pub(super) rows: u32,
}

/// Writes the object: programs of a section's kind (`classifier`, `xdp`), by name.
pub(super) fn write(
    section: &str,
    programs: Vec<(&'static str, Assembler)>,
    maps: &[MapDef],
) -> Result<Vec<u8>> {
    let mut object = Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
    let licence = object.add_section(Vec::new(), b"license".to_vec(), SectionKind::Data);
    object.append_section_data(licence, b"GPL\0", 1);
    let defs = object.add_section(Vec::new(), b"maps".to_vec(), SectionKind::Data);
    let symbols: Vec<(&str, SymbolId)> = maps
        .iter()
        .map(|map| {
            let words = [map.kind, map.key, map.value, map.rows, 0];
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            let at = object.append_section_data(defs, &bytes, 4);
            let symbol = symbol(map.name, at, bytes.len(), SymbolKind::Data, SymbolSection::Section(defs));
            (map.name, object.add_symbol(symbol))
        })
        .collect();
    // All in one section: the loader takes no names behind `xdp/`.
    let text = object.add_section(Vec::new(), section.as_bytes().to_vec(), SectionKind::Text);
    for (name, assembler) in programs {
        let (code, named) = assembler.finish();
        let begin = object.append_section_data(text, &code, 8);
        object.add_symbol(symbol(name, begin, code.len(), SymbolKind::Text, SymbolSection::Section(text)));
        for (offset, map) in named {
            let found = symbols.iter().find(|(name, _)| *name == map);
            let (_, symbol) = found.with_context(|| format!("the program {name} names a map {map}"))?;
            let flags = RelocationFlags::Elf { r_type: MAP_ADDRESS };
            let relocation = Relocation { offset: begin + offset, symbol: *symbol, addend: 0, flags };
            object.add_relocation(text, relocation).context("relocating a map")?;
        }
    }
    object.write().context("writing the bench's own eBPF object")
}

fn symbol(name: &str, value: u64, size: usize, kind: SymbolKind, section: SymbolSection) -> Symbol {
    Symbol {
        name: name.as_bytes().to_vec(),
        value,
        size: size as u64,
        kind,
        scope: SymbolScope::Dynamic,
        weak: false,
        section,
        flags: SymbolFlags::None,
    }
}
