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
pub(super) const MAX_ID_BYTES: usize = 255;

/// Longest e-mail address that is kept (RFC 3696, erratum 1690, and one `@`).
const MAX_EMAIL_BYTES: usize = 320;

/// Numbers below it are seconds: as milliseconds they would be before 1973.
const FIRST_MILLIS: i64 = 100_000_000_000;

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
    checked_id(text, field)
}

/// The text as an id, if it can be one.
pub(super) fn checked_id(text: &str, field: &'static str) -> Result<String, UnreadableReason> {
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

/// Text that says more about an object, never which one it is: without control characters; what is no text is absent.
pub(super) fn optional_text(map: &Map<String, Value>, key: &str) -> Option<String> {
    let text = without_controls(map.get(key)?.as_str()?);
    (!text.trim().is_empty()).then_some(text)
}

/// An e-mail address; what is too long to be one is absent.
pub(super) fn email(map: &Map<String, Value>, key: &str) -> Option<String> {
    optional_text(map, key).filter(|email| email.len() <= MAX_EMAIL_BYTES)
}

/// A slug or another's id that says more about an object; what cannot be one is absent.
pub(super) fn optional_slug(map: &Map<String, Value>, key: &str) -> Option<String> {
    id(map, key, "slug").ok()
}

/// The texts of a list, sorted, each once; what is no usable text is left out.
pub(super) fn slugs<'a>(texts: impl Iterator<Item = &'a Value>) -> Vec<String> {
    let mut slugs: Vec<String> = texts
        .filter_map(|text| checked_id(text.as_str()?, "slug").ok())
        .collect();
    slugs.sort_unstable();
    slugs.dedup();
    slugs
}

/// The items of a list; none when it is no list.
pub(super) fn items<'a>(map: &'a Map<String, Value>, key: &str) -> &'a [Value] {
    map.get(key)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

/// Free pairs; none when it is no object. Without NUL, which `jsonb` refuses.
pub(super) fn pairs(map: &Map<String, Value>, key: &str) -> Value {
    let pairs = map.get(key).and_then(Value::as_object);
    without_nul(&pairs.cloned().unwrap_or_default().into())
}

/// An object that must be there.
pub(super) fn required_object<'a>(
    map: &'a Map<String, Value>,
    key: &str,
    field: &'static str,
) -> Result<&'a Map<String, Value>, UnreadableReason> {
    object(map, key, field)?.ok_or(reason(field, FieldProblem::Missing))
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
pub(super) fn time(map: &Map<String, Value>, key: &str) -> Option<DateTime<Utc>> {
    let time = DateTime::parse_from_rfc3339(map.get(key)?.as_str()?).ok()?;
    of_this_age(time.to_utc())
}

/// A whole number of milliseconds since 1970, or of seconds where it is too small for them.
pub(super) fn unix_time(map: &Map<String, Value>, key: &str) -> Option<DateTime<Utc>> {
    let number = map.get(key)?.as_i64()?;
    let time = if number < FIRST_MILLIS {
        DateTime::from_timestamp(number, 0)
    } else {
        DateTime::from_timestamp_millis(number)
    };
    of_this_age(time?)
}

/// A time in either form.
pub(super) fn any_time(map: &Map<String, Value>, key: &str) -> Option<DateTime<Utc>> {
    time(map, key).or_else(|| unix_time(map, key))
}

/// Cut to microseconds, which is what Postgres keeps: a stored time must equal the one it was stored from.
fn of_this_age(time: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let time = time.trunc_subsecs(6);
    (1970..2200).contains(&time.year()).then_some(time)
}

