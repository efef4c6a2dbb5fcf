//! JSON in which no member of an object is there twice. RFC 8259 leaves open which of two counts,
//! and most readers silently take the last; whoever sets something is better told.

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::cell::RefCell;
use std::fmt;

/// Why a text is not such JSON.
#[derive(Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The member of the outermost object in which it is, as far as that was read.
    pub field: Option<String>,
    /// What is wrong, and where.
    pub message: String,
}

/// Reads one value that is all of the text.
///
/// # Errors
/// The first mistake in it.
pub fn parse(text: &[u8]) -> Result<Value, Mistake> {
    let place = RefCell::default();
    let mut reader = serde_json::Deserializer::from_slice(text);
    let read = Strict { place: &place, depth: 0 }.deserialize(&mut reader);
    read.and_then(|value| reader.end().map(|()| value)).map_err(|error| Mistake {
        // A text that breaks off does so nowhere in particular.
        field: place.take().filter(|_| !error.is_eof()),
        message: error.to_string(),
    })
}

/// Reads a value, and notes in which member of the outermost object it is.
#[derive(Clone, Copy)]
struct Strict<'a> {
    place: &'a RefCell<Option<String>>,
    depth: u8,
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let within = Strict { depth: self.depth.saturating_add(1), ..self };
        let mut list = Vec::new();
        while let Some(value) = access.next_element_seed(within)? {
            list.push(value);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let within = Strict { depth: self.depth.saturating_add(1), ..self };
        let mut object = Map::new();
        while let Some(name) = access.next_key::<String>()? {
            if self.depth == 0 {
                self.place.replace(Some(name.clone()));
            }
            if object.contains_key(&name) {
                return Err(A::Error::custom(format_args!("field {name:?} occurs twice")));
            }
            object.insert(name, access.next_value_seed(within)?);
            if self.depth == 0 {
                self.place.take();
            }
        }
        Ok(object.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_read_as_others_read_it() {
        let texts = [
            r#"{"a":[1,-2,0.5,1e3,true,null,"\u00e9",{"b":{}}],"c":[]}"#,
            "[]",
            "18446744073709551615",
            r#""text""#,
            " null ",
        ];
        for text in texts {
            let expected: Value = serde_json::from_str(text).unwrap();
            assert_eq!(parse(text.as_bytes()), Ok(expected), "{text}");
        }
    }

    #[test]
    fn a_mistake_names_the_member_it_is_in() {
        let cases = [
            (r#"{"a":1,"a":2}"#, Some("a"), "\"a\" occurs twice"),
            (r#"{"list":[{"b":1,"b":1}]}"#, Some("list"), "\"b\" occurs twice"),
            (r#"{"rate":1e999}"#, Some("rate"), "out of range"),
            (r#"{"rate":nought}"#, Some("rate"), "expected"),
            (r#"{"rate":1} {}"#, None, "trailing"),
            (r#"{"rate":"#, None, "EOF"),
            ("nonsense", None, "expected"),
        ];
        for (text, field, words) in cases {
            let mistake = parse(text.as_bytes()).unwrap_err();
            assert_eq!(mistake.field.as_deref(), field, "{text}");
            assert!(mistake.message.contains(words), "{text}: {}", mistake.message);
        }
    }
}
