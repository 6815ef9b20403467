//! `blueprint.toml`: who migrates, how long things may take, and what members are.
//!
//! Every key has a default; an unknown one is refused with its line.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, de};

use super::{Alembic, Command, Error};

/// A day: more than any step should take, and well inside what Postgres accepts.
const LONGEST_MS: u32 = 86_400_000;

/// Far more than any provider's slug has.
const LONGEST_ROLE: usize = 64;

/// Far more than any provider's slug has.
const LONGEST_PERMISSION: usize = 128;

/// What `blueprint.toml` says.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Who runs the migrations.
    pub migrator: Migrator,
    /// How long one statement may run.
    #[serde(deserialize_with = "milliseconds")]
    pub statement_timeout_ms: u32,
    /// How long one statement may wait for a lock.
    #[serde(deserialize_with = "milliseconds")]
    pub lock_timeout_ms: u32,
    /// How long all migrations and the shared seed of one database may take.
    #[serde(deserialize_with = "milliseconds")]
    pub migrate_timeout_ms: u32,
    /// How long the tenant seed may take.
    #[serde(deserialize_with = "milliseconds")]
    pub seed_timeout_ms: u32,
    /// How long all verify queries of one tenant may take.
    #[serde(deserialize_with = "milliseconds")]
    pub verify_timeout_ms: u32,
    /// `[alembic]`
    pub alembic: Alembic,
    /// `[command]`
    pub command: Option<Command>,
    /// `[members]`
    pub members: Members,
    /// `[roles]`: what each role may do, beside what the provider lets it.
    #[serde(deserialize_with = "roles")]
    pub roles: BTreeMap<String, Vec<String>>,
}

/// `[members]`: how people reach the tenant's database.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Members {
    /// The role of a member who has none, or one that the tenant's database does not know.
    #[serde(deserialize_with = "role")]
    pub default_role: String,
    /// How long telling a tenant's database of a page of members may take.
    #[serde(deserialize_with = "milliseconds")]
    pub sync_timeout_ms: u32,
}

/// Who runs the migrations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Migrator {
    /// tenantry applies the numbered files in `migrations/`.
    Sql,
    /// The user's Alembic project, run by the user's Python.
    Alembic,
    /// Any program.
    Command,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            migrator: Migrator::Sql,
            statement_timeout_ms: 30_000,
            lock_timeout_ms: 2_000,
            migrate_timeout_ms: 300_000,
            seed_timeout_ms: 60_000,
            verify_timeout_ms: 30_000,
            alembic: Alembic::default(),
            command: None,
            members: Members::default(),
            roles: BTreeMap::new(),
        }
    }
}

impl Default for Members {
    fn default() -> Self {
        Self {
            default_role: "member".to_owned(),
            sync_timeout_ms: 60_000,
        }
    }
}

impl Settings {
    /// What a session in a tenant's database has from its beginning: settings of the server, in milliseconds.
    pub fn session_timeouts(&self) -> [(&'static str, String); 2] {
        [
            ("statement_timeout", self.statement_timeout_ms.to_string()),
            ("lock_timeout", self.lock_timeout_ms.to_string()),
        ]
    }

    /// Reads the text of a `blueprint.toml`.
    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        /// Read before the rest: a migrator of another version may bring keys that this one does not know.
        #[derive(Deserialize)]
        struct OnlyMigrator {
            migrator: Option<String>,
        }

        let invalid = |source| Error::SettingsInvalid { source };
        let only: OnlyMigrator = toml::from_str(text).map_err(invalid)?;
        match only.migrator.as_deref() {
            None | Some("sql" | "alembic" | "command") => toml::from_str(text)
                .map_err(invalid)
                .and_then(Self::complete),
            Some(name) => {
                let name = name.to_owned();
                Err(Error::MigratorUnknown { name })
            }
        }
    }
}

impl Settings {
    /// Refuses `command` without its table.
    fn complete(self) -> Result<Self, Error> {
        match (self.migrator, &self.command) {
            (Migrator::Command, None) => Err(Error::CommandMissing),
            (Migrator::Command, Some(command)) if command.files.is_empty() => {
                Err(Error::ProjectEmpty)
            }
            _ => Ok(self),
        }
    }
}

impl Migrator {
    /// The name in `blueprint.toml`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sql => "sql",
            Self::Alembic => "alembic",
            Self::Command => "command",
        }
    }
}

/// Zero would mean "no limit" to Postgres: no step may hang for ever.
fn milliseconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let value = u32::deserialize(deserializer)?;
    if (1..=LONGEST_MS).contains(&value) {
        return Ok(value);
    }
    Err(de::Error::custom(format!(
        "must be from 1 to {LONGEST_MS} milliseconds"
    )))
}

/// As providers write the slugs of roles.
fn role<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let slug = String::deserialize(deserializer)?;
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_slug = slug.bytes().next().is_some_and(is_plain)
        && slug
            .bytes()
            .all(|byte| is_plain(byte) || b"_-".contains(&byte))
        && slug.len() <= LONGEST_ROLE;
    if is_slug {
        return Ok(slug);
    }
    Err(de::Error::custom(
        "must be the slug of a role: lower-case letters, digits, _ and -",
    ))
}

