//! The layers of configuration, merged into one table.
//!
//! Guarantees: nothing is ignored. Each key of the user's file is held against the default file;
//! what is unknown or of another type is refused with line and column.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    path::{Path, PathBuf},
};

use toml::{Spanned, Table, Value, de::DeTable, de::DeValue};

use super::{DEFAULT_TOML, FILE_NAME};

/// Sections whose keys the user names: what is inside them is checked by its own type.
const FREE_SECTIONS: [&str; 4] = ["sources", "issuers", "notifications", "clusters"];

const PREFIX: &str = "TENANTRY__";

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is not there or cannot be read.
    #[error("cannot read {}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML. Without the line itself, which may hold a secret.
    #[error("{origin} is not valid TOML: {message}")]
    Syntax {
        /// File, line and column.
        origin: String,
        /// Why.
        message: String,
    },
    /// A key that does not exist.
    #[error("{origin}: there is no setting {key}{}", did_you_mean(nearest.as_deref()))]
    UnknownKey {
        /// File, line and column, or the environment variable.
        origin: String,
        /// The key as given.
        key: String,
        /// A known key that looks like it.
        nearest: Option<String>,
    },
    /// A value of another type.
    #[error("{origin}: {key} must be {expected}, not {found}")]
    Type {
        /// File, line and column, or the environment variable.
        origin: String,
        /// The key.
        key: String,
        /// The type that is needed.
        expected: &'static str,
        /// The type that was given.
        found: &'static str,
    },
    /// A value that cannot work.
    #[error("{key} = {value:?} cannot be used: it takes {expected}")]
    Value {
        /// The key.
        key: &'static str,
        /// The value as given.
        value: String,
        /// What is accepted.
        expected: String,
    },
    /// An issuer of tokens that cannot work.
    #[error("issuers.{name} cannot be used: {problem}")]
    Issuer {
        /// The issuer's name.
        name: String,
        /// What is wrong with it, and what is right.
        problem: String,
    },
    /// An endpoint of notifications that cannot work.
    #[error("notifications.{name} cannot be used: {problem}")]
    Endpoint {
        /// The endpoint's name.
        name: String,
        /// What is wrong with it, and what is right.
        problem: String,
    },
    /// A secret's file cannot be read.
    #[error("cannot read {} named by {key}", file.display())]
    SecretFile {
        /// The setting.
        key: &'static str,
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// What is inside a free section does not fit.
    #[error("the configuration does not fit: {0}")]
    Shape(String),
}

impl Error {
    /// What a reader says of a value, without the value: it could be a secret in the wrong place.
    pub(super) fn shape(told: &toml::de::Error) -> Self {
        let told = told.to_string();
        let hidden = match (told.find('"'), told.rfind('"')) {
            (Some(first), Some(last)) if first < last => {
                format!("{}…{}", &told[..=first], &told[last..])
            }
            _ => told,
        };
        Self::Shape(hidden.trim().to_owned())
    }

    pub(super) fn value(key: &'static str, value: &str, expected: impl Into<String>) -> Self {
        Self::Value {
            key,
            value: value.to_owned(),
            expected: expected.into(),
        }
    }
}

fn did_you_mean(nearest: Option<&str>) -> String {
    nearest
        .map(|key| format!("; did you mean {key}?"))
        .unwrap_or_default()
}

/// The environment, read once.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<String, String>);

impl std::fmt::Debug for Environment {
    /// Names only: the values hold secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Environment {
    /// The process's environment. Variables that are not UTF-8 are left out.
    pub fn of_process() -> Self {
        let readable = |(name, value): (OsString, OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self(std::env::vars_os().filter_map(readable).collect())
    }

    /// A variable, unless it is missing or empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }
}

impl Environment {
    /// Sets a variable.
    pub fn set(&mut self, name: &str, value: &str) {
        self.0.insert(name.to_owned(), value.to_owned());
    }

