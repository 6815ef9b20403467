//! The blueprint: what a tenant is made of, as a directory beside the application.
//!
//! ```text
//! blueprint.toml          who migrates, timeouts
//! migrations/NNNN_*.sql   the schema, in order of the numbers, each file in a transaction of its own
//! seed/shared/*.sql       rows that every tenant has; with the migrations, part of the template
//! seed/tenant/*.sql       this tenant's rows; read current_setting('tenantry.organization_name') and so on
//! sync/*.sql              how a member appears in the tenant's database, and how one who left
//! verify/*.sql            one query a file, returns the rows that are wrong
//! ```
//!
//! With the migrator `alembic` or `command` the files that `blueprint.toml` names stand in the place of
//! `migrations/`; they are read for the hash and for nothing else.
//!
//! A [`Blueprint`] that was loaded holds its whole promise in memory: every file is text that the
//! server can take, named and numbered without doubt, and free of statements that would end the
//! transaction it runs in. Loading only reads, and only inside the directory. What is left to the
//! server is whether the SQL means anything.
//!
//! Digests are taken over the bytes as they are on disk: a checkout that turns line ends into CRLF
//! is another blueprint. A byte order mark is part of the digest and not of the SQL.

mod bundled;
mod check;
mod error;
mod load;
mod programs;
mod project;
mod scan;
mod settings;
mod sync;

use std::path::{Path, PathBuf};

use aws_lc_rs::digest;

pub use self::error::Error;
pub use self::programs::{Alembic, Command};
pub use self::project::Project;
pub use self::scan::concurrent_index;
pub use self::settings::{Members, Migrator, Settings};
pub use self::sync::SyncScripts;

/// Characters of a version that are kept with each tenant: applications read it from a `varchar(50)`.
pub const LONGEST_VERSION: usize = 50;

/// Everything a tenant is made of, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blueprint {
    /// What `blueprint.toml` says.
    pub settings: Settings,
    /// The schema, in the order to apply it; empty only where a `project` stands in its place.
    pub migrations: Vec<SqlFile>,
    /// What a migrator that is a program of its own goes by.
    pub project: Option<Project>,
    /// Rows that are the same for every tenant, in the order to run them.
    pub shared_seed: Vec<SqlFile>,
    /// Rows of one tenant, in the order to run them.
    pub tenant_seed: Vec<SqlFile>,
    /// How members appear in the tenant's database; `None` where it is not told of them.
    pub sync: Option<SyncScripts>,
    /// One query each; every row that one returns is a reason not to be ready.
    pub verify: Vec<SqlFile>,
}

/// One SQL file of a blueprint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqlFile {
    /// Path inside the blueprint, such as `migrations/0001_users.sql`.
    pub name: String,
    /// The text to run, without a byte order mark.
    pub sql: String,
    /// Digest of the bytes on disk, in hex.
    pub sha256: String,
    /// Its statements one by one, where it is marked to run outside of a transaction.
    pub statements: Option<Vec<String>>,
}

impl SqlFile {
    /// The schema version that a migration makes: its name without folder and `.sql`.
    pub fn version(&self) -> &str {
        check::version(&self.name)
    }
}

impl Blueprint {
    /// Reads and checks the blueprint in a directory.
    pub fn load(dir: &Path) -> Result<Self, Error> {
        let folder = load::Folder::open(dir)?;
        // Settings first: what the other files may be depends on the migrator.
        let settings = check::settings(&folder.settings()?)?;
        let paths = settings.project_paths();
        let files = folder.sql_files(&paths)?;
        let project = match settings.migrator {
            Migrator::Sql => None,
            Migrator::Alembic | Migrator::Command => Some(folder.project(&paths)?),
        };
        check::assemble(settings, files, project)
    }

    /// The blueprint that is compiled in: `examples/crm`.
    pub fn bundled() -> Result<Self, Error> {
        let (settings, files) = bundled::split(bundled::CRM);
        check::assemble(check::settings(&settings)?, files, None)
    }

    /// Writes the blueprint that is compiled in, for a process that reads a directory.
    pub fn write_bundled(dir: &Path) -> Result<Vec<PathBuf>, Error> {
        bundled::write(bundled::CRM, dir)
    }

    /// Writes a small blueprint to start from and returns the files written.
    ///
    /// Nothing that exists is touched: where a part of a blueprint is there already, it refuses.
    pub fn write_starter(dir: &Path) -> Result<Vec<PathBuf>, Error> {
        bundled::write(bundled::STARTER, dir)
    }

