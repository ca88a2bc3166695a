//! Programs of others: one that lets everything pass, under any name, on any hook.
//!
//! Decides nothing about packets. Must not know what ours do. Invariant: it hangs for as long as the value lives.

use std::fs::File;
use std::path::Path;

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya::programs::cgroup_sock_addr::CgroupSockAddr;
use aya::programs::links::LinkOrder;
use aya::programs::tc::TcAttachOptions;
use aya::programs::xdp::XdpMode;
use aya::programs::{CgroupAttachMode, Program, SchedClassifier, TcAttachType, Xdp};
use object::write::{Object, Symbol, SymbolSection};
use object::{Architecture, BinaryFormat, Endianness, SectionKind, SymbolFlags, SymbolKind, SymbolScope};

/// Where a program of somebody else's hangs.
#[derive(Clone, Copy, Debug)]
pub enum Hook<'a> {
    /// `tcx` of an interface of the caller's network namespace.
    Ingress(&'a str),
    /// XDP of such an interface, in the driver.
    Xdp(&'a str),
    /// connect(2) of IPv4 sockets in a cgroup.
    Connect4(&'a Path),
}

/// A program of somebody else's.
#[derive(Debug)]
pub struct Foreign {
    _programs: Ebpf,
}

impl Foreign {
    /// Loads it and hangs it up.
    ///
    /// # Errors
    /// Without the right to, or where something else has the place for itself.
    pub fn hang(name: &str, hook: Hook<'_>) -> Result<Self> {
        // TC_ACT_UNSPEC, XDP_PASS, and a call that is allowed.
        let (section, passes) = match hook {
            Hook::Ingress(_) => ("classifier", -1),
            Hook::Xdp(_) => ("xdp", 2),
            Hook::Connect4(_) => ("cgroup/connect4", 1),
        };
        let mut programs =
            Ebpf::load(&object(section, name, passes)?).context("loading the object of a foreign program")?;
        let program = programs.program_mut(name).context("the program that was just written")?;
        attach(program, hook).with_context(|| format!("hanging {name} up at {hook:?}"))?;
        Ok(Self { _programs: programs })
    }
}

fn attach(program: &mut Program, hook: Hook<'_>) -> Result<()> {
    match hook {
        Hook::Ingress(interface) => {
            let program: &mut SchedClassifier = program.try_into()?;
            program.load()?;
            let options = TcAttachOptions::TcxOrder(LinkOrder::default());
            program.attach_with_options(interface, TcAttachType::Ingress, options)?;
        }
        Hook::Xdp(interface) => {
            let program: &mut Xdp = program.try_into()?;
            program.load()?;
            program.attach(interface, XdpMode::Driver)?;
        }
        Hook::Connect4(cgroup) => {
            let program: &mut CgroupSockAddr = program.try_into()?;
            program.load()?;
            // The kernel takes no flags with a link, and lets several hang.
            program.attach(File::open(cgroup)?, CgroupAttachMode::Single)?;
        }
    }
    Ok(())
}

/// An object with one program, which returns a number.
fn object(section: &str, name: &str, returns: i32) -> Result<Vec<u8>> {
    let mut object = Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
    let licence = object.add_section(Vec::new(), b"license".to_vec(), SectionKind::Data);
    object.append_section_data(licence, b"GPL\0", 1);
    let text = object.add_section(Vec::new(), section.as_bytes().to_vec(), SectionKind::Text);
    // r0 = returns; exit (the kernel's Documentation/bpf/standardization/instruction-set.rst).
    let mut code = vec![0xb7, 0, 0, 0];
    code.extend(returns.to_le_bytes());
    code.extend([0x95, 0, 0, 0, 0, 0, 0, 0]);
    let value = object.append_section_data(text, &code, 8);
    object.add_symbol(Symbol {
        name: name.as_bytes().to_vec(),
        value,
        size: code.len() as u64,
        kind: SymbolKind::Text,
        scope: SymbolScope::Dynamic,
        weak: false,
        section: SymbolSection::Section(text),
        flags: SymbolFlags::None,
    });
    object.write().context("writing the object of a foreign program")
}
