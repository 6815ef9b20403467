//! Reading the directory: every file that belongs to a blueprint, and a refusal of what does not.
//!
//! Strict, because a folder `seeds/` that is passed over in silence makes tenants without a seed.
//! Names that begin with a dot and `README.md` are nobody's mistake and are passed over.
//! Symbolic links are followed as long as they stay inside.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;

use super::Error;
use super::project::{MOST_BYTES, MOST_FILES, Project};

/// The file that makes a directory a blueprint.
pub(super) const SETTINGS: &str = "blueprint.toml";

/// Enough for any seed; a dump of data does not belong into a blueprint.
const LARGEST_BYTES: u64 = 10 * 1024 * 1024;

/// The folders that may be there. Those with `true` hold SQL files.
const FOLDERS: [(&str, bool); 6] = [
    ("migrations", true),
    ("seed", false),
    ("seed/shared", true),
    ("seed/tenant", true),
    ("sync", true),
    ("verify", true),
];

/// A file as it is on disk, not looked into.
pub(super) struct RawFile {
    /// Path inside the blueprint, with `/`.
    pub(super) name: String,
    pub(super) bytes: Vec<u8>,
}

/// A directory that holds a blueprint.
pub(super) struct Folder {
    /// Canonical, so that every path that begins with it is inside.
    root: PathBuf,
}

impl Folder {
    pub(super) fn open(dir: &Path) -> Result<Self, Error> {
        let missing = || Error::DirectoryMissing {
            dir: dir.to_owned(),
        };
        let root = match fs::canonicalize(dir) {
            Ok(root) if root.is_dir() => root,
            Ok(_) => return Err(missing()),
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(missing()),
            Err(source) => {
                let file = dir.display().to_string();
                return Err(Error::Unreadable { file, source });
            }
        };
        Ok(Self { root })
    }

    /// The bytes of `blueprint.toml`.
    pub(super) fn settings(&self) -> Result<RawFile, Error> {
        let path = self.root.join(SETTINGS);
        if !path.is_file() {
            let dir = self.root.clone();
            return Err(Error::SettingsMissing { dir });
        }
        read(&self.inside(&path, SETTINGS)?, SETTINGS)
    }

    /// All SQL files, sorted by name within each folder; what lies under `others` is passed over.
    pub(super) fn sql_files(&self, others: &[&str]) -> Result<Vec<RawFile>, Error> {
        let mut files = Vec::new();
        self.visit(&self.root, "", others, &mut files)?;
        files.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(files)
    }

    fn visit(
        &self,
        dir: &Path,
        folder: &str,
        others: &[&str],
        files: &mut Vec<RawFile>,
    ) -> Result<(), Error> {
        for path in entries(dir, folder)? {
            let file_name = path.file_name().unwrap_or_default();
            let name = [folder, &file_name.to_string_lossy()].join("/");
            let name = name.trim_start_matches('/');
            let Some(file_name) = file_name.to_str() else {
                return Err(Error::NameInvalid {
                    file: name.to_owned(),
                });
            };
            let is_passed_over = file_name.starts_with('.') || file_name == "README.md";
            if is_passed_over || name == SETTINGS || others.contains(&name) {
                continue;
            }
            let real = self.inside(&path, name)?;
            let below = format!("{name}/");
            if real.is_dir() && others.iter().any(|other| other.starts_with(&below)) {
                self.visit(&real, name, others, files)?;
            } else {
                self.take(&real, name, files)?;
            }
        }
        Ok(())
    }

