//! Decisions made ahead of who places them, where there are many.
//!
//! Decides which thread plans a Service: that of who asks, or, of a large cluster's first list, one more, so that what
//! the next Services are to be is known when the last are written. Must not know what becomes of decisions. Invariants:
//! they come in the order of names and are those of [`decide::service`]; no more than a few hundred are in the making,
//! since all of them take more room than what they become.

use std::collections::BTreeSet;
use std::sync::mpsc::{SyncSender, sync_channel};

use super::decide::{self, Planned};
use super::owners::Owners;
use crate::model::{ObjectName, State};

/// A thread is worth its start for so many Services.
const MANY: usize = 1024;
/// How many Services are handed over at once.
const AT_ONCE: usize = 64;
/// How many times that many may wait to be taken.
const WAITING: usize = 4;

/// What each of `names` is to be, claims being up to date in `owners`: `take` gets them one by one.
pub fn services<'a, R>(
    state: &'a State,
    owners: &'a Owners,
    names: &'a BTreeSet<ObjectName>,
    take: impl FnOnce(&mut dyn Iterator<Item = (&'a ObjectName, Planned)>) -> R,
) -> R {
    let plan = |name: &'a ObjectName| (name, decide::service(state, owners, name));
    if names.len() < MANY {
        return take(&mut names.iter().map(plan));
    }
    std::thread::scope(|scope| {
        let (sender, planned) = sync_channel(WAITING);
        let thread = std::thread::Builder::new().name("plan".to_owned());
        match thread.spawn_scoped(scope, move || hand_over(names.iter().map(plan), &sender)) {
            Ok(_joined_by_the_scope) => take(&mut planned.into_iter().flatten()),
            // Without another thread it takes longer, that is all.
            Err(_) => take(&mut names.iter().map(plan)),
        }
    })
}

/// Until nobody takes any more.
fn hand_over<T>(mut things: impl Iterator<Item = T>, sender: &SyncSender<Vec<T>>) {
    loop {
        let some: Vec<T> = things.by_ref().take(AT_ONCE).collect();
        if some.is_empty() || sender.send(some).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Families, Object, Service, ServicePort};
    use lb_common::address::Protocol;

    fn cluster(services: usize) -> (State, Owners, BTreeSet<ObjectName>) {
        let (mut state, mut owners) = (State::new("here"), Owners::default());
        for number in 0..services {
            let name = ObjectName::new("ns", format!("s{number}"));
            let port =
                ServicePort { name: String::new(), protocol: Protocol::TCP, port: 80, node_port: None };
            let address = u32::try_from(0x0a00_0000 + number).unwrap();
            state.apply(Object::Service(Service {
                cluster_ips: vec![std::net::Ipv4Addr::from(address).into()],
                families: Families { v4: true, v6: false },
                ports: vec![port],
                ..Service::bare(name)
            }));
        }
        let names = decide::concerned(&mut state, &mut owners);
        (state, owners, names)
    }

    #[test]
    fn all_are_decided_once_in_order_and_as_one_by_one() {
        for number in [3, MANY + AT_ONCE + 1] {
            let (state, owners, names) = cluster(number);
            let expected: Vec<_> =
                names.iter().map(|name| (name, decide::service(&state, &owners, name))).collect();
            let planned: Vec<_> = services(&state, &owners, &names, |planned| planned.collect());
            assert_eq!(planned, expected);
            assert_eq!(planned.len(), number);
        }
    }

    #[test]
    fn who_takes_no_more_ends_it() {
        let (state, owners, names) = cluster(2 * MANY);
        let first = services(&state, &owners, &names, |planned| planned.next().map(|(name, _)| name.clone()));
        assert_eq!(first.as_ref(), names.first());
    }
}
