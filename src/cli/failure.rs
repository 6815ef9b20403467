//! How a command fails: what, why, what to do next, and the exit code.

use std::{fmt::Display, process::ExitCode};

use crate::{
    actions, causes::chain, config, db, fleet, notifications, page, private_postgres, provisioning,
    queue, replica, tenants,
};

/// Exit codes, documented in `tenantry --help`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// Done.
    Done = 0,
    /// Refused, or failed for a reason that is told.
    Failed = 1,
    /// Something that should not happen.
    Unexpected = 2,
    /// Not ready in time.
    NotInTime = 3,
    /// The arguments or the configuration cannot be used (`EX_USAGE` of sysexits).
    Usage = 64,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A command's failure.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    /// What and why, with the chain of causes.
    pub(crate) message: String,
    /// What to do next; may be empty where nothing needs to be told.
    pub(crate) hint: String,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Display, hint: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.to_string(),
            hint: hint.into(),
        }
    }

    pub(crate) fn failed(message: impl Display, hint: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message, hint)
    }

    /// An error for which no better hint is known.
    pub(crate) fn unexpected(error: &(dyn std::error::Error + 'static)) -> Self {
        Self::new(
            Exit::Unexpected,
            chain(error),
            "run `tenantry doctor`; it checks what tenantry needs",
        )
    }
}

impl From<config::Error> for Failure {
    fn from(error: config::Error) -> Self {
        let hint = "tenantry.default.toml explains every setting; `tenantry config print` shows the effective ones";
        Self::new(Exit::Usage, chain(&error), hint)
    }
}

impl From<private_postgres::Error> for Failure {
    fn from(error: private_postgres::Error) -> Self {
        let fix = error.fix();
        Self::failed(format!("{} [{}]", chain(&error), error.code()), fix)
    }
}

impl From<db::Error> for Failure {
    fn from(error: db::Error) -> Self {
        let hint = match &error {
            db::Error::Newer(_) => {
                "run the newer tenantry; docs/operations.md says how to go back: Upgrade and rollback"
            }
            db::Error::Url(_) => {
                "give DATABASE_URL as postgresql://user:password@host:port/database"
            }
            db::Error::Sql(_) | db::Error::Migrate(_) => {
                "check DATABASE_URL and that Postgres runs; `tenantry doctor` tells more"
            }
        };
        let exit = if matches!(error, db::Error::Url(_)) {
            Exit::Usage
        } else {
            Exit::Failed
        };
        let mut message = chain(&error);
        if matches!(error, db::Error::Newer(_)) {
            message.push_str(" [schema_too_new]");
        }
        Self::new(exit, message, hint)
    }
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        match db::sqlstate(&error).as_deref() {
            Some("42P01") => Self::failed(
                "this database has no tenantry tables",
                "start `tenantry serve` once against it (it migrates), or check DATABASE_URL",
            ),
            _ => db::Error::Sql(error).into(),
        }
    }
}

impl From<page::Error> for Failure {
    fn from(error: page::Error) -> Self {
        match error {
            page::Error::Sql(error) => error.into(),
            error @ (page::Error::CursorInvalid | page::Error::LimitInvalid(_)) => {
                Self::unexpected(&error)
            }
        }
    }
}

impl From<actions::Refusal> for Failure {
    fn from(error: actions::Refusal) -> Self {
        match error {
            actions::Refusal::Queue(queue::Error::Sql(error))
            | actions::Refusal::Job(queue::Refused::Sql(error)) => error.into(),
            error => Self::failed(format!("{error} [{}]", error.code()), error.fix()),
        }
    }
}

impl From<tenants::HostError> for Failure {
    fn from(error: tenants::HostError) -> Self {
        let hint = match error {
            tenants::HostError::Sql(error) => return error.into(),
            tenants::HostError::Invalid(_) => "give a name such as crm.customer.example",
            tenants::HostError::Taken(_) => {
                "find whose it is: tenantry tenants get <host>; take it from them first"
            }
        };
        Self::failed(format!("{error} [{}]", error.code()), hint)
    }
}

impl From<fleet::Error> for Failure {
    fn from(error: fleet::Error) -> Self {
        match error {
            fleet::Error::Sql(error) | fleet::Error::Queue(queue::Error::Sql(error)) => {
                error.into()
            }
            error => Self::failed(format!("{error} [{}]", error.code()), error.fix()),
        }
    }
}

impl From<notifications::Error> for Failure {
    fn from(error: notifications::Error) -> Self {
        match error {
            notifications::Error::Sql(error) => error.into(),
            error => Self::failed(format!("{error} [{}]", error.code()), error.fix()),
        }
    }
}

impl From<replica::Error> for Failure {
    fn from(error: replica::Error) -> Self {
        let text = chain(&error);
        match error {
            replica::Error::Db(error) => error.into(),
            replica::Error::Clusters(_) => {
                Self::new(Exit::Usage, text, "check [[clusters]] and DATABASE_URL")
            }
            replica::Error::Keys(_) => Self::new(
                Exit::Usage,
                text,
                "set TENANTRY__SECRETS__KEYS=\"k1:$(openssl rand -base64 32)\" (and keep it: it opens the tenants' passwords)",
            ),
            replica::Error::Blueprint(error) => Self::new(
                Exit::Usage,
                format!("{text} [{}]", error.code()),
                error.fix(&provisioning::Again::With(
                    "the same command again".to_owned(),
                )),
            ),
            replica::Error::Provider { name, source } => Self::new(
                Exit::Usage,
                format!("{text} [{}]", source.code()),
                format!("check sources.{name}.api_key and sources.{name}.api_url"),
            ),
            replica::Error::Endpoint { name, .. } => Self::new(
                Exit::Usage,
                text,
                format!("check [notifications.{name}], and docs/notifications.md"),
            ),
            replica::Error::Issuers(_) => Self::new(
                Exit::Usage,
                text,
                "check [issuers], and docs/authentication.md",
            ),
            replica::Error::Listen { .. } => Self::failed(
                text,
                "another program has the port: choose one with --port, or stop the other program",
            ),
        }
    }
}
