//! The endpoints of a slice, packed.
//!
//! Decides in which form they are kept: there may be hundreds of thousands, and nearly all of a slice's addresses are
//! IPv4. Must not know what endpoints are chosen for. Invariant: what is read is what was put in, in the same order; a
//! list whose addresses are all IPv4 has 16 bytes an endpoint, and equal lists are kept in the same form.

use std::fmt;
use std::iter::FusedIterator;
use std::net::{IpAddr, Ipv4Addr};
use std::slice;
use std::sync::Arc;

use super::shared::Shared;
use super::{Endpoint, EndpointRef, Placement};

/// The endpoints of a slice.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoints(Form);

#[derive(Clone, PartialEq, Eq)]
enum Form {
    /// All addresses are IPv4; also where there is none at all.
    V4(Box<[Packed<Ipv4Addr>]>),
    /// Any is not. One that knew only IPv6 would have as many bytes.
    Wide(Box<[Packed<IpAddr>]>),
}

#[derive(Clone, PartialEq, Eq)]
struct Packed<A> {
    placement: Option<Arc<Placement>>,
    addr: A,
    flags: u8,
}

// It costs what it has as often as there are endpoints.
const _: () = assert!(size_of::<Packed<Ipv4Addr>>() == 16);
const _: () = assert!(size_of::<Packed<IpAddr>>() == 32);

const READY: u8 = 1;
const SERVING: u8 = 2;
const TERMINATING: u8 = 4;

impl<A: Copy + Into<IpAddr>> Packed<A> {
    fn new(addr: A, endpoint: &Endpoint) -> Self {
        let flag = |is: bool, flag: u8| if is { flag } else { 0 };
        let flags = flag(endpoint.ready, READY)
            | flag(endpoint.serving, SERVING)
            | flag(endpoint.terminating, TERMINATING);
        Self { placement: endpoint.placement.clone(), addr, flags }
    }

    fn read(&self) -> EndpointRef<'_> {
        let has = |flag| self.flags & flag != 0;
        EndpointRef {
            addr: self.addr.into(),
            ready: has(READY),
            serving: has(SERVING),
            terminating: has(TERMINATING),
            placement: self.placement.as_ref(),
        }
    }
}

impl Endpoints {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.0 {
            Form::V4(list) => list.len(),
            Form::Wide(list) => list.len(),
        }
    }

    /// Is there none?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of them, in order.
    #[must_use]
    pub fn iter(&self) -> Iter<'_> {
        Iter(match &self.0 {
            Form::V4(list) => Forms::V4(list.iter()),
            Form::Wide(list) => Forms::Wide(list.iter()),
        })
    }

    /// Lets go of placements that are known already.
    pub(super) fn share(&mut self, known: &mut Shared<Placement>) {
        fn share<A>(list: &mut [Packed<A>], known: &mut Shared<Placement>) {
            let placements = list.iter_mut().filter_map(|endpoint| endpoint.placement.as_mut());
            placements.for_each(|placement| known.share(placement));
        }
        match &mut self.0 {
            Form::V4(list) => share(list, known),
            Form::Wide(list) => share(list, known),
        }
    }

    /// Becomes `new`, in the memory that it has where that fits.
    pub(super) fn replace(&mut self, mut new: Self) {
        match (&mut self.0, &mut new.0) {
            (Form::V4(old), Form::V4(new)) if old.len() == new.len() => old.swap_with_slice(new),
            (Form::Wide(old), Form::Wide(new)) if old.len() == new.len() => old.swap_with_slice(new),
            (old, new) => std::mem::swap(old, new),
        }
    }
}

impl Default for Endpoints {
    fn default() -> Self {
        Self(Form::V4(Box::default()))
    }
}

impl From<Vec<Endpoint>> for Endpoints {
    fn from(endpoints: Vec<Endpoint>) -> Self {
        Self(match v4(&endpoints) {
            Some(list) => Form::V4(list),
            None => {
                Form::Wide(endpoints.iter().map(|endpoint| Packed::new(endpoint.addr, endpoint)).collect())
            }
        })
    }
}

/// `None` where an address is not IPv4.
fn v4(endpoints: &[Endpoint]) -> Option<Box<[Packed<Ipv4Addr>]>> {
    let mut list = Vec::with_capacity(endpoints.len());
    for endpoint in endpoints {
        let IpAddr::V4(addr) = endpoint.addr else { return None };
        list.push(Packed::new(addr, endpoint));
    }
    Some(list.into_boxed_slice())
}

