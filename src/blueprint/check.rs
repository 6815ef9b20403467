//! From raw files to a blueprint: names, numbers, text and statements, each checked once.
//!
//! Pure: the same for a directory and for the files that are compiled in.

use aws_lc_rs::digest;

use super::load::RawFile;
use super::scan::{self, Flaw, Statement};
use super::{Blueprint, Error, LONGEST_VERSION, Project, Settings, SqlFile, SyncScripts, sync};

const MIGRATIONS: &str = "migrations/";

/// Reads `blueprint.toml`.
pub(super) fn settings(file: &RawFile) -> Result<Settings, Error> {
    let settings = Settings::parse(text(file)?)?;
    if let Some(command) = &settings.command {
        match scan::statements(&command.version_query).as_deref() {
            Ok([one]) if !ends_transaction(one) && !changes_role(one) => {}
            _ => return Err(Error::VersionQueryInvalid),
        }
    }
    Ok(settings)
}

/// Checks every file and puts it where it belongs.
pub(super) fn assemble(
    settings: Settings,
    files: Vec<RawFile>,
    project: Option<Project>,
) -> Result<Blueprint, Error> {
    let mut blueprint = Blueprint {
        settings,
        migrations: Vec::new(),
        project,
        shared_seed: Vec::new(),
        tenant_seed: Vec::new(),
        sync: None,
        verify: Vec::new(),
    };
    let mut sync = Vec::new();
    for file in files {
        let checked = check(&file)?;
        let (folder, _) = file.name.rsplit_once('/').unwrap_or_default();
        match folder {
            "migrations" if blueprint.project.is_none() => blueprint.migrations.push(checked),
            "seed/shared" => blueprint.shared_seed.push(checked),
            "seed/tenant" => blueprint.tenant_seed.push(checked),
            "sync" => sync.push(checked),
            "verify" => blueprint.verify.push(checked),
            _ => return Err(Error::Unexpected { file: file.name }),
        }
    }
    blueprint.sync = SyncScripts::assemble(sync)?;
    blueprint.migrations.sort_by_key(|file| number(&file.name));
    for pair in blueprint.migrations.windows(2) {
        if number(&pair[0].name) == number(&pair[1].name) {
            return Err(Error::NumberTwice {
                file: pair[1].name.clone(),
                other: pair[0].name.clone(),
            });
        }
    }
    if blueprint.migrations.is_empty() && blueprint.project.is_none() {
        return Err(Error::NoMigrations);
    }
    Ok(blueprint)
}

/// The version that a migration makes: its file name without folder and `.sql`.
pub(super) fn version(name: &str) -> &str {
    let name = name.strip_prefix(MIGRATIONS).unwrap_or(name);
    name.strip_suffix(".sql").unwrap_or(name)
}

/// The number in `migrations/NNNN_name.sql`, if the name is one.
pub(super) fn number(name: &str) -> Option<u64> {
    let (digits, rest) = version(name).split_once('_')?;
    let is_number = digits.len() >= 4 && digits.bytes().all(|byte| byte.is_ascii_digit());
    if is_number && !rest.is_empty() {
        digits.parse().ok()
    } else {
        None
    }
}

fn check(file: &RawFile) -> Result<SqlFile, Error> {
    check_name(&file.name)?;
    let sql = text(file)?;
    let statements = check_statements(&file.name, sql)?;
    Ok(SqlFile {
        statements,
        name: file.name.clone(),
        sql: sql.to_owned(),
        sha256: hex::encode(digest::digest(&digest::SHA256, &file.bytes)),
    })
}

fn check_name(name: &str) -> Result<(), Error> {
    let file = || name.to_owned();
    let (_, base) = name.rsplit_once('/').unwrap_or(("", name));
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    if !base.bytes().all(is_plain) {
        return Err(Error::NameInvalid { file: file() });
    }
    if name.starts_with(MIGRATIONS) {
        if number(name).is_none() {
            return Err(Error::MigrationNameInvalid { file: file() });
        }
        if version(name).len() > LONGEST_VERSION {
            return Err(Error::VersionTooLong { file: file() });
        }
    }
    Ok(())
}