    /// The same with more variables; those that are set already win.
    #[must_use]
    pub fn with(&self, more: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut all: BTreeMap<String, String> = more.into_iter().collect();
        all.extend(
            self.0
                .iter()
                .filter(|(_, value)| !value.is_empty())
                .map(|(name, value)| (name.clone(), value.clone())),
        );
        Self(all)
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        Self(
            pairs
                .into_iter()
                .map(|(k, v)| (k.into(), v.into()))
                .collect(),
        )
    }
}

/// Merges the default file, the user's file and the environment.
pub(super) fn merge(file: Option<PathBuf>, environment: &Environment) -> Result<Table, Error> {
    let default_file = Origin {
        file: Path::new("tenantry.default.toml"),
        text: DEFAULT_TOML,
    };
    let mut table: Table = DEFAULT_TOML
        .parse()
        .map_err(|error| default_file.syntax(&error))?;
    let defaults = table.clone();
    if let Some((file, text)) = read_file(file)? {
        let origin = Origin {
            file: &file,
            text: &text,
        };
        let spanned = DeTable::parse(&text).map_err(|error| origin.syntax(&error))?;
        check_table(&defaults, spanned.get_ref(), "", &origin)?;
        overlay(
            &mut table,
            text.parse().map_err(|error| origin.syntax(&error))?,
        );
    }
    // plain names first: our own, more exact ones win over them
    let (ours, plain): (Vec<_>, Vec<_>) = environment
        .0
        .iter()
        .partition(|(name, _)| name.starts_with(PREFIX));
    for (name, value) in plain.into_iter().chain(ours) {
        apply_variable(&defaults, &mut table, name, value)?;
    }
    Ok(table)
}

fn read_file(file: Option<PathBuf>) -> Result<Option<(PathBuf, String)>, Error> {
    let required = file.is_some();
    let file = file.unwrap_or_else(|| PathBuf::from(FILE_NAME));
    match std::fs::read_to_string(&file) {
        Ok(text) => Ok(Some((file, text))),
        Err(error) if !required && error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Read { file, source }),
    }
}

struct Origin<'a> {
    file: &'a Path,
    text: &'a str,
}

impl Origin<'_> {
    fn syntax(&self, error: &toml::de::Error) -> Error {
        Error::Syntax {
            origin: self.at(error.span().map_or(0, |span| span.start)),
            message: error.message().to_owned(),
        }
    }

    fn at(&self, offset: usize) -> String {
        let before = &self.text[..offset.min(self.text.len())];
        let line = before.matches('\n').count() + 1;
        let column = before.len() - before.rfind('\n').map_or(0, |at| at + 1) + 1;
        format!("{}:{line}:{column}", self.file.display())
    }
}

fn check_table(
    known: &Table,
    given: &DeTable<'_>,
    path: &str,
    origin: &Origin<'_>,
) -> Result<(), Error> {
    for (key, value) in given {
        let name = key.get_ref().as_ref();
        let full = if path.is_empty() {
            name.to_owned()
        } else {
            format!("{path}.{name}")
        };
        if FREE_SECTIONS.contains(&full.as_str()) {
            continue;
        }
        let Some(default) = known.get(name) else {
            let nearest = nearest(name, known.keys()).map(|near| {
                if path.is_empty() {
                    near
                } else {
                    format!("{path}.{near}")
                }
            });
            return Err(Error::UnknownKey {
                origin: origin.at(key.span().start),
                key: full,
                nearest,
            });
        };
        check_type(default, value, &full, origin)?;
    }
    Ok(())
}

fn check_type(
    default: &Value,
    given: &Spanned<DeValue<'_>>,
    key: &str,
    origin: &Origin<'_>,
) -> Result<(), Error> {
    if let (Value::Table(known), DeValue::Table(table)) = (default, given.get_ref()) {
        return check_table(known, table, key, origin);
    }
    if default.type_str() != given.get_ref().type_str() {
        return Err(Error::Type {
            origin: origin.at(given.span().start),
            key: key.to_owned(),
            expected: default.type_str(),
            found: given.get_ref().type_str(),
        });
    }
    Ok(())
}

fn nearest<'a>(given: &str, known: impl Iterator<Item = &'a String>) -> Option<String> {
    known
        .map(|key| (edit_distance(given, key), key))
        .filter(|(distance, _)| *distance <= 3)
        .min()
        .map(|(_, key)| key.clone())
}

/// Levenshtein distance; keys are short.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

fn overlay(base: &mut Table, over: Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(inner)), Value::Table(table)) => overlay(inner, table),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

/// The variables that are understood although their name is not ours.
const PLAIN_VARIABLES: [(&str, &[&str]); 6] = [
    ("DATABASE_URL", &["database", "url"]),
    ("WORKOS_WEBHOOK_SECRET", &["sources", "workos", "secrets"]),
    ("WORKOS_API_KEY", &["sources", "workos", "api_key"]),
    // the variable that Clerk's own libraries read comes second by name, and wins
    ("CLERK_WEBHOOK_SECRET", &["sources", "clerk", "secrets"]),
    (
        "CLERK_WEBHOOK_SIGNING_SECRET",
        &["sources", "clerk", "secrets"],
    ),
    ("CLERK_SECRET_KEY", &["sources", "clerk", "api_key"]),
];

