//! `[alembic]` and `[command]` in `blueprint.toml`: migrators that are programs of their own.

use serde::{Deserialize, Deserializer, de};

/// `[alembic]`: the user's project, run by the user's Python.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Alembic {
    /// The beginning of the command line; `-m alembic …` follows.
    #[serde(deserialize_with = "argv")]
    pub python: Vec<String>,
    /// Alembic's configuration file, inside the blueprint.
    #[serde(deserialize_with = "path")]
    pub ini: String,
    /// The folder of the project, inside the blueprint.
    #[serde(deserialize_with = "path")]
    pub directory: String,
    /// More files and folders that the project imports.
    #[serde(deserialize_with = "paths")]
    pub files: Vec<String>,
    /// Variables of our own environment that it gets.
    #[serde(deserialize_with = "names")]
    pub environment: Vec<String>,
    /// The schema of Alembic's table.
    #[serde(deserialize_with = "identifier")]
    pub version_schema: String,
    /// Alembic's table.
    #[serde(deserialize_with = "identifier")]
    pub version_table: String,
}

/// `[command]`: any program that migrates the database that its environment names.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// The program and its arguments; no shell reads them.
    #[serde(deserialize_with = "argv")]
    pub argv: Vec<String>,
    /// The files and folders that the program goes by, inside the blueprint.
    #[serde(deserialize_with = "paths")]
    pub files: Vec<String>,
    /// One query that returns the version that the database is on, as one row with one column.
    pub version_query: String,
    /// Variables of our own environment that it gets.
    #[serde(default, deserialize_with = "names")]
    pub environment: Vec<String>,
}

impl Default for Alembic {
    fn default() -> Self {
        Self {
            python: vec!["python3".to_owned()],
            ini: "alembic.ini".to_owned(),
            directory: "alembic".to_owned(),
            files: Vec::new(),
            environment: Vec::new(),
            version_schema: "public".to_owned(),
            version_table: "alembic_version".to_owned(),
        }
    }
}

fn argv<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let argv = Vec::<String>::deserialize(deserializer)?;
    let is_usable = |argument: &String| !argument.contains('\0');
    if argv.first().is_some_and(|program| !program.is_empty()) && argv.iter().all(is_usable) {
        return Ok(argv);
    }
    Err(de::Error::custom(
        "must be a list that begins with the program, such as [\"python3\"]",
    ))
}

fn path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    check_path(String::deserialize(deserializer)?).map_err(de::Error::custom)
}

fn paths<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let paths = Vec::<String>::deserialize(deserializer)?;
    paths
        .into_iter()
        .map(check_path)
        .collect::<Result<_, _>>()
        .map_err(de::Error::custom)
}

/// Inside the blueprint, and written in one way only.
fn check_path(path: String) -> Result<String, String> {
    let is_name = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.contains('\0');
    if path.split('/').all(is_name) {
        return Ok(path);
    }
    Err(format!(
        "{path:?} must be a path inside the blueprint, such as db/migrations"
    ))
}

/// Ours are not among them: what the contract says is what the program gets.
fn names<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let names = Vec::<String>::deserialize(deserializer)?;
    let is_start = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
    let is_name = |name: &String| {
        name.bytes().next().is_some_and(is_start)
            && name
                .bytes()
                .all(|byte| is_start(byte) || byte.is_ascii_digit())
    };
    let is_ours = |name: &String| {
        let ours = [
            "DATABASE_URL",
            "PGHOST",
            "PGPORT",
            "PGUSER",
            "PGPASSWORD",
            "PGDATABASE",
            "PGSSLMODE",
            "PGAPPNAME",
        ];
        ours.contains(&name.as_str()) || name.starts_with("TENANTRY")
    };
    match names.iter().find(|name| !is_name(name) || is_ours(name)) {
        None => Ok(names),
        Some(name) => Err(de::Error::custom(format!(
            "{name:?} must be the name of a variable that tenantry does not set itself"
        ))),
    }
}

fn identifier<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let name = String::deserialize(deserializer)?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if (1..=63).contains(&name.len()) && name.bytes().all(is_plain) {
        return Ok(name);
    }
    Err(de::Error::custom("must be a name of letters, digits and _"))
}
