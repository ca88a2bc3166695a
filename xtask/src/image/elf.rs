//! Whether a binary runs without any other file, and on which processor.
//!
//! Decides by the ELF header and the program headers (elf(5)). Invariant: nothing that names an interpreter passes.

use anyhow::{Context as _, Result, bail, ensure};

/// Program header type of the path of the dynamic linker.
const PT_INTERP: u32 = 3;

/// A processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Machine {
    Amd64,
    Arm64,
}

impl Machine {
    /// Its name in images.
    pub(super) fn oci(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }
}

/// The processor that a static 64 bit little-endian Linux binary is for.
///
/// # Errors
/// Anything else, with what it is.
pub(super) fn machine_of_static(file: &[u8]) -> Result<Machine> {
    ensure!(file.starts_with(b"\x7fELF\x02\x01"), "it is no 64 bit little-endian ELF file");
    let machine = match u16_at(file, 18)? {
        62 => Machine::Amd64,
        183 => Machine::Arm64,
        other => bail!("it is for a processor that has no name here (e_machine {other})"),
    };
    let headers = usize::try_from(u64_at(file, 32)?).context("its program headers are out of reach")?;
    let (size, count) = (usize::from(u16_at(file, 54)?), usize::from(u16_at(file, 56)?));
    for index in 0..count {
        let at = headers.checked_add(index * size).context("its program headers are out of reach")?;
        ensure!(u32_at(file, at)? != PT_INTERP, "it is linked dynamically");
    }
    Ok(machine)
}

fn bytes<const N: usize>(file: &[u8], at: usize) -> Result<[u8; N]> {
    let found = at.checked_add(N).and_then(|end| file.get(at..end)).context("it ends too early")?;
    found.try_into().context("it ends too early")
}

fn u16_at(file: &[u8], at: usize) -> Result<u16> {
    Ok(u16::from_le_bytes(bytes(file, at)?))
}

fn u32_at(file: &[u8], at: usize) -> Result<u32> {
    Ok(u32::from_le_bytes(bytes(file, at)?))
}

fn u64_at(file: &[u8], at: usize) -> Result<u64> {
    Ok(u64::from_le_bytes(bytes(file, at)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elf(machine: u16, header_type: u32) -> Vec<u8> {
        let mut file = vec![0; 64 + 56];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[18..20].copy_from_slice(&machine.to_le_bytes());
        file[32..40].copy_from_slice(&64_u64.to_le_bytes());
        file[54..56].copy_from_slice(&56_u16.to_le_bytes());
        file[56..58].copy_from_slice(&1_u16.to_le_bytes());
        file[64..68].copy_from_slice(&header_type.to_le_bytes());
        file
    }

    #[test]
    fn static_binaries_are_known_by_their_processor_and_others_refused() {
        assert_eq!(machine_of_static(&elf(62, 1)).unwrap(), Machine::Amd64);
        assert_eq!(machine_of_static(&elf(183, 1)).unwrap(), Machine::Arm64);
        for (file, why) in [
            (elf(62, PT_INTERP), "dynamically"),
            (elf(8, 1), "e_machine 8"),
            (b"#!/bin/sh".to_vec(), "no 64 bit"),
            (elf(62, 1)[..66].to_vec(), "too early"),
            (elf(62, 1)[..20].to_vec(), "too early"),
        ] {
            let message = machine_of_static(&file).unwrap_err().to_string();
            assert!(message.contains(why), "{why}: {message}");
        }
    }

    #[test]
    fn this_very_test_is_dynamic_and_says_so() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        if !cfg!(target_feature = "crt-static") {
            assert!(machine_of_static(&own).unwrap_err().to_string().contains("dynamically"));
        }
    }
}