fn apply_variable(
    defaults: &Table,
    table: &mut Table,
    name: &str,
    value: &str,
) -> Result<(), Error> {
    if value.is_empty() {
        return Ok(());
    }
    if let Some((_, path)) = PLAIN_VARIABLES.iter().find(|(plain, _)| *plain == name) {
        let path: Vec<String> = path.iter().map(|&part| part.to_owned()).collect();
        set(table, &path, typed(defaults, &path, value, name)?);
        if path[0] == "sources" {
            default_kind(table, &path[1]);
        }
        return Ok(());
    }
    let Some(key) = name.strip_prefix(PREFIX) else {
        return Ok(());
    };
    let path: Vec<String> = key.to_lowercase().split("__").map(str::to_owned).collect();
    let value = typed(defaults, &path, value, name)?;
    set(table, &path, value);
    Ok(())
}

fn default_kind(table: &mut Table, source: &str) {
    let Some(Value::Table(source_table)) = table
        .get_mut("sources")
        .and_then(|sources| sources.get_mut(source))
    else {
        return;
    };
    source_table
        .entry("kind")
        .or_insert_with(|| Value::String(source.to_owned()));
}

/// What a variable's text may be in a section without defaults. All else is a text, also one of digits alone.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FreeShape {
    Text,
    TextOrList,
    List,
    Seconds,
    YesOrNo,
}

impl FreeShape {
    fn of(key: &str) -> Self {
        match key {
            "accept_templates" | "allow_private_addresses" => Self::YesOrNo,
            "issuer" | "audience" | "retry_schedule_s" => Self::TextOrList,
            _ if key.ends_with("_s") => Self::Seconds,
            _ if key.ends_with('s') => Self::List,
            _ => Self::Text,
        }
    }

    fn takes(self, value: &Value) -> bool {
        match self {
            Self::Text | Self::List => false,
            Self::TextOrList => value.is_array(),
            Self::Seconds => value.is_integer(),
            Self::YesOrNo => value.is_bool(),
        }
    }
}

/// The variable's text as the type that the default has.
fn typed(defaults: &Table, path: &[String], text: &str, variable: &str) -> Result<Value, Error> {
    let free = FREE_SECTIONS.contains(&path[0].as_str());
    let default = path
        .iter()
        .try_fold(Value::Table(defaults.clone()), |at, part| {
            at.get(part).cloned()
        });
    if default.is_none() && !free {
        let siblings = path.split_last().and_then(|(_, parents)| {
            parents
                .iter()
                .try_fold(Value::Table(defaults.clone()), |at, part| {
                    at.get(part).cloned()
                })
        });
        let nearest = siblings
            .as_ref()
            .and_then(Value::as_table)
            .and_then(|table| nearest(path.last()?, table.keys()));
        return Err(Error::UnknownKey {
            origin: format!("environment variable {variable}"),
            key: path.join("."),
            nearest,
        });
    }
    let key = path.last().map(String::as_str);
    let shape = FreeShape::of(key.unwrap_or_default());
    let is_list = matches!(default, Some(Value::Array(_))) || (free && shape == FreeShape::List);
    let parsed = format!("value = {text}")
        .parse::<Table>()
        .ok()
        .and_then(|mut table| table.remove("value"));
    let value = match (default, parsed) {
        (Some(Value::String(_)), _) => Value::String(text.to_owned()),
        (_, Some(array @ Value::Array(_))) if is_list => array,
        _ if is_list => Value::Array(
            text.split(',')
                .map(|part| Value::String(part.trim().to_owned()))
                .collect(),
        ),
        (None, Some(given)) if shape.takes(&given) => given,
        (None, _) => Value::String(text.to_owned()),
        (Some(default), parsed) => {
            let found = parsed.as_ref().map_or("string", Value::type_str);
            return match parsed {
                Some(value) if value.type_str() == default.type_str() => Ok(value),
                _ => Err(Error::Type {
                    origin: format!("environment variable {variable}"),
                    key: path.join("."),
                    expected: default.type_str(),
                    found,
                }),
            };
        }
    };
    Ok(value)
}

fn set(table: &mut Table, path: &[String], value: Value) {
    let [first, rest @ ..] = path else { return };
    if rest.is_empty() {
        table.insert(first.clone(), value);
        return;
    }
    let inner = table
        .entry(first)
        .or_insert_with(|| Value::Table(Table::new()));
    if let Value::Table(inner) = inner {
        set(inner, rest, value);
    }
}
