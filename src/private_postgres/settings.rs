//! What cluster to run, and where: given by the caller, who reads the
//! environment.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::directory::EPHEMERAL_PREFIX;
use super::error::Error;

/// Where binaries may come from, when no directory is given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum BinarySource {
    /// Installed ones, else a fetched build.
    #[default]
    Any,
    /// Installed ones only: never use the network.
    Installed,
    /// A fetched build only, whatever is installed.
    Fetched,
}

/// What cluster to run, and where.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The directory of the cluster; created where it is missing.
    pub dir: PathBuf,
    /// Where a fetched build is kept; open to the user that runs the server.
    pub cache_dir: PathBuf,
    /// The directory with `initdb` and `postgres`, if not to be searched for.
    pub bin: Option<PathBuf>,
    /// The value of PATH, to search after the usual places.
    pub search_path: Option<OsString>,
    /// Where binaries may come from.
    pub binaries: BinarySource,
    /// Whether data survives a power cut: with fsync, or faster without.
    pub durable: bool,
    /// Whether the directory goes away together with the cluster; its name must
    /// be one that [`Settings::ephemeral`] could have chosen.
    pub ephemeral: bool,
    /// How many connections the server accepts.
    pub max_connections: u16,
}

impl Settings {
    /// A cluster that is kept between runs.
    pub fn kept(dir: impl Into<PathBuf>, cache_dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            cache_dir: cache_dir.into(),
            bin: None,
            search_path: None,
            binaries: BinarySource::Any,
            durable: true,
            ephemeral: false,
            max_connections: 200,
        }
    }

    /// A fast cluster in a new directory in `parent`, gone when it ends.
    pub fn ephemeral(parent: impl AsRef<Path>, cache_dir: impl Into<PathBuf>) -> Self {
        let name = format!("{}{:016x}", EPHEMERAL_PREFIX, rand::random::<u64>());
        let kept = Self::kept(parent.as_ref().join(name), cache_dir);
        Self {
            durable: false,
            ephemeral: true,
            ..kept
        }
    }

    /// The same with absolute paths, because the server works elsewhere, and
    /// with a directory that may be removed if it is to be.
    pub(super) fn checked(&self) -> Result<Self, Error> {
        let absolute = |path: &Path| {
            std::path::absolute(path).map_err(Error::io(format!("find {}", path.display())))
        };
        let named = |name: &OsStr| name.as_bytes().starts_with(EPHEMERAL_PREFIX.as_bytes());
        if self.ephemeral && !self.dir.file_name().is_some_and(named) {
            let dir = self.dir.clone();
            return Err(Error::NotEphemeral { dir });
        }
        let mut settings = self.clone();
        settings.dir = absolute(&self.dir)?;
        settings.cache_dir = absolute(&self.cache_dir)?;
        settings.bin = self.bin.as_deref().map(absolute).transpose()?;
        Ok(settings)
    }
}
