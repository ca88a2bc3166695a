//! What an object is called.
//!
//! Decides how a name is kept: whole in one piece of memory, which all copies share, since it stands in a dozen places
//! at once, and there is one for each Service and each slice. Must not know of which kind the object is. Invariant: sorts
//! by namespace, then name.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};

use triomphe::ThinArc;

/// A namespace and a name. Sorts by namespace, then name. A copy is a pointer to the same text.
#[derive(Clone, PartialEq, Eq)]
pub struct ObjectName(
    /// How long the namespace is, and both texts, one behind the other.
    ThinArc<usize, u8>,
);

impl ObjectName {
    /// The name of an object.
    #[must_use]
    pub fn new(namespace: impl AsRef<str>, name: impl AsRef<str>) -> Self {
        let (namespace, name) = (namespace.as_ref(), name.as_ref());
        let both = [namespace.as_bytes(), name.as_bytes()].concat();
        Self(ThinArc::from_header_and_slice(namespace.len(), &both))
    }

    /// The namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        text(self.parts().0)
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        text(self.parts().1)
    }

    fn parts(&self) -> (&[u8], &[u8]) {
        self.0.slice.split_at(self.0.header.header)
    }
}

/// What was text when it was put in.
fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).unwrap_or_default()
}

impl Ord for ObjectName {
    fn cmp(&self, other: &Self) -> Ordering {
        // Nearly every look for a name ends at a copy of it.
        if self.0.as_ptr() == other.0.as_ptr() { Ordering::Equal } else { self.parts().cmp(&other.parts()) }
    }
}

impl PartialOrd for ObjectName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Hash for ObjectName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.parts().hash(state);
    }
}

impl std::fmt::Debug for ObjectName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

impl std::fmt::Display for ObjectName {
    /// `namespace/name`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace(), self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_by_namespace_first_and_are_told_apart_by_where_it_ends() {
        let names = [("a", "z"), ("ab", ""), ("ab", "c"), ("abc", ""), ("ä", "ö")];
        let names = names.map(|(namespace, name)| ObjectName::new(namespace, name));
        assert!(names.is_sorted_by(|one, other| one < other));
        assert_ne!(names[2], names[3]);
        assert_eq!(names[2].cmp(&ObjectName::new("ab", "c")), Ordering::Equal);
        assert_eq!((names[4].namespace(), names[4].name()), ("ä", "ö"));
        assert_eq!(names[2].to_string(), "ab/c");
    }

    #[test]
    fn it_is_a_pointer_also_where_there_may_be_none() {
        assert_eq!(size_of::<Option<ObjectName>>(), size_of::<usize>());
    }
}
