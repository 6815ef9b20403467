//! Reads single fields out of JSON that somebody else wrote.
//!
//! Guarantees: absent and null are the same; a type that the provider does not document is a reason, not a guess; a key that
//! is there twice makes the body unusable (parsers disagree on which one counts); no NUL gets through. Nesting stops at
//! `serde_json`'s limit of 128. Does not know any provider's field names.

use std::fmt;

use chrono::{DateTime, Datelike, SubsecRound, Utc};
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::event::{FieldProblem, UnreadableReason};

/// Longest id that is accepted; real ones are under 40 bytes.
const MAX_ID_BYTES: usize = 255;

/// The body as a JSON object.
pub(super) fn parse_object(body: &[u8]) -> Result<Map<String, Value>, UnreadableReason> {
    let text = std::str::from_utf8(body).map_err(|error| UnreadableReason::NotUtf8 {
        valid_up_to: error.valid_up_to(),
    })?;
    if text.trim_ascii().is_empty() {
        return Err(reason("body", FieldProblem::Empty));
    }
    let Unambiguous(value) =
        serde_json::from_str(text).map_err(|error| UnreadableReason::NotJson {
            detail: error.to_string(),
        })?;
    match value {
        Value::Object(map) => Ok(map),
        other => Err(wrong_type("body", &other, "an object")),
    }
}

/// An id: opaque, but there, short, and printable.
pub(super) fn id(
    map: &Map<String, Value>,
    key: &str,
    field: &'static str,
) -> Result<String, UnreadableReason> {
    let text = text(map, key, field)?.ok_or(reason(field, FieldProblem::Missing))?;
    let problem = if text.trim().is_empty() {
        FieldProblem::Empty
    } else if text.len() > MAX_ID_BYTES {
        FieldProblem::TooLong {
            size_bytes: text.len(),
            max_bytes: MAX_ID_BYTES,
        }
    } else if let Some(control) = text.chars().find(|c| c.is_control()) {
        FieldProblem::Control(control)
    } else {
        return Ok(text.to_owned());
    };
    Err(reason(field, problem))
}

/// An id that need not be there; empty is absent.
pub(super) fn optional_id(
    map: &Map<String, Value>,
    key: &str,
    field: &'static str,
) -> Result<Option<String>, UnreadableReason> {
    match text(map, key, field)? {
        None | Some("") => Ok(None),
        Some(_) => id(map, key, field).map(Some),
    }
}

/// Text for people: empty when absent, without control characters.
pub(super) fn display_text(
    map: &Map<String, Value>,
    key: &str,
    field: &'static str,
) -> Result<String, UnreadableReason> {
    Ok(text(map, key, field)?
        .map(without_controls)
        .unwrap_or_default())
}

/// An object, when it is there.
pub(super) fn object<'a>(
    map: &'a Map<String, Value>,
    key: &str,
    field: &'static str,
) -> Result<Option<&'a Map<String, Value>>, UnreadableReason> {
    match map.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(object)) => Ok(Some(object)),
        Some(other) => Err(wrong_type(field, other, "an object")),
    }
}

/// An RFC 3339 time, when it is one; what is no date of this age is absent.
///
/// Cut to microseconds, which is what Postgres keeps: a stored time must equal the one it was stored from.
pub(super) fn time(map: &Map<String, Value>, key: &str) -> Option<DateTime<Utc>> {
    let time = DateTime::parse_from_rfc3339(map.get(key)?.as_str()?).ok()?;
    let time = time.to_utc().trunc_subsecs(6);
    (1970..2200).contains(&time.year()).then_some(time)
}

/// The text without control characters; right-to-left marks and emoji are none.
pub(super) fn without_controls(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

/// The value without NUL in any key or text: `jsonb` refuses `\u0000`.
pub(super) fn without_nul(value: &Value) -> Value {
    let strip = |text: &str| text.replace('\0', "");
    match value {
        Value::String(text) => Value::String(strip(text)),
        Value::Array(items) => items.iter().map(without_nul).collect(),
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| (strip(key), without_nul(value)))
            .collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}

/// `problem` with `field`.
pub(super) fn reason(field: &'static str, problem: FieldProblem) -> UnreadableReason {
    UnreadableReason::Field { field, problem }
}

fn text<'a>(
    map: &'a Map<String, Value>,
    key: &str,
    field: &'static str,
) -> Result<Option<&'a str>, UnreadableReason> {
    match map.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(wrong_type(field, other, "a string")),
    }
}

fn wrong_type(field: &'static str, value: &Value, expected: &'static str) -> UnreadableReason {
    let found = match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    };
    reason(field, FieldProblem::WrongType { found, expected })
}

/// Any JSON in which no object names a key twice.
struct Unambiguous(Value);

impl<'de> Deserialize<'de> for Unambiguous {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UnambiguousVisitor).map(Self)
    }
}

struct UnambiguousVisitor;

impl<'de> Visitor<'de> for UnambiguousVisitor {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        while let Some(Unambiguous(item)) = items.next_element()? {
            array.push(item);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if map.contains_key(&key) {
                let shown: String = key.chars().take(40).collect();
                return Err(de::Error::custom(format!(
                    "the key {shown:?} is there twice"
                )));
            }
            let Unambiguous(value) = entries.next_value()?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}
