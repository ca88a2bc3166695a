//! A disagreement, made small.
//!
//! Decides which steps can be left out: half of them, then quarters, down to single ones (delta debugging). Must not
//! know what a step means. Invariant: what is left still ends in the same disagreement.

use std::time::{Duration, Instant};

use super::kernel::Subject;
use super::play::{Compare, Failure, Reason, play};
use super::world::World;

/// How long to try at most.
const PATIENCE: Duration = Duration::from_secs(20);
/// Plays before a smaller world is believed to be fine.
const TRIES: usize = 2;

/// A world as small as can be that fails in the same way.
pub(super) fn minimize(
    subject: &mut Subject,
    mut world: World,
    mut failure: Box<Failure>,
) -> (World, Box<Failure>) {
    let compare = match failure.reason {
        Reason::Rows { .. } => Compare::Always,
        _ => Compare::Last,
    };
    if let Err(earlier) = play(subject, &world, compare)
        && earlier.is_like(&failure)
    {
        failure = earlier;
    }
    world.steps.truncate(failure.step);
    let begun = Instant::now();
    let mut chunk = (world.steps.len() / 2).max(1);
    while begun.elapsed() < PATIENCE {
        let mut at = 0;
        let mut smaller = false;
        while at < world.steps.len() && begun.elapsed() < PATIENCE {
            let mut steps = world.steps.clone();
            steps.drain(at..(at + chunk).min(steps.len()));
            let candidate = World { steps, ..world.clone() };
            let failed = (0..TRIES).find_map(|_| {
                play(subject, &candidate, compare).err().filter(|other| other.is_like(&failure))
            });
            match failed {
                Some(other) => {
                    (world, failure, smaller) = (candidate, other, true);
                    world.steps.truncate(failure.step);
                }
                None => at += chunk,
            }
        }
        if chunk == 1 && !smaller {
            break;
        }
        chunk = (chunk / 2).max(1);
    }
    drop_idle(&mut world, &failure);
    (world, failure)
}

/// Takes what no packet of the history mentions out of the cluster's telling.
fn drop_idle(world: &mut World, failure: &Failure) {
    let said = failure.history.join(" ");
    let is_told = |address: &std::net::SocketAddr| said.contains(&address.to_string());
    world.cluster.services.retain(|service| {
        service.frontends.iter().any(|one| is_told(&one.address))
            || service.backends.iter().any(|one| is_told(&one.address))
    });
}