/// The text of a file, without a byte order mark.
fn text(file: &RawFile) -> Result<&str, Error> {
    let line_at = |at: usize| scan::line(&file.bytes, at);
    let text = std::str::from_utf8(&file.bytes).map_err(|error| Error::NotUtf8 {
        file: file.name.clone(),
        line: line_at(error.valid_up_to()),
    })?;
    if let Some(at) = text.find('\0') {
        return Err(Error::NulByte {
            file: file.name.clone(),
            line: line_at(at),
        });
    }
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

/// The statements one by one, where the file is marked to run outside of a transaction.
fn check_statements(name: &str, sql: &str) -> Result<Option<Vec<String>>, Error> {
    let file = name.to_owned();
    let line = |at| scan::line(sql.as_bytes(), at);
    let statements = match scan::statements(sql) {
        Ok(statements) => statements,
        Err(Flaw::Unterminated { at, what }) => {
            let line = line(at);
            return Err(Error::Unterminated { file, line, what });
        }
        Err(Flaw::Backslash { at }) => {
            let line = line(at);
            return Err(Error::PsqlCommand { file, line });
        }
    };
    if statements.is_empty() {
        return Err(Error::NoStatement { file });
    }
    let begins = |found: &Statement| found.words[..found.words.len().min(4)].join(" ");
    if let Some(found) = statements.iter().find(|found| ends_transaction(found)) {
        let (line, statement) = (line(found.at), begins(found));
        return Err(Error::TransactionControl {
            file,
            line,
            statement,
        });
    }
    if let Some(found) = statements.iter().find(|found| changes_role(found)) {
        let (line, statement) = (line(found.at), begins(found));
        return Err(Error::RoleChanged {
            file,
            line,
            statement,
        });
    }
    match statements.get(1) {
        Some(second) if name.starts_with("verify/") || name == sync::ROLES => {
            let line = line(second.at);
            return Err(Error::ManyQueries { file, line });
        }
        _ => {}
    }
    match scan::has_mark(sql) {
        false => Ok(None),
        true if name.starts_with(MIGRATIONS) => Ok(Some(scan::cut(sql, &statements))),
        true => Err(Error::MarkMisplaced { file }),
    }
}

/// Whether a statement begins or ends a transaction. Savepoints do neither.
fn ends_transaction(statement: &Statement) -> bool {
    let words: Vec<&str> = statement.words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["begin" | "commit" | "end" | "abort", ..] | ["start" | "prepare", "transaction", ..] => {
            true
        }
        ["rollback", rest @ ..] => !rest.contains(&"to"),
        _ => false,
    }
}

/// Whether a statement takes the role off under which a file runs: beneath it is our own.
fn changes_role(statement: &Statement) -> bool {
    let words: Vec<&str> = statement.words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["set", "local" | "session", what, ..] | ["set" | "reset", what, ..]
            if matches!(*what, "role" | "\"role\"" | "session_authorization") =>
        {
            true
        }
        ["set", "local" | "session", "session", "authorization", ..]
        | ["set" | "reset", "session", "authorization", ..]
        | ["discard", "all", ..] => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_four_digits_or_more() {
        assert_eq!(number("migrations/0001_users.sql"), Some(1));
        assert_eq!(
            number("migrations/20260102030405_a.sql"),
            Some(20_260_102_030_405)
        );
        for name in ["001_a", "0001", "0001_", "a001_b", "+001_a", "0001-a", "_a"] {
            assert_eq!(number(&format!("migrations/{name}.sql")), None, "{name}");
        }
        assert_eq!(number("migrations/99999999999999999999_a.sql"), None);
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_sql() {
        let bytes = "\u{feff}select 1".as_bytes().to_vec();
        let name = "verify/a.sql".to_owned();
        let file = check(&RawFile { name, bytes }).unwrap();
        assert_eq!(file.sql, "select 1");
    }

    #[test]
    fn transaction_control_is_told_from_look_alikes() {
        let ends = |sql| scan::statements(sql).unwrap().iter().any(ends_transaction);
        for sql in [
            "begin",
            "BEGIN;",
            "select 1; Commit",
            "start\ttransaction isolation level serializable",
            "/* x */ rollback -- to nothing",
            "rollback and chain",
            "abort",
            "end",
            "prepare transaction 'a'",
            "commit prepared 'a'",
        ] {
            assert!(ends(sql), "{sql}");
        }
        for sql in [
            "rollback to a",
            "rollback work to savepoint a",
            "savepoint a",
            "release a",
            "prepare a as select 1",
            "create table begin_end (a int)",
            "select 'a; commit;'",
            "select $$; commit; $$",
            "select 1 -- ; commit",
        ] {
            assert!(!ends(sql), "{sql}");
        }
    }

    #[test]
    fn a_change_of_role_is_told_from_look_alikes() {
        let changes = |sql| scan::statements(sql).unwrap().iter().any(changes_role);
        for sql in [
            "reset role",
            "SET ROLE none",
            "set local role app",
            "set session role = app",
            "set \"role\" to app",
            "select 1; set session authorization default",
            "set local session authorization app",
            "reset session authorization",
            "set session_authorization = app",
            "discard all",
        ] {
            assert!(changes(sql), "{sql}");
        }
        for sql in [
            "set local work_mem = '64MB'",
            "set session characteristics as transaction read only",
            "reset all",
            "alter role current_user set search_path = public",
            "update users set role = 'admin'",
            "select 'reset role'",
        ] {
            assert!(!changes(sql), "{sql}");
        }
    }
}