/// Roles are slugs; permissions may be written as providers write theirs, such as `org:invoices:read`.
fn roles<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, Vec<String>>, D::Error> {
    let roles = BTreeMap::<String, Vec<String>>::deserialize(deserializer)?;
    let is_permission = |slug: &String| {
        !slug.is_empty()
            && slug.len() <= LONGEST_PERMISSION
            && slug
                .bytes()
                .all(|byte| byte.is_ascii_graphic() && byte != b',')
    };
    if roles.values().flatten().all(is_permission) {
        return Ok(roles);
    }
    Err(de::Error::custom(format!(
        "must be permissions of 1 to {LONGEST_PERMISSION} visible ASCII characters without a comma"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cause(text: &str) -> String {
        match Settings::parse(text) {
            Err(Error::SettingsInvalid { source }) => source.to_string(),
            other => panic!("expected invalid settings, got {other:?}"),
        }
    }

    #[test]
    fn an_empty_file_is_the_defaults() {
        assert_eq!(Settings::parse("").unwrap(), Settings::default());
    }

    #[test]
    fn keys_override_one_by_one() {
        let settings = Settings::parse("lock_timeout_ms = 5").unwrap();
        assert_eq!(settings.lock_timeout_ms, 5);
        assert_eq!(settings.seed_timeout_ms, 60_000);
    }

    #[test]
    fn a_wrong_key_is_shown_with_line_and_caret() {
        let cause = cause("migrator = \"sql\"\nlock_timeout = 5\n");
        assert!(cause.contains("line 2, column 1"), "{cause}");
        assert!(cause.contains("^^^^"), "{cause}");
        assert!(cause.contains("unknown field `lock_timeout`"), "{cause}");
        assert!(cause.contains("`lock_timeout_ms`"), "{cause}");
    }

    #[test]
    fn a_timeout_is_positive_and_at_most_a_day() {
        for value in [
            "0",
            "86400001",
            "-1",
            "\"1s\"",
            "1.5",
            "99999999999999999999",
        ] {
            let cause = cause(&format!("seed_timeout_ms = {value}"));
            assert!(cause.contains("line 1"), "{cause}");
        }
        assert!(Settings::parse("seed_timeout_ms = 86400000").is_ok());
    }

    #[test]
    fn members_have_a_default_role_which_is_a_slug() {
        assert_eq!(
            Settings::parse("[members]").unwrap().members.default_role,
            "member"
        );
        let settings = Settings::parse("[members]\ndefault_role = \"read-only_2\"").unwrap();
        assert_eq!(settings.members.default_role, "read-only_2");
        assert_eq!(settings.members.sync_timeout_ms, 60_000);
        for role in ["", "Member", "a b", "org:admin", "-", &"a".repeat(65)] {
            let cause = cause(&format!("[members]\ndefault_role = \"{role}\""));
            assert!(
                cause.contains("line 2") && cause.contains("slug"),
                "{cause}"
            );
        }
        let cause = cause("[members]\nsync_timeout_ms = 0");
        assert!(cause.contains("line 2"), "{cause}");
    }

    #[test]
    fn an_unknown_migrator_is_refused_before_its_keys() {
        let code = |text| Settings::parse(text).unwrap_err().code();
        let other = "migrator = \"flyway\"\nlocations = \"sql\"\n";
        assert_eq!(code(other), "blueprint_migrator_unknown");
        assert_eq!(code("migrator = \"SQL\""), "blueprint_migrator_unknown");
    }

    #[test]
    fn a_program_is_a_list_and_its_files_lie_inside() {
        let command = |rest: &str| {
            format!("migrator = \"command\"\n[command]\nversion_query = \"select 1\"\n{rest}")
        };
        let good = command("argv = [\"dbmate\", \"migrate\"]\nfiles = [\"db/migrations\"]");
        let settings = Settings::parse(&good).unwrap();
        assert_eq!(settings.project_paths(), ["db/migrations"]);
        for rest in [
            "argv = []\nfiles = [\"db\"]",
            "argv = \"dbmate up\"\nfiles = [\"db\"]",
            "argv = [\"a\"]\nfiles = [\"../db\"]",
            "argv = [\"a\"]\nfiles = [\"/db\"]",
            "argv = [\"a\"]\nfiles = [\"db\"]\nenvironment = [\"PGPASSWORD\"]",
            "argv = [\"a\"]\nfiles = [\"db\"]\nenvironment = [\"TENANTRY_API_KEY\"]",
            "argv = [\"a\"]\nfiles = [\"db\"]\nenvironment = [\"A=B\"]",
        ] {
            let cause = cause(&command(rest));
            assert!(cause.contains("line"), "{cause}");
        }
        let code = |text: &str| Settings::parse(text).unwrap_err().code();
        assert_eq!(code("migrator = \"command\""), "blueprint_command_missing");
        assert_eq!(
            code(&command("argv = [\"a\"]\nfiles = []")),
            "blueprint_project_empty"
        );
    }
}