impl FromIterator<Endpoint> for Endpoints {
    fn from_iter<I: IntoIterator<Item = Endpoint>>(endpoints: I) -> Self {
        Self::from(Vec::from_iter(endpoints))
    }
}

impl fmt::Debug for Endpoints {
    /// As a list of what was put in.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self).finish()
    }
}

impl<'a> IntoIterator for &'a Endpoints {
    type Item = EndpointRef<'a>;
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

/// Endpoints of a slice, one after the other.
#[derive(Clone)]
pub struct Iter<'a>(Forms<'a>);

#[derive(Clone)]
enum Forms<'a> {
    V4(slice::Iter<'a, Packed<Ipv4Addr>>),
    Wide(slice::Iter<'a, Packed<IpAddr>>),
}

impl fmt::Debug for Iter<'_> {
    /// As a list of what is still to come.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.clone()).finish()
    }
}

impl<'a> Iterator for Iter<'a> {
    type Item = EndpointRef<'a>;

    fn next(&mut self) -> Option<EndpointRef<'a>> {
        match &mut self.0 {
            Forms::V4(list) => list.next().map(Packed::read),
            Forms::Wide(list) => list.next().map(Packed::read),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        match &self.0 {
            Forms::V4(list) => list.size_hint(),
            Forms::Wide(list) => list.size_hint(),
        }
    }
}

impl ExactSizeIterator for Iter<'_> {}
impl FusedIterator for Iter<'_> {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn endpoint(addr: impl Strategy<Value = IpAddr>) -> impl Strategy<Value = Endpoint> {
        let fields = (addr, any::<[bool; 3]>(), prop::option::of("[ab]"));
        fields.prop_map(|(addr, [ready, serving, terminating], node)| {
            let placement = node.as_deref().and_then(Placement::on);
            Endpoint { addr, ready, serving, terminating, placement }
        })
    }

    fn list() -> impl Strategy<Value = Vec<Endpoint>> {
        let v4 = any::<Ipv4Addr>().prop_map(IpAddr::V4);
        let v6 = any::<std::net::Ipv6Addr>().prop_map(IpAddr::V6);
        let list = |addr: BoxedStrategy<IpAddr>| prop::collection::vec(endpoint(addr), 0..5);
        prop_oneof![list(v4.boxed()), list(v6.boxed()), list(any::<IpAddr>().boxed())]
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_was_put_in(endpoints in list()) {
            let packed: Endpoints = endpoints.iter().cloned().collect();
            prop_assert!(packed.iter().eq(endpoints.iter().map(Endpoint::view)), "{packed:?}");
            prop_assert_eq!(packed.len(), endpoints.len());
            prop_assert_eq!(packed.iter().len(), endpoints.len());
            let all_v4 = endpoints.iter().all(|endpoint| endpoint.addr.is_ipv4());
            prop_assert_eq!(matches!(packed.0, Form::V4(_)), all_v4);
        }

        #[test]
        fn lists_are_equal_where_their_endpoints_are(one in list(), other in list()) {
            prop_assert_eq!(Endpoints::from(one.clone()) == Endpoints::from(other.clone()), one == other);
        }

        #[test]
        fn a_list_becomes_any_other(one in list(), other in list()) {
            let mut packed = Endpoints::from(one);
            packed.replace(other.clone().into());
            prop_assert_eq!(packed, Endpoints::from(other));
        }
    }

    #[test]
    fn a_list_of_the_same_length_stays_where_it_is() {
        let at = |addrs: &[&str]| -> Endpoints {
            let endpoint = |addr: &&str| Endpoint {
                addr: addr.parse().unwrap(),
                ready: true,
                serving: true,
                terminating: false,
                placement: None,
            };
            addrs.iter().map(endpoint).collect()
        };
        let place = |list: &Endpoints| match &list.0 {
            Form::V4(list) => list.as_ptr().addr(),
            Form::Wide(list) => list.as_ptr().addr(),
        };
        for (old, new) in
            [(["10.0.0.1", "10.0.0.2"], ["10.0.0.3", "10.0.0.4"]), (["::1", "::2"], ["::3", "::4"])]
        {
            let mut list = at(&old);
            let before = place(&list);
            list.replace(at(&new));
            assert_eq!((place(&list), list), (before, at(&new)));
        }
    }
}