/// The text without control characters; right-to-left marks and emoji are none.
fn without_controls(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

/// The value without NUL in any key or text: `jsonb` refuses `\u0000`.
fn without_nul(value: &Value) -> Value {
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

/// That `field` is of another type than it should be.
pub(super) fn wrong_type(
    field: &'static str,
    value: &Value,
    expected: &'static str,
) -> UnreadableReason {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Map<String, Value>, String> {
        parse_object(text.as_bytes()).map_err(|reason| reason.to_string())
    }

    fn only_id(value: &str) -> Result<String, String> {
        let map = parse(&format!(r#"{{"id":{value}}}"#))?;
        id(&map, "id", "organization id").map_err(|reason| reason.to_string())
    }

    #[test]
    fn a_body_is_one_unambiguous_object() {
        assert!(parse(r#" {"a":[{"k":1},{"k":2}],"b":null} "#).is_ok());
        let deep = format!(r#"{{"a":{}{}}}"#, "[".repeat(200), "]".repeat(200));
        for (body, reason) in [
            (" \n", "the body is empty"),
            ("[1]", "the body is an array, not an object"),
            (
                r#"{"a":1,"a":1}"#,
                r#"the key "a" is there twice at line 1 column 10"#,
            ),
            (
                r#"{"a":[{"b":1,"\u0062":2}]}"#,
                r#"the key "b" is there twice"#,
            ),
            (r#"{"a":1e999}"#, "number out of range"),
            (r#"{"a":"\ud800"}"#, "the body is not usable JSON: "),
            ("{}{}", "trailing characters"),
            (&deep, "recursion limit exceeded"),
        ] {
            let error = parse(body).expect_err(body);
            assert!(error.contains(reason), "{error}");
        }
        let cut = parse_object(b"{\"a\":\"\xc3\"}").map_err(|reason| reason.to_string());
        assert_eq!(cut, Err("the body is not UTF-8 from byte 6 on".to_owned()));
    }

    #[test]
    fn an_id_is_short_printable_text() {
        let (most, more) = ("x".repeat(255), "x".repeat(10_240));
        assert_eq!(only_id(&format!("{most:?}")), Ok(most));
        assert_eq!(only_id(r#""org:1/\u00e9""#), Ok("org:1/é".to_owned()));
        for (value, reason) in [
            ("null", "is missing"),
            (r#""""#, "is empty"),
            (r#"" ""#, "is empty"),
            ("7", "is a number, not a string"),
            ("true", "is a boolean, not a string"),
            (
                &format!("{more:?}"),
                "is 10240 bytes long; at most 255 are accepted",
            ),
            (
                &format!("\"{}\"", "é".repeat(128)),
                "is 256 bytes long; at most 255 are accepted",
            ),
            (r#""a\u0000b""#, "contains the control character U+0000"),
            (r#""a\nb""#, "contains the control character U+000A"),
            (r#""a\u0085b""#, "contains the control character U+0085"),
        ] {
            assert_eq!(only_id(value), Err(format!("the organization id {reason}")));
        }
    }

    #[test]
    fn a_time_is_a_date_of_this_age_in_microseconds() {
        let read = |value: Value| {
            let map = Map::from_iter([("at".to_owned(), value)]);
            time(&map, "at").map(|time| time.to_rfc3339())
        };
        for (text, expected) in [
            (
                "2026-11-16T09:00:00.123456789Z",
                Some("2026-11-16T09:00:00.123456+00:00"),
            ),
            (
                "2026-11-16T09:00:00+02:00",
                Some("2026-11-16T07:00:00+00:00"),
            ),
            ("2199-12-31T23:59:59Z", Some("2199-12-31T23:59:59+00:00")),
            ("2200-01-01T00:00:00Z", None),
            ("0001-01-01T00:00:00Z", None),
            ("+275760-09-13T00:00:00Z", None),
            ("2026-11-16", None),
            ("", None),
        ] {
            assert_eq!(read(text.into()).as_deref(), expected, "{text}");
        }
        assert_eq!(read(1_794_819_601_000_i64.into()), None);
    }

    #[test]
    fn a_number_is_milliseconds_or_seconds() {
        let read = |value: Value| {
            let map = Map::from_iter([("at".to_owned(), value)]);
            let time = unix_time(&map, "at");
            assert_eq!(time, any_time(&map, "at"));
            time.map(|time| time.timestamp_millis())
        };
        for (number, expected) in [
            (1_794_819_600_120, Some(1_794_819_600_120)),
            (1_716_883_200, Some(1_716_883_200_000)),
            (0, Some(0)),
            (-1, None),
            (7_258_118_399_999, Some(7_258_118_399_999)),
            (7_258_118_400_000, None),
            (i64::MAX, None),
            (i64::MIN, None),
        ] {
            assert_eq!(read(number.into()), expected, "{number}");
        }
        for other in [
            Value::from(1.5),
            Value::from("1794819600120"),
            Value::from(u64::MAX),
        ] {
            assert_eq!(read(other), None);
        }
    }

    #[test]
    fn what_only_says_more_is_absent_when_it_cannot_be_used() {
        let long = "x".repeat(321);
        let map = parse(&format!(
            r#"{{"a":"","b":" ","c":7,"d":"\u0000","e":"A\u0000\nb","f":"{long}","g":null}}"#
        ))
        .expect("an object");
        for key in ["a", "b", "c", "d", "g", "none"] {
            assert_eq!(optional_text(&map, key), None, "{key}");
            assert_eq!(email(&map, key), None, "{key}");
            assert_eq!(optional_slug(&map, key), None, "{key}");
        }
        assert_eq!(optional_text(&map, "e").as_deref(), Some("Ab"));
        assert_eq!(optional_slug(&map, "e"), None);
        assert_eq!(email(&map, "f"), None);
        assert_eq!(optional_text(&map, "f"), Some(long));
    }
}
