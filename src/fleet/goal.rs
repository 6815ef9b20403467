//! What a run brings databases to, as this replica has it.

use std::collections::BTreeMap;

use super::Run;
use crate::{
    blueprint::{self, Blueprint, SqlFile},
    provisioning::{
        BlueprintSource, Provisioner, StepError,
        template::{self, TemplateRecord},
    },
};

/// Hash of the blueprint that is configured here; a replica that still has another one leaves the run alone.
///
/// Where none is configured here, the replica that comes first decides. Reads files.
pub fn known_hash(source: &BlueprintSource, to: Option<&str>) -> Option<String> {
    let whole = source.load().ok()?;
    match to {
        Some(version) => whole.up_to(version).ok().map(|cut| cut.hash()),
        None => Some(whole.hash()),
    }
}

/// The blueprint of a run.
#[derive(Debug)]
pub(super) struct Goal {
    /// All of the blueprint that this replica has.
    pub(super) whole: Blueprint,
    /// Cut off at the run's version.
    pub(super) cut: Blueprint,
    pub(super) hash: String,
    whole_hash: String,
}

impl Goal {
    /// The blueprint of the run; `None` where this replica has another one.
    pub(super) fn load(provisioner: &Provisioner, run: &Run) -> Result<Option<Self>, StepError> {
        match Self::try_load(provisioner, run) {
            // whoever began the run has the version: this replica is the one that is behind
            Err(StepError::Blueprint(blueprint::Error::VersionUnknown { .. }))
                if run.blueprint_hash.is_some() =>
            {
                Ok(None)
            }
            loaded => loaded,
        }
    }

    fn try_load(provisioner: &Provisioner, run: &Run) -> Result<Option<Self>, StepError> {
        let whole = provisioner.blueprint.load()?;
        let goal = |whole: Blueprint, cut: Blueprint| {
            let (hash, whole_hash) = (cut.hash(), whole.hash());
            Self {
                whole,
                cut,
                hash,
                whole_hash,
            }
        };
        let newest = |whole: Blueprint| goal(whole.clone(), whole);
        let up_to = |whole: Blueprint, version: &str| {
            let cut = whole.up_to(version)?;
            Ok::<_, StepError>(goal(whole, cut))
        };
        let goal = match (&run.wanted_version, &run.version) {
            (Some(wanted), _) => up_to(whole, wanted)?,
            // the blueprint may have grown since the run was prepared
            (None, Some(version)) if run.blueprint_hash.as_ref() != Some(&whole.hash()) => {
                match up_to(whole, version) {
                    Ok(goal) => goal,
                    Err(_) => return Ok(None),
                }
            }
            (None, _) => newest(whole),
        };
        let is_it = |hash: &String| *hash == goal.hash;
        Ok(run
            .blueprint_hash
            .as_ref()
            .is_none_or(is_it)
            .then_some(goal))
    }

    /// Whether it is all of the blueprint: what new tenants are made from.
    pub(super) fn is_whole(&self) -> bool {
        self.hash == self.whole_hash
    }

    /// Whether a tenant's database is further than the goal, which is this version, as far as its row can tell.
    ///
    /// The order of a program's versions is the program's own affair: there it is what is on record with all of the
    /// blueprint, and Alembic finds the others out.
    pub(super) fn is_passed_by(&self, (hash, at): (Option<&str>, &str), version: &str) -> bool {
        if self.whole.project.is_some() {
            return !self.is_whole() && hash == Some(&self.whole_hash) && at != version;
        }
        let beyond = self.whole.migrations.iter().skip(self.cut.migrations.len());
        beyond.map(SqlFile::version).any(|further| further == at)
    }

    /// The sealed templates of the goal, by cluster; without those of an older version of tenantry.
    pub(super) async fn templates(
        &self,
        provisioner: &Provisioner,
    ) -> Result<BTreeMap<String, TemplateRecord>, StepError> {
        let mut found = BTreeMap::new();
        for cluster in provisioner.clusters.iter() {
            let (name, hash) = (&cluster.name, &self.hash);
            let record = provisioner
                .db
                .run(async |connection| template::find(connection, name, hash).await)
                .await?;
            let comparable = record.filter(|record| record.fingerprint.is_some());
            found.extend(comparable.map(|record| (name.clone(), record)));
        }
        Ok(found)
    }
}
