//! `sync/`: how a member appears in the tenant's database.
//!
//! Guarantees: whoever can be told that somebody is a member can also be told that somebody is not
//! any more: one script without the other is refused, and so is any file of another name.

use super::{Error, SqlFile};

const MEMBER: &str = "sync/member.sql";
const REMOVED: &str = "sync/member_removed.sql";
/// One query, as in `verify/`.
pub(super) const ROLES: &str = "sync/roles.sql";

/// The scripts of `sync/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncScripts {
    /// Run for an active member.
    pub member: SqlFile,
    /// Run for one who is not a member any more.
    pub removed: SqlFile,
    /// Returns the slugs of the roles that the tenant's database knows.
    pub roles: Option<SqlFile>,
}

impl SyncScripts {
    /// Puts the files of the folder where they belong; `None` for an empty one.
    pub(super) fn assemble(files: Vec<SqlFile>) -> Result<Option<Self>, Error> {
        let (mut member, mut removed, mut roles) = (None, None, None);
        for file in files {
            let place = match file.name.as_str() {
                MEMBER => &mut member,
                REMOVED => &mut removed,
                ROLES => &mut roles,
                _ => return Err(Error::Unexpected { file: file.name }),
            };
            *place = Some(file);
        }
        let incomplete = |file: &SqlFile, missing| Error::SyncIncomplete {
            file: file.name.clone(),
            missing,
        };
        match (member, removed, roles) {
            (Some(member), Some(removed), roles) => Ok(Some(Self {
                member,
                removed,
                roles,
            })),
            (None, None, None) => Ok(None),
            (Some(file), None, _) => Err(incomplete(&file, REMOVED)),
            (None, Some(file), _) | (None, None, Some(file)) => Err(incomplete(&file, MEMBER)),
        }
    }

    /// All of them.
    pub(super) fn files(&self) -> impl Iterator<Item = &SqlFile> {
        [&self.member, &self.removed].into_iter().chain(&self.roles)
    }
}
