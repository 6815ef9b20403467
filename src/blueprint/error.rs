//! Why a blueprint is refused: which file, what is wrong, what to do about it.

use std::io;
use std::path::PathBuf;

/// Why a blueprint cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The path is no directory.
    #[error("there is no blueprint directory at {}", dir.display())]
    DirectoryMissing {
        /// The path as it was given.
        dir: PathBuf,
    },
    /// The directory has no `blueprint.toml`.
    #[error("{} has no blueprint.toml", dir.display())]
    SettingsMissing {
        /// The directory.
        dir: PathBuf,
    },
    /// The source says which line and which key.
    #[error("blueprint.toml is not valid")]
    SettingsInvalid {
        /// With line, column and caret.
        source: toml::de::Error,
    },
    /// A migrator nobody knows.
    #[error("blueprint.toml names an unknown migrator {name:?}")]
    MigratorUnknown {
        /// The name in the file.
        name: String,
    },
    /// `migrator = "command"` without its table.
    #[error("blueprint.toml names the migrator \"command\" and has no [command]")]
    CommandMissing,
    /// A migrator that goes by nothing.
    #[error("the migrator has no file in the blueprint")]
    ProjectEmpty,
    /// What the migrator goes by is not there.
    #[error("{file}, which the migrator goes by, is not there")]
    ProjectMissing {
        /// Path inside the blueprint.
        file: String,
    },
    /// More files, or more in them, than a project of migrations has.
    #[error("{file} has more than the files of a migrator may have together: 64 MiB, 10,000 files")]
    ProjectTooLarge {
        /// Path inside the blueprint.
        file: String,
    },
    /// The query of the version is not one query.
    #[error("command.version_query is not one query")]
    VersionQueryInvalid,
    /// A version that no migrator may get.
    #[error("{version:?} is not a version")]
    VersionInvalid {
        /// What was asked for.
        version: String,
    },
    /// The operating system would not give it out.
    #[error("cannot read {file}")]
    Unreadable {
        /// Path inside the blueprint.
        file: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// Something that has no meaning in a blueprint.
    #[error("{file} does not belong in a blueprint")]
    Unexpected {
        /// Path inside the blueprint.
        file: String,
    },
    /// A link that would bring in a file from elsewhere.
    #[error("{file} is a link to {}, outside the blueprint", target.display())]
    LinkOutside {
        /// Path inside the blueprint.
        file: String,
        /// Where the link leads.
        target: PathBuf,
    },
    /// More than 10 MiB.
    #[error("{file} is larger than 10 MiB")]
    TooLarge {
        /// Path inside the blueprint.
        file: String,
    },
    /// Bytes that are no text.
    #[error("{file} line {line} is not UTF-8")]
    NotUtf8 {
        /// Path inside the blueprint.
        file: String,
        /// The first line that is not.
        line: usize,
    },
    /// A character that Postgres cannot take.
    #[error("{file} line {line} has a NUL byte")]
    NulByte {
        /// Path inside the blueprint.
        file: String,
        /// The first line with one.
        line: usize,
    },
    /// A file name with other than plain characters.
    #[error("{file:?} has a character that a file name here may not have")]
    NameInvalid {
        /// Path inside the blueprint.
        file: String,
    },
    /// A migration without number or name.
    #[error("{file} is not named NNNN_name.sql")]
    MigrationNameInvalid {
        /// Path inside the blueprint.
        file: String,
    },
    /// The order of two migrations is not known.
    #[error("{file} has the same number as {other}")]
    NumberTwice {
        /// Path inside the blueprint.
        file: String,
        /// The other file.
        other: String,
    },
    /// The name becomes the schema version, which has 50 characters.
    #[error("{file} has a name of more than 50 characters without .sql")]
    VersionTooLong {
        /// Path inside the blueprint.
        file: String,
    },
    /// A tenant without a schema.
    #[error("migrations/ has no migration")]
    NoMigrations,
    /// An empty file, or only comments.
    #[error("{file} has no statement")]
    NoStatement {
        /// Path inside the blueprint.
        file: String,
    },
    /// A quote or comment that is not closed.
    #[error("{file} line {line} begins a {what} that does not end")]
    Unterminated {
        /// Path inside the blueprint.
        file: String,
        /// Where it begins.
        line: usize,
        /// What it is.
        what: &'static str,
    },
    /// `\i`, `\connect`, or the data lines of a dump.
    #[error("{file} line {line} has a backslash outside quotes, as psql's own commands have")]
    PsqlCommand {
        /// Path inside the blueprint.
        file: String,
        /// The line.
        line: usize,
    },
    /// A statement that would end the transaction the file runs in.
    #[error("{file} line {line} controls the transaction: {statement}")]
    TransactionControl {
        /// Path inside the blueprint.
        file: String,
        /// The line of the statement.
        line: usize,
        /// How the statement begins.
        statement: String,
    },
    /// A statement that would give the file other rights than it is to have.
    #[error("{file} line {line} changes the role that the file runs as: {statement}")]
    RoleChanged {
        /// Path inside the blueprint.
        file: String,
        /// The line of the statement.
        line: usize,
        /// How the statement begins.
        statement: String,
    },
    /// A second statement in a verify file, or in `sync/roles.sql`.
    #[error("{file} line {line} begins a second query")]
    ManyQueries {
        /// Path inside the blueprint.
        file: String,
        /// The line of the second one.
        line: usize,
    },
    /// The mark of a migration in another file.
    #[error(
        "{file} has the mark {:?}, which only a migration may have",
        super::scan::MARK
    )]
    MarkMisplaced {
        /// Path inside the blueprint.
        file: String,
    },
    /// A version that no migration makes.
    #[error("no migration makes the version {version:?}; the last one makes {last}")]
    VersionUnknown {
        /// What was asked for.
        version: String,
        /// The newest version.
        last: String,
    },
    /// Members could be added and never removed, or the reverse.
    #[error("{file} is there, but {missing} is not")]
    SyncIncomplete {
        /// Path inside the blueprint.
        file: String,
        /// What is missing.
        missing: &'static str,
    },
    /// A migration is not what it was when it was applied.
    #[error("{file} was edited after it was applied (sha256 {applied}, now {found})")]
    MigrationEdited {
        /// Path inside the blueprint.
        file: String,
        /// Digest when it was applied.
        applied: String,
        /// Digest now.
        found: String,
    },
    /// A migration that was applied is gone, or has another name.
    #[error("{file} was removed or renamed after it was applied")]
    MigrationRemoved {
        /// Path inside the blueprint, as it was applied.
        file: String,
    },
    /// A new migration would run after a later one.
    #[error("{file} is new, but {after} with a higher number is already applied")]
    MigrationLate {
        /// Path inside the blueprint.
        file: String,
        /// The last migration that is applied.
        after: String,
    },
    /// A starting blueprint would overwrite something.
    #[error("{} exists already", path.display())]
    Exists {
        /// What is in the way.
        path: PathBuf,
    },
    /// The starting blueprint could not be written.
    #[error("cannot write {}", path.display())]
    Unwritable {
        /// The file or directory.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

impl Error {
    /// Stable name of the kind of error.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::DirectoryMissing { .. } => "blueprint_directory_missing",
            Self::SettingsMissing { .. } => "blueprint_settings_missing",
            Self::SettingsInvalid { .. } => "blueprint_settings_invalid",
            Self::MigratorUnknown { .. } => "blueprint_migrator_unknown",
            Self::CommandMissing => "blueprint_command_missing",
            Self::ProjectEmpty => "blueprint_project_empty",
            Self::ProjectMissing { .. } => "blueprint_project_missing",
            Self::ProjectTooLarge { .. } => "blueprint_project_too_large",
            Self::VersionQueryInvalid => "blueprint_version_query_invalid",
            Self::VersionInvalid { .. } => "blueprint_version_invalid",
            Self::Unreadable { .. } => "blueprint_unreadable",
            Self::Unexpected { .. } => "blueprint_unexpected_file",
            Self::LinkOutside { .. } => "blueprint_link_outside",
            Self::TooLarge { .. } => "blueprint_file_too_large",
            Self::NotUtf8 { .. } => "blueprint_not_utf8",
            Self::NulByte { .. } => "blueprint_nul_byte",
            Self::NameInvalid { .. } => "blueprint_name_invalid",
            Self::MigrationNameInvalid { .. } => "blueprint_migration_name_invalid",
            Self::NumberTwice { .. } => "blueprint_number_twice",
            Self::VersionTooLong { .. } => "blueprint_version_too_long",
            Self::NoMigrations => "blueprint_no_migrations",
            Self::NoStatement { .. } => "blueprint_no_statement",
            Self::Unterminated { .. } => "blueprint_unterminated",
            Self::PsqlCommand { .. } => "blueprint_psql_command",
            Self::TransactionControl { .. } => "blueprint_transaction_control",
            Self::RoleChanged { .. } => "blueprint_role_changed",
            Self::ManyQueries { .. } => "blueprint_many_queries",
            Self::MarkMisplaced { .. } => "blueprint_mark_misplaced",
            Self::VersionUnknown { .. } => "blueprint_version_unknown",
            Self::SyncIncomplete { .. } => "blueprint_sync_incomplete",
            Self::MigrationEdited { .. } => "blueprint_migration_edited",
            Self::MigrationRemoved { .. } => "blueprint_migration_removed",
            Self::MigrationLate { .. } => "blueprint_migration_late",
            Self::Exists { .. } => "blueprint_exists",
            Self::Unwritable { .. } => "blueprint_unwritable",
        }
    }

    /// What to do about it.
    #[expect(clippy::too_many_lines, reason = "one sentence for each kind of error")]
    pub const fn fix(&self) -> &'static str {
        match self {
            Self::DirectoryMissing { .. } => {
                "correct the path, or make a blueprint there with `tenantry init`"
            }
            Self::SettingsMissing { .. } => {
                "add one (it may be empty), or start with `tenantry init`"
            }
            Self::SettingsInvalid { .. } => {
                "correct the line shown; `tenantry init` writes a file with every key explained"
            }
            Self::MigratorUnknown { .. } => {
                "write migrator = \"sql\", \"alembic\" or \"command\"; docs/migrators.md has each"
            }
            Self::CommandMissing => {
                "add [command] with argv, files and version_query, as docs/migrators.md shows"
            }
            Self::ProjectEmpty => {
                "name in command.files what the program goes by, such as db/migrations; a folder must have a file"
            }
            Self::ProjectMissing { .. } => {
                "put the file or folder into the blueprint, or correct its name in blueprint.toml"
            }
            Self::ProjectTooLarge { .. } => {
                "take out of the folder what is no part of the migrations, such as a virtual environment"
            }
            Self::VersionQueryInvalid => {
                "write one query, without begin or commit, such as select max(version) from schema_migrations"
            }
            Self::VersionInvalid { .. } => {
                "name a revision: at most 50 letters, digits and _-.@:+, and no - at its beginning"
            }
            Self::Unreadable { .. } => {
                "check that the file is there and that this user may read it"
            }
            Self::Unexpected { .. } => {
                "move it away or begin its name with a dot; a blueprint has blueprint.toml, README.md, and *.sql in migrations/, seed/shared/, seed/tenant/ and verify/; sync/ has member.sql, member_removed.sql and roles.sql"
            }
            Self::LinkOutside { .. } => "copy the file into the blueprint instead of linking to it",
            Self::TooLarge { .. } => "split the file; bulk data does not belong in a blueprint",
            Self::NotUtf8 { .. } | Self::NulByte { .. } => "save the file as UTF-8 text",
            Self::NameInvalid { .. } => "use letters, digits, _, - and . in file names",
            Self::MigrationNameInvalid { .. } => {
                "name it like 0001_users.sql: four or more digits, _, a name"
            }
            Self::NumberTwice { .. } => "give the newer of the two the next free number",
            Self::VersionTooLong { .. } => {
                "shorten the file name; it becomes the schema version of every tenant"
            }
            Self::NoMigrations => "add the first one, such as migrations/0001_users.sql",
            Self::NoStatement { .. } => "write the statement that is missing, or remove the file",
            Self::Unterminated { .. } => "close it; the file may have been cut off",
            Self::PsqlCommand { .. } => {
                "write plain SQL; of a dump, take out lines that begin with a backslash and use pg_dump --inserts"
            }
            Self::TransactionControl { .. } => {
                "take the statement out: tenantry runs the file in a transaction of its own"
            }
            Self::RoleChanged { .. } => {
                "take the statement out: every file runs with the rights that docs/blueprint.md names"
            }
            Self::ManyQueries { .. } => {
                "join the two with union all, or move the second into a file of its own"
            }
            Self::MarkMisplaced { .. } => {
                "take the mark out: seeds and verify queries run in a transaction"
            }
            Self::VersionUnknown { .. } => {
                "name a migration of the blueprint, such as 0008_attachments or 8"
            }
            Self::SyncIncomplete { .. } => {
                "write the missing one too: who comes may leave; or remove the folder sync/"
            }
            Self::MigrationEdited { .. } => {
                "restore the file as it was, line ends included, and put the change into a new migration"
            }
            Self::MigrationRemoved { .. } => {
                "restore the file under its old name, and undo its effect in a new migration"
            }
            Self::MigrationLate { .. } => "rename it to the next free number at the end",
            Self::Exists { .. } => "choose another directory, or move what is there away",
            Self::Unwritable { .. } => "check the free space and that this user may write there",
        }
    }
}
