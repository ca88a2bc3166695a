//! The name of a service port, in as much room as it needs.
//!
//! Decides how a row of 256 bytes, nearly all of them zero, is kept. Must not know what a name says. Invariant: the row
//! comes back bit by bit, also one that holds no name.

use std::sync::Arc;

use lb_common::abi::ServicePortName;

/// A row of names, without the zeros behind what it says it holds. Copies share it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PortName(Arc<[u8]>);

/// Where the bytes of a name begin in its row.
const TEXT: usize = size_of::<u32>();

impl PortName {
    /// The row that holds this name; `None` where it is too long for one.
    #[must_use]
    pub fn new(name: &str) -> Option<Self> {
        ServicePortName::new(name).map(Self::from)
    }

    /// The row.
    #[must_use]
    pub fn row(&self) -> ServicePortName {
        let mut row: ServicePortName = bytemuck::Zeroable::zeroed();
        bytemuck::bytes_of_mut(&mut row)[..self.0.len()].copy_from_slice(&self.0);
        row
    }

    /// The name; `None` where the row is not valid.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        let len = u32::from_ne_bytes(self.0.get(..TEXT)?.try_into().ok()?);
        std::str::from_utf8(self.0.get(TEXT..)?.get(..usize::try_from(len).ok()?)?).ok()
    }
}

impl From<ServicePortName> for PortName {
    fn from(row: ServicePortName) -> Self {
        let bytes = bytemuck::bytes_of(&row);
        let said = TEXT.saturating_add(usize::try_from(row.len).unwrap_or(usize::MAX)).min(bytes.len());
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        Self(bytes[..used.max(said)].into())
    }
}

impl std::fmt::Debug for PortName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.name().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_as_they_were_valid_or_not() {
        let valid = ServicePortName::new("default/web:http/TCP").unwrap();
        assert_eq!(PortName::from(valid).name(), Some("default/web:http/TCP"));
        let broken = ServicePortName { len: 4_000, ..valid };
        let longer = ServicePortName { bytes: [b'x'; 252], ..valid };
        for row in [valid, broken, longer, bytemuck::Zeroable::zeroed()] {
            let name = PortName::from(row);
            assert_eq!((name.row(), name.name()), (row, row.name()));
        }
    }
}
