//! From a document to a type.
//!
//! Decides that a value of the wrong type is reported with the path to it and its place. Must not
//! know which types there are. Invariant: total over every tree.

use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor,
};

use super::tree::{Place, Tree, Value};
use crate::source::{FieldPath, Step};

/// Reads a document as a `T`.
pub(super) fn read<T: DeserializeOwned>(tree: &Tree) -> Result<T, TypeError> {
    T::deserialize(tree).map_err(|mut error| {
        error.path.0.reverse();
        error
    })
}

/// A value that is not of the type that its field has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TypeError {
    /// Where it stands.
    pub(super) at: Option<Place>,
    /// The way to it.
    pub(super) path: FieldPath,
    /// What is there and what was expected.
    pub(super) reason: String,
}

impl TypeError {
    fn placed(mut self, at: Place) -> Self {
        self.at.get_or_insert(at);
        self
    }

    /// Paths grow from the inside out, and are reversed at the end.
    fn below(mut self, step: Step) -> Self {
        self.path.0.push(step);
        self
    }
}

impl std::fmt::Display for TypeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.path, self.reason)
    }
}

impl std::error::Error for TypeError {}

impl de::Error for TypeError {
    fn custom<T: std::fmt::Display>(reason: T) -> Self {
        Self { at: None, path: FieldPath::default(), reason: reason.to_string() }
    }
}

impl<'de> Deserializer<'de> for &'de Tree {
    type Error = TypeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypeError> {
        let visited = match &self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Integer(value) => visitor.visit_i64(*value),
            Value::Float(value) => visitor.visit_f64(*value),
            Value::Text(value) => visitor.visit_borrowed_str(value),
            Value::List(items) => visitor.visit_seq(Items { items: items.iter().enumerate() }),
            Value::Map(fields) => visitor.visit_map(Fields { fields: fields.iter(), current: None }),
        };
        visited.map_err(|error| error.placed(self.at))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypeError> {
        match self.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, TypeError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypeError> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map struct enum identifier
    }
}

struct Items<'t> {
    items: std::iter::Enumerate<std::slice::Iter<'t, Tree>>,
}

impl<'t> SeqAccess<'t> for Items<'t> {
    type Error = TypeError;

    fn next_element_seed<S: DeserializeSeed<'t>>(&mut self, seed: S) -> Result<Option<S::Value>, TypeError> {
        let Some((index, item)) = self.items.next() else { return Ok(None) };
        seed.deserialize(item).map(Some).map_err(|error| error.placed(item.at).below(Step::Index(index)))
    }
}

struct Fields<'t> {
    fields: std::slice::Iter<'t, (String, Tree)>,
    current: Option<&'t (String, Tree)>,
}

impl<'t> MapAccess<'t> for Fields<'t> {
    type Error = TypeError;

    fn next_key_seed<S: DeserializeSeed<'t>>(&mut self, seed: S) -> Result<Option<S::Value>, TypeError> {
        self.current = self.fields.next();
        let Some((name, _)) = self.current else { return Ok(None) };
        let name: StrDeserializer<'_, TypeError> = name.as_str().into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'t>>(&mut self, seed: S) -> Result<S::Value, TypeError> {
        let Some((name, value)) = self.current else {
            return Err(de::Error::custom("a value was asked for before its name"));
        };
        seed.deserialize(value).map_err(|error| error.placed(value.at).below(Step::Key(name.clone())))
    }
}