    /// Names the template database: migrator, migrations and shared seed, in hex.
    ///
    /// Names and digests are prefixed with their lengths, the lists with theirs, so that moving
    /// text from one file or list to the next makes another hash. What only concerns a single
    /// tenant (its seed, members, verification, timeouts) is left out: the template is the same.
    pub fn hash(&self) -> String {
        let mut context = digest::Context::new(&digest::SHA256);
        add(&mut context, "tenantry blueprint 1");
        add(&mut context, self.settings.migrator.as_str());
        for list in [&self.migrations, &self.shared_seed] {
            context.update(&(list.len() as u64).to_be_bytes());
            for file in list {
                add(&mut context, &file.name);
                add(&mut context, &file.sha256);
            }
        }
        if let Some(project) = &self.project {
            for term in self.settings.project_terms() {
                add(&mut context, term);
            }
            add(&mut context, project.target.as_deref().unwrap_or_default());
            context.update(&(project.files.len() as u64).to_be_bytes());
            for (name, sha256) in &project.files {
                add(&mut context, name);
                add(&mut context, sha256);
            }
        }
        hex::encode(context.finish())
    }

    /// Names what members are told with: the scripts and the default role, in hex.
    ///
    /// Another hash means that every member is told again. `None` where nobody is told.
    pub fn sync_hash(&self) -> Option<String> {
        let scripts = self.sync.as_ref()?;
        let mut context = digest::Context::new(&digest::SHA256);
        add(&mut context, "tenantry sync 1");
        add(&mut context, &self.settings.members.default_role);
        for file in scripts.files() {
            add(&mut context, &file.name);
            add(&mut context, &file.sha256);
        }
        Some(hex::encode(context.finish()))
    }

    /// Names what a tenant of its own is seeded with, in hex.
    pub fn tenant_seed_hash(&self) -> String {
        let mut context = digest::Context::new(&digest::SHA256);
        add(&mut context, "tenantry tenant seed 1");
        for file in &self.tenant_seed {
            add(&mut context, &file.name);
            add(&mut context, &file.sha256);
        }
        hex::encode(context.finish())
    }

    /// The schema version: the last migration's name, such as `0008_attachments`.
    ///
    /// At most 50 characters of ASCII: applications read it from a `varchar(50)`.
    ///
    /// `None` where only the migrator knows: then the template's record has it, once it is built.
    pub fn version(&self) -> Option<String> {
        let last = self.migrations.last();
        last.map(|file| file.version().to_owned())
    }

    /// The blueprint cut off after a migration, which its name or its leading number names.
    ///
    /// Whether a migrator of its own knows the version turns out when it runs.
    pub fn up_to(&self, version: &str) -> Result<Self, Error> {
        if let Some(project) = &self.project {
            project::check_version(version)?;
            let mut cut = self.clone();
            let target = Some(version.to_owned());
            cut.project = Some(Project {
                target,
                ..project.clone()
            });
            return Ok(cut);
        }
        let number = |file: &SqlFile| check::number(&file.name);
        let wanted = version.parse::<u64>().ok();
        let is_last = |file: &SqlFile| {
            file.version() == version || (wanted.is_some() && number(file) == wanted)
        };
        let Some(at) = self.migrations.iter().position(is_last) else {
            return Err(Error::VersionUnknown {
                version: version.to_owned(),
                last: self.version().unwrap_or_default(),
            });
        };
        let mut cut = self.clone();
        cut.migrations.truncate(at + 1);
        Ok(cut)
    }

    /// Compares with the migrations that a database has applied, as (name, sha256).
    ///
    /// Refuses when one was edited, removed or renamed since, and when a new one is numbered
    /// before an applied one: databases would differ by the order in which they met it.
    ///
    /// A migrator of its own keeps its own history.
    pub fn check_history(&self, applied: &[(String, String)]) -> Result<(), Error> {
        if self.project.is_some() {
            return Ok(());
        }
        for (name, sha256) in applied {
            let Some(file) = self.migrations.iter().find(|file| file.name == *name) else {
                return Err(Error::MigrationRemoved { file: name.clone() });
            };
            if file.sha256 != *sha256 {
                return Err(Error::MigrationEdited {
                    file: name.clone(),
                    applied: sha256.clone(),
                    found: file.sha256.clone(),
                });
            }
        }
        let is_applied = |file: &SqlFile| applied.iter().any(|(name, _)| *name == file.name);
        let last = self.migrations.iter().rposition(is_applied);
        let before = &self.migrations[..last.unwrap_or(0)];
        match (last, before.iter().find(|file| !is_applied(file))) {
            (Some(last), Some(late)) => Err(Error::MigrationLate {
                file: late.name.clone(),
                after: self.migrations[last].name.clone(),
            }),
            _ => Ok(()),
        }
    }
}

fn add(context: &mut digest::Context, text: &str) {
    context.update(&(text.len() as u64).to_be_bytes());
    context.update(text.as_bytes());
}
