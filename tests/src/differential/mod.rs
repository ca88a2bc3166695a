//! Random clusters and packets, through the kernel and through the reference model, which must agree.
//!
//! Decides what is tried and how a disagreement is made small and told. Must not judge: that is the model's.
//! Invariant: a seed gives the same cluster and the same steps on every machine and in every version that has the
//! same generator; what a step becomes depends on the choices of the kernel, which are random.

mod frames;
mod kernel;
mod play;
mod shrink;
mod step;
mod ways;
mod world;

use std::fmt;

pub use frames::{Shape, Sketch, Talk};
pub use kernel::Subject;
pub use kernel::Tuple;
pub use play::{Compare, Failure, Played, Reason, play};
pub use step::{Change, Step};
pub use world::World;

/// A disagreement, as small as it could be made.
#[derive(Debug)]
pub struct Found {
    /// What it was found with.
    pub seed: u64,
    /// What is left of the cluster and the steps.
    pub world: World,
    /// What happens then.
    pub failure: Box<Failure>,
    /// How many steps it took at first.
    pub steps: usize,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, world, failure, steps } = self;
        writeln!(f, "seed {seed}: {failure}")?;
        writeln!(f, "{} of {steps} steps are needed; the cluster:\n{:#?}", world.steps.len(), world.cluster)?;
        writeln!(f, "the steps:")?;
        for (number, step) in world.steps.iter().enumerate() {
            writeln!(f, "{number:4}  {step:?}")?;
        }
        writeln!(f, "what was sent:")?;
        for line in &failure.history {
            writeln!(f, "      {line}")?;
        }
        write!(f, "{}", failure.details())
    }
}

impl std::error::Error for Found {}

/// Plays the world of a seed; says how many packets were judged.
///
/// # Errors
/// Where kernel and model disagree; minimized.
pub fn try_seed(subject: &mut Subject, seed: u64) -> Result<Played, Box<Found>> {
    let world = World::of_seed(seed);
    match play(subject, &world, Compare::Last) {
        Ok(played) => Ok(played),
        Err(failure) => {
            let steps = world.steps.len();
            let (world, failure) = shrink::minimize(subject, world, failure);
            Err(Box::new(Found { seed, world, failure, steps }))
        }
    }
}
