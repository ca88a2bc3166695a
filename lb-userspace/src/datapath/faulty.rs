//! Maps that fail on purpose.
//!
//! Decides at which operation. Must not know what the operations mean. Invariant: what it reports as
//! applied took effect on the maps behind it, and nothing after that did.

use crate::tables::{MapOp, Maps, Seen, Stopped, Tables};

/// Passes operations on to other maps until it is time to fail.
#[derive(Debug)]
pub struct FaultyMaps<M> {
    inner: M,
    fault: Fault,
    tried: usize,
}

/// Which operations fail, counted from 1 over the life of the maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// None.
    Never,
    /// This one; the next try is another operation.
    At(usize),
    /// Every operation from this one on.
    From(usize),
    /// Each whose number this divides; 1 or 0: all.
    Every(usize),
}

impl Fault {
    fn strikes(self, number: usize) -> bool {
        match self {
            Self::Never => false,
            Self::At(at) => number == at,
            Self::From(from) => number >= from,
            Self::Every(n) => number.is_multiple_of(n.max(1)),
        }
    }
}

impl<M> FaultyMaps<M> {
    /// Wraps maps.
    pub fn new(inner: M, fault: Fault) -> Self {
        Self { inner, fault, tried: 0 }
    }

    /// From now on fails like this; the count goes on.
    pub fn set_fault(&mut self, fault: Fault) {
        self.fault = fault;
    }

    /// The maps behind.
    pub fn inner(&self) -> &M {
        &self.inner
    }

    /// The maps behind, to be looked at or changed without faults.
    pub fn inner_mut(&mut self) -> &mut M {
        &mut self.inner
    }

    /// The maps behind, without the faults.
    pub fn into_inner(self) -> M {
        self.inner
    }
}

impl<M: Maps> Maps for FaultyMaps<M> {
    type Place = M::Place;

    fn look(&mut self, thought: &Tables, place: &mut M::Place) -> anyhow::Result<Seen> {
        self.inner.look(thought, place)
    }

    fn load(&mut self) -> anyhow::Result<Tables> {
        self.inner.load()
    }

    fn apply(&mut self, operations: &[MapOp]) -> Result<(), Stopped> {
        let struck = (0..operations.len()).find(|index| self.fault.strikes(self.tried + index + 1));
        let Some(struck) = struck else {
            self.tried += operations.len();
            return self.inner.apply(operations);
        };
        self.tried += struck + 1;
        self.inner.apply(&operations[..struck])?;
        let operation = format!("{:?}", operations[struck]);
        Err(Stopped { applied: struck, operation, reason: "it was told to fail".to_owned() })
    }
}
