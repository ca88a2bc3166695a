//! From the model to rows: which frontends, which backends, which ids, which operations.
//!
//! Pure and total: same objects, same decisions, whatever the order of events. Must not know
//! where objects come from, the kernel, clocks or randomness.

pub mod ahead;
mod books;
mod by_id;
pub mod choose;
pub mod decide;
pub mod decision;
pub mod diff;
mod few;
pub mod frontends;
pub mod grace;
pub mod ids;
pub mod ledger;
pub mod networks;
pub mod owners;
mod place;
pub mod publish;
mod restore;
pub mod rows;
mod sets;
pub mod site;
pub mod slots;
pub mod truth;
pub mod wanted;

pub use place::Refusal;