    /// Reads a file, or goes into a folder, if it is one that belongs here.
    fn take(&self, path: &Path, name: &str, files: &mut Vec<RawFile>) -> Result<(), Error> {
        let is_folder = |name: &str| FOLDERS.iter().any(|(folder, _)| *folder == name);
        let holds_sql = |name: &str| FOLDERS.contains(&(name, true));
        let (folder, _) = name.rsplit_once('/').unwrap_or_default();
        let is_sql = Path::new(name)
            .extension()
            .is_some_and(|extension| extension == "sql");

        // Only a regular file is opened: reading a pipe would wait for ever.
        if path.is_dir() && is_folder(name) {
            self.visit(path, name, &[], files)
        } else if path.is_file() && holds_sql(folder) && is_sql {
            files.push(read(path, name)?);
            Ok(())
        } else {
            let file = name.to_owned();
            Err(Error::Unexpected { file })
        }
    }

    /// What a migrator of its own goes by: these files, and all in these folders.
    pub(super) fn project(&self, paths: &[&str]) -> Result<Project, Error> {
        let mut found = Found::default();
        for name in paths {
            let path = self.root.join(name);
            if path.symlink_metadata().is_err() {
                let file = (*name).to_owned();
                return Err(Error::ProjectMissing { file });
            }
            self.add(&path, name, &mut found)?;
        }
        if found.files.is_empty() {
            return Err(Error::ProjectEmpty);
        }
        found.files.sort();
        // one that two paths name is there once
        found.files.dedup();
        Ok(Project {
            root: self.root.clone(),
            files: found.files,
            target: None,
        })
    }

    fn add(&self, path: &Path, name: &str, found: &mut Found) -> Result<(), Error> {
        let real = self.inside(path, name)?;
        if real.is_dir() {
            for path in entries(&real, name)? {
                let file_name = path.file_name().unwrap_or_default().to_string_lossy();
                let is_bytecode = file_name == "__pycache__" || file_name.ends_with(".pyc");
                if !file_name.starts_with('.') && !is_bytecode {
                    self.add(&path, &format!("{name}/{file_name}"), found)?;
                }
            }
            return Ok(());
        }
        // reading a pipe would wait for ever
        if !real.is_file() {
            let file = name.to_owned();
            return Err(Error::Unexpected { file });
        }
        let raw = read(&real, name)?;
        found.bytes += raw.bytes.len() as u64;
        if found.bytes > MOST_BYTES || found.files.len() == MOST_FILES {
            let file = name.to_owned();
            return Err(Error::ProjectTooLarge { file });
        }
        let sha256 = hex::encode(digest::digest(&digest::SHA256, &raw.bytes));
        found.files.push((raw.name, sha256));
        Ok(())
    }

    /// The path with all links followed, if that is still in the blueprint.
    fn inside(&self, path: &Path, name: &str) -> Result<PathBuf, Error> {
        let file = || name.to_owned();
        let real = fs::canonicalize(path).map_err(|source| Error::Unreadable {
            file: file(),
            source,
        })?;
        if real.starts_with(&self.root) {
            return Ok(real);
        }
        Err(Error::LinkOutside {
            file: file(),
            target: real,
        })
    }
}

/// What was read of a project so far.
#[derive(Default)]
struct Found {
    files: Vec<(String, String)>,
    bytes: u64,
}

fn entries(dir: &Path, folder: &str) -> Result<Vec<PathBuf>, Error> {
    let unreadable = |source| Error::Unreadable {
        file: if folder.is_empty() { "." } else { folder }.to_owned(),
        source,
    };
    fs::read_dir(dir)
        .map_err(unreadable)?
        .map(|entry| entry.map(|entry| entry.path()).map_err(unreadable))
        .collect()
}

fn read(path: &Path, name: &str) -> Result<RawFile, Error> {
    let name = name.to_owned();
    let mut bytes = Vec::new();
    // One byte more than allowed: the size on disk may change while it is read.
    let outcome =
        File::open(path).and_then(|file| file.take(LARGEST_BYTES + 1).read_to_end(&mut bytes));
    match outcome {
        Err(source) => Err(Error::Unreadable { file: name, source }),
        Ok(size) if size as u64 > LARGEST_BYTES => Err(Error::TooLarge { file: name }),
        Ok(_) => Ok(RawFile { name, bytes }),
    }
}
