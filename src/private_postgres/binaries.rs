//! Where `initdb` and `postgres` come from.
//!
//! An explicit directory wins and is never second-guessed; then what is
//! installed, newest first; then a build fetched earlier; then a fetch. A
//! directory with only the client tools is skipped. Data that exists already
//! decides the major version. Nothing is compiled or installed system-wide.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::error::Error;
use super::fetch;
use super::settings::{BinarySource, Settings};

const OLDEST_MAJOR: u32 = 14;

/// Directories with one `*`, each sorted by its highest number, newest first.
const INSTALL_DIRS: [(&str, &str, &str); 5] = [
    ("/usr/lib/postgresql", "", "bin"),
    ("/usr", "pgsql-", "bin"),
    ("/opt/homebrew/opt", "postgresql", "bin"),
    ("/usr/local/opt", "postgresql", "bin"),
    ("/Applications/Postgres.app/Contents/Versions", "", "bin"),
];

/// A directory with a server that runs here.
#[derive(Debug, Clone)]
pub(super) struct Binaries {
    bin: PathBuf,
    version: String,
    major: u32,
}

impl Binaries {
    /// Checks a directory by running its `postgres --version`.
    pub(super) fn check(bin: &Path) -> Result<Self, String> {
        for program in ["initdb", "postgres"] {
            if !bin.join(program).is_file() {
                return Err(format!("there is no `{program}` in it"));
            }
        }
        let output = Command::new(bin.join("postgres"))
            .arg("--version")
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("`postgres --version` does not run: {error}"))?;
        let printed = String::from_utf8_lossy(&output.stdout);
        let (version, major) = parse_version(&printed).ok_or_else(|| {
            format!(
                "`postgres --version` fails: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            )
        })?;
        if major < OLDEST_MAJOR {
            return Err(format!("version {version} is older than {OLDEST_MAJOR}"));
        }
        Ok(Self {
            bin: bin.to_owned(),
            version,
            major,
        })
    }

    pub(super) fn initdb(&self) -> PathBuf {
        self.bin.join("initdb")
    }

    pub(super) fn postgres(&self) -> PathBuf {
        self.bin.join("postgres")
    }

    pub(super) fn version(&self) -> &str {
        &self.version
    }
}

/// Finds binaries, of the given major version where data exists already.
pub(super) async fn find(
    settings: &Settings,
    major: Option<u32>,
    progress: &(dyn Fn(&str) + Send + Sync),
) -> Result<Binaries, Error> {
    if let Some(bin) = &settings.bin {
        let bad = |reason| Error::BadBinaries {
            bin: bin.clone(),
            reason,
        };
        return fitting(Binaries::check(bin).map_err(bad)?, settings, major);
    }
    let mut other = None;
    for bin in installed(settings).chain(fetch::cached(&settings.cache_dir)) {
        match Binaries::check(&bin) {
            Ok(found) if major.is_none_or(|major| major == found.major) => return Ok(found),
            Ok(found) => other = other.or(Some(found)),
            Err(reason) => {
                tracing::debug!(bin = %bin.display(), reason, "skipping PostgreSQL binaries");
            }
        }
    }
    if settings.binaries == BinarySource::Installed {
        let tried = "fetching a build is switched off".to_owned();
        return other.map_or(Err(Error::NotFound { tried }), |found| {
            fitting(found, settings, major)
        });
    }
    match fetch::fetch(&settings.cache_dir, progress).await {
        Ok(found) => fitting(found, settings, major),
        Err(tried) => other.map_or(Err(Error::NotFound { tried }), |found| {
            fitting(found, settings, major)
        }),
    }
}

fn fitting(found: Binaries, settings: &Settings, major: Option<u32>) -> Result<Binaries, Error> {
    match major {
        Some(major) if major != found.major => Err(Error::DataVersion {
            dir: settings.dir.clone(),
            found: major,
            installed: found.version,
        }),
        _ => Ok(found),
    }
}

/// Every directory that may hold an installed server, in order of preference.
fn installed(settings: &Settings) -> impl Iterator<Item = PathBuf> {
    let search = settings.binaries != BinarySource::Fetched;
    let known = INSTALL_DIRS
        .into_iter()
        .flat_map(|(parent, prefix, bin)| versions(Path::new(parent), prefix, bin));
    let path = settings.search_path.clone();
    let later = std::iter::once_with(move || from_path(path.as_deref())).flatten();
    known.chain(later).filter(move |_| search)
}

/// The directories `parent/prefix*/bin`, highest version first.
fn versions(parent: &Path, prefix: &str, bin: &str) -> Vec<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = fs::read_dir(parent)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            let rest = name.to_str()?.strip_prefix(prefix)?;
            let digits = rest.trim_start_matches(|c: char| !c.is_ascii_digit());
            Some((leading_number(digits).unwrap_or(0), entry.path().join(bin)))
        })
        .filter(|(_, bin)| bin.join("postgres").is_file())
        .collect();
    found.sort_by(|a, b| b.cmp(a));
    found.into_iter().map(|(_, bin)| bin).collect()
}

/// What `pg_config` names, then the search path itself.
fn from_path(path: Option<&OsStr>) -> Vec<PathBuf> {
    let dirs: Vec<PathBuf> = path
        .unwrap_or_default()
        .as_bytes()
        .split(|byte| *byte == b':')
        .filter(|dir| dir.starts_with(b"/"))
        .map(|dir| PathBuf::from(OsStr::from_bytes(dir)))
        .collect();
    let named = dirs
        .iter()
        .map(|dir| dir.join("pg_config"))
        .find(|program| program.is_file())
        .and_then(|program| {
            Command::new(program)
                .arg("--bindir")
                .stdin(Stdio::null())
                .output()
                .ok()
        })
        .map(|output| PathBuf::from(OsString::from_vec(output.stdout.trim_ascii().to_vec())));
    let with_server = dirs
        .into_iter()
        .filter(|dir| dir.join("postgres").is_file());
    // A link in /usr/local/bin would hide where share/ and lib/ are from us, not from postgres.
    named.into_iter().chain(with_server).collect()
}

/// `postgres (PostgreSQL) 15.18 (Debian …)` → `("15.18", 15)`.
fn parse_version(printed: &str) -> Option<(String, u32)> {
    let version = printed
        .split_once("(PostgreSQL)")?
        .1
        .split_whitespace()
        .next()?;
    Some((version.to_owned(), leading_number(version)?))
}

/// The number that the text begins with.
pub(super) fn leading_number(text: &str) -> Option<u32> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    text[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_postgres_prints() {
        let parsed = |printed| parse_version(printed).expect("a version");
        assert_eq!(
            parsed("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"),
            ("15.18".to_owned(), 15)
        );
        assert_eq!(parsed("postgres (PostgreSQL) 19beta1\n").1, 19);
        assert!(parse_version("psql: not found").is_none());
    }

    #[test]
    fn a_directory_without_a_server_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("initdb"), "").expect("a file");
        assert!(
            Binaries::check(dir.path())
                .expect_err("no server")
                .contains("`postgres`")
        );
    }

    #[test]
    fn versions_are_sorted_as_numbers_and_client_tools_skipped() {
        let dir = tempfile::tempdir().expect("a directory");
        for (version, server) in [("9", true), ("16", true), ("17", false)] {
            let bin = dir.path().join(version).join("bin");
            fs::create_dir_all(&bin).expect("a directory");
            fs::write(bin.join(if server { "postgres" } else { "psql" }), "").expect("a file");
        }
        let expected = ["16", "9"].map(|version| dir.path().join(version).join("bin"));
        assert_eq!(versions(dir.path(), "", "bin"), expected);
    }
}
