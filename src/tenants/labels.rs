//! Labels: what operators tell tenants apart by, such as `tier=free`.
//!
//! Guarantees: a key is 1 to 63 of `a-z 0-9 _ . -`, a value at most 255 characters without control
//! characters, a tenant has at most 64 of them; a change is one guarded update, audited by the table.
//!
//! Does not: mean anything to tenantry. They select tenants, nothing else.

use std::{collections::BTreeMap, str::FromStr};

use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, types::Json};
use utoipa::openapi::{
    Object, ObjectBuilder,
    schema::{SchemaType, Type},
};

use super::TenantId;

/// Labels by key.
pub type Labels = BTreeMap<String, String>;

/// So many a tenant may have.
const MOST: usize = 64;

/// Why a label is none.
#[derive(Debug, thiserror::Error)]
pub enum LabelInvalid {
    /// The key is not one.
    #[error("{0:?} is no key of a label: 1 to 63 of a-z, 0-9, _, . and -")]
    Key(String),
    /// The value is not one.
    #[error("the value of label {0} is longer than 255 characters, or has control characters")]
    Value(String),
    /// There is no `=`.
    #[error("{0:?} is no label: give key=value")]
    NoValue(String),
    /// There would be too many.
    #[error("a tenant has at most {MOST} labels, and would have {0}")]
    TooMany(usize),
}

impl LabelInvalid {
    /// Stable code, explained in docs/errors.md.
    pub const fn code(&self) -> &'static str {
        "label_invalid"
    }
}

/// A label as it is typed, `key=value`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Label {
    /// Key.
    pub key: String,
    /// Value.
    pub value: String,
}

impl Label {
    /// A label, if both are what they have to be.
    pub fn new(key: &str, value: &str) -> Result<Self, LabelInvalid> {
        check_key(key)?;
        if value.chars().count() > 255 || value.chars().any(char::is_control) {
            return Err(LabelInvalid::Value(key.to_owned()));
        }
        Ok(Self {
            key: key.to_owned(),
            value: value.to_owned(),
        })
    }
}

impl FromStr for Label {
    type Err = LabelInvalid;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=') {
            Some((key, value)) => Self::new(key, value),
            None => Err(LabelInvalid::NoValue(text.to_owned())),
        }
    }
}

/// Fails unless the text is the key of a label.
pub fn check_key(key: &str) -> Result<(), LabelInvalid> {
    let allowed = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '_' | '.' | '-');
    if (1..=63).contains(&key.len()) && key.chars().all(allowed) {
        Ok(())
    } else {
        Err(LabelInvalid::Key(key.to_owned()))
    }
}

/// Fails unless these may be the labels of a tenant.
pub fn check_all(labels: &Labels) -> Result<(), LabelInvalid> {
    for (key, value) in labels {
        Label::new(key, value)?;
    }
    if labels.len() > MOST {
        return Err(LabelInvalid::TooMany(labels.len()));
    }
    Ok(())
}

/// All the labels of a tenant, as the API is described.
pub fn schema(description: &str) -> Object {
    let mut schema = schema_of(Type::String, description);
    schema.max_properties = Some(MOST);
    schema
}

/// Any number of labels with values of this type, as the API is described.
pub fn schema_of(value: impl Into<SchemaType>, description: &str) -> Object {
    let key = ObjectBuilder::new()
        .schema_type(Type::String)
        .pattern(Some("^[a-z0-9_.-]{1,63}$"));
    let value = ObjectBuilder::new()
        .schema_type(value)
        .max_length(Some(255))
        .pattern(Some(r"^[^\u0000-\u001f\u007f-\u009f]*$"));
    ObjectBuilder::new()
        .description(Some(description))
        .property_names(Some(key))
        .additional_properties(Some(value))
        .build()
}

/// The tenant has these labels now, and no others; the caller has locked it. What is so already changes nothing.
pub async fn set_labels(tx: &mut PgConnection, id: TenantId, labels: &Labels) -> sqlx::Result<()> {
    sqlx::query(
        "update tenants
         set labels = $2,
             updated_at = now()
         where id = $1
           and labels <> $2",
    )
    .bind(id)
    .bind(Json(labels))
    .execute(tx)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_a_key_and_a_value() {
        let label: Label = "tier=free=ish".parse().unwrap();
        assert_eq!((&*label.key, &*label.value), ("tier", "free=ish"));
        assert!("tier=".parse::<Label>().is_ok());
        let long = format!("{}=x", "k".repeat(64));
        for text in ["tier", "=x", "Tier=x", "a b=x", "ä=x", "k=a\u{7}", &long] {
            let refused = text.parse::<Label>().unwrap_err();
            assert_eq!(refused.code(), "label_invalid", "{text}");
        }
        assert!(Label::new("k", &"ä".repeat(255)).is_ok());
        assert!(Label::new("k", &"ä".repeat(256)).is_err());
    }

    #[test]
    fn a_tenant_has_at_most_64() {
        let labels = |count: usize| -> Labels {
            (0..count)
                .map(|at| (format!("k{at}"), String::new()))
                .collect()
        };
        assert!(check_all(&labels(64)).is_ok());
        assert!(check_all(&labels(65)).is_err());
    }
}
