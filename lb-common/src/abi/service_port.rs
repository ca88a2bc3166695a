//! The names of service ports, for people and for an agent that starts again.
//!
//! The datapath never reads them. Invariant: a name has one id, also across restarts.

use bytemuck::{Pod, Zeroable};

const CAPACITY: usize = 252;

/// `namespace/service:port-name/protocol`, at most 252 bytes: 63 for each name and then some.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct ServicePortName {
    /// Bytes used.
    pub len: u32,
    /// UTF-8; zero behind `len`.
    pub bytes: [u8; CAPACITY],
}

impl ServicePortName {
    /// The row of a name; `None` for one too long.
    #[must_use]
    pub fn new(name: &str) -> Option<Self> {
        let mut bytes = [0; CAPACITY];
        bytes.get_mut(..name.len())?.copy_from_slice(name.as_bytes());
        Some(Self { len: u32::try_from(name.len()).ok()?, bytes })
    }

    /// The name; `None` where the row is not valid.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        core::str::from_utf8(self.bytes.get(..usize::try_from(self.len).ok()?)?).ok()
    }
}

impl core::fmt::Debug for ServicePortName {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.name().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_survives_its_row() {
        let row = ServicePortName::new("default/web:http/TCP").unwrap();
        assert_eq!(row.name(), Some("default/web:http/TCP"));
    }

    #[test]
    fn a_name_too_long_is_refused_and_a_broken_row_has_no_name() {
        assert!(ServicePortName::new(&"x".repeat(253)).is_none());
        let broken = ServicePortName { len: 4_000, bytes: [0; CAPACITY] };
        assert_eq!(broken.name(), None);
    }
}
