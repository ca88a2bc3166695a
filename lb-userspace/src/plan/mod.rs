//! From the model to rows: which frontends, which backends, which ids, which operations.
//!
//! Pure and total: same objects, same decisions, whatever the order of events. Must not know
//! where objects come from, the kernel, clocks or randomness.

pub mod decision;
