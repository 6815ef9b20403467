//! The house rules that a compiler does not check: who may use whom, and where things may stand.

use std::{collections::BTreeMap, fs, path::Path};

/// What each module may use of ours. A module that is not here may use nothing and be used by nobody.
const MAY_USE: &[(&str, &[&str])] = &[
    // the path of an event
    ("webhooks", &[]),
    ("inbox", &["db", "faults", "page", "queue", "shutdown"]),
    (
        "queue",
        &["causes", "db", "faults", "metrics", "page", "shutdown"],
    ),
    (
        "jobs",
        &[
            "audit",
            "causes",
            "config",
            "db",
            "faults",
            "fleet",
            "identity",
            "inbox",
            "members",
            "notifications",
            "provider_api",
            "provisioning",
            "queue",
            "registrations",
            "retention",
            "shutdown",
            "tenants",
            "webhooks",
        ],
    ),
    (
        "actions",
        &[
            "audit",
            "config",
            "identity",
            "inbox",
            "jobs",
            "members",
            "notifications",
            "provisioning",
            "queue",
            "registrations",
            "secrets",
            "tenants",
            "webhooks",
        ],
    ),
    (
        "fleet",
        &[
            "audit",
            "blueprint",
            "causes",
            "db",
            "page",
            "provisioning",
            "queue",
            "secrets",
            "shutdown",
            "tenant_db",
            "tenants",
        ],
    ),
    (
        "retention",
        &[
            "causes",
            "config",
            "db",
            "faults",
            "idempotency",
            "inbox",
            "notifications",
            "queue",
            "registrations",
        ],
    ),
    (
        "notifications",
        &[
            "addresses",
            "audit",
            "causes",
            "config",
            "db",
            "identity",
            "page",
            "secrets",
            "webhooks",
        ],
    ),
    (
        "provisioning",
        &[
            "blueprint",
            "causes",
            "config",
            "db",
            "faults",
            "identity",
            "members",
            "metrics",
            "queue",
            "secrets",
            "shutdown",
            "tenant_db",
            "tenants",
        ],
    ),
    (
        "api_keys",
        &["audit", "config", "db", "secrets", "shutdown"],
    ),
    (
        "registrations",
        &[
            "causes",
            "db",
            "metrics",
            "provisioning",
            "queue",
            "tenants",
        ],
    ),
    ("identity", &["secrets", "webhooks"]),
    ("members", &["audit", "queue"]),
    ("tenants", &["config", "page", "secrets"]),
    ("blueprint", &[]),
    // the edges
    (
        "http",
        &[
            "actions",
            "api_keys",
            "audit",
            "auth",
            "causes",
            "config",
            "db",
            "faults",
            "fleet",
            "idempotency",
            "identity",
            "inbox",
            "members",
            "metrics",
            "notifications",
            "page",
            "provisioning",
            "queue",
            "registrations",
            "secrets",
            "shutdown",
            "telemetry",
            "tenant_db",
            "tenants",
            "webhooks",
        ],
    ),
    (
        "replica",
        &[
            "actions",
            "api_keys",
            "auth",
            "causes",
            "config",
            "db",
            "fleet",
            "http",
            "inbox",
            "jobs",
            "members",
            "metrics",
            "notifications",
            "provider_api",
            "provisioning",
            "queue",
            "registrations",
            "retention",
            "secrets",
            "shutdown",
            "tenant_db",
        ],
    ),
    (
        "cli",
        &[
            "actions",
            "api_keys",
            "audit",
            "auth",
            "bench",
            "blueprint",
            "causes",
            "config",
            "db",
            "fleet",
            "http",
            "inbox",
            "members",
            "metrics",
            "notifications",
            "page",
            "private_postgres",
            "provider_api",
            "provisioning",
            "queue",
            "replica",
            "retention",
            "secrets",
            "telemetry",
            "tenant_db",
            "tenants",
            "webhooks",
        ],
    ),
    (
        "bench",
        &[
            "api_keys",
            "audit",
            "blueprint",
            "config",
            "db",
            "identity",
            "inbox",
            "private_postgres",
            "provisioning",
            "secrets",
            "shutdown",
            "tenant_db",
            "webhooks",
        ],
    ),
    ("provider_api", &["secrets", "webhooks"]),
    (
        "auth",
        &[
            "causes", "config", "db", "members", "metrics", "shutdown", "tenants",
        ],
    ),
    // the ground
    ("idempotency", &["db", "secrets"]),
    ("audit", &["page"]),
    ("page", &[]),
    ("causes", &[]),
    ("addresses", &[]),
    ("config", &["addresses", "faults", "webhooks"]),
    ("db", &[]),
    ("faults", &[]),
    ("metrics", &[]),
    ("private_postgres", &[]),
    ("secrets", &[]),
    ("shutdown", &[]),
    ("telemetry", &["config"]),
    ("tenant_db", &["config", "db", "secrets"]),
];

/// A source file: its module, its path, its code without comments and tests.
struct Source {
    module: String,
    path: String,
    code: String,
}

fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    collect(Path::new("src"), &mut found);
    assert!(found.len() > 50, "only {} files found", found.len());
    found
}

fn collect(directory: &Path, found: &mut Vec<Source>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.to_str().unwrap().to_owned();
            let module = name
                .trim_start_matches("src/")
                .split(['/', '.'])
                .next()
                .unwrap()
                .to_owned();
            let text = fs::read_to_string(&path).unwrap();
            let product = text.split("#[cfg(test)]").next().unwrap();
            let code = product
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"));
            found.push(Source {
                module,
                path: name,
                code: code.collect::<Vec<_>>().join("\n"),
            });
        }
    }
}

/// The modules that a file names after `crate::`, also in a group.
fn used(code: &str) -> Vec<String> {
    let mut used = Vec::new();
    for rest in code.split("crate::").skip(1) {
        match rest.strip_prefix('{') {
            Some(group) => used.extend(top_level_names(group)),
            None => used.extend(first_name(rest)),
        }
    }
    used
}

fn first_name(text: &str) -> Option<String> {
    let name: String = text
        .chars()
        .take_while(|c| c.is_ascii_lowercase() || *c == '_')
        .collect();
    (!name.is_empty()).then_some(name)
}

fn top_level_names(group: &str) -> Vec<String> {
    let (mut depth, mut names, mut at_start) = (0, Vec::new(), true);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => at_start = true,
            c if at_start && depth == 0 && c.is_ascii_lowercase() => {
                names.extend(first_name(&group[at..]));
                at_start = false;
            }
            _ => {}
        }
    }
    names
}

#[test]
fn modules_use_only_what_stands_below_them() {
    let allowed: BTreeMap<&str, &[&str]> = MAY_USE.iter().copied().collect();
    let modules: Vec<&str> = allowed.keys().copied().collect();
    let mut wrong = Vec::new();
    for source in sources()
        .iter()
        .filter(|source| !["lib", "main"].contains(&source.module.as_str()))
    {
        let Some(may) = allowed.get(source.module.as_str()) else {
            wrong.push(format!(
                "{}: module {} is not in MAY_USE",
                source.path, source.module
            ));
            continue;
        };
        for name in used(&source.code)
            .iter()
            .filter(|name| modules.contains(&name.as_str()))
        {
            if *name != source.module && !may.contains(&name.as_str()) {
                wrong.push(format!(
                    "{}: {} must not use {name}",
                    source.path, source.module
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_is_allowed_is_also_used() {
    let sources = sources();
    let mut unused = Vec::new();
    for (module, may) in MAY_USE {
        let of_module = sources.iter().filter(|source| source.module == *module);
        let names: Vec<String> = of_module.flat_map(|source| used(&source.code)).collect();
        unused.extend(
            may.iter()
                .filter(|name| !names.iter().any(|used| used == *name))
                .map(|name| format!("{module} → {name}")),
        );
    }
    assert!(
        unused.is_empty(),
        "take out of MAY_USE, the list only shrinks: {}",
        unused.join(", ")
    );
}

/// Who has tables, or a cluster, of its own.
const OWNERS_OF_SQL: &[&str] = &[
    "api_keys",
    "audit",
    "bench",
    "cli/dev",
    "blueprint",
    "db",
    "fleet",
    "idempotency",
    "identity",
    "inbox",
    "members",
    "notifications",
    "private_postgres",
    "provisioning",
    "queue",
    "registrations",
    "tenant_db",
    "tenants",
];

/// What it says, the places where it may be otherwise, and how it is broken.
type Rule = (&'static str, &'static [&'static str], fn(&str) -> bool);

#[test]
fn things_stand_where_they_belong() {
    let rules: [Rule; 6] = [
        ("axum is the HTTP edge's alone", &["http"], |code| {
            code.contains("axum::")
        }),
        ("requests and commands own no SQL", OWNERS_OF_SQL, |code| {
            code.contains("sqlx::query")
        }),
        (
            "DDL on databases and roles is tenant_db's alone, but for the tenant made by hand",
            &["bench", "tenant_db"],
            |code| {
                let code = code.to_lowercase();
                [
                    "create database",
                    "drop database {",
                    "alter database",
                    "create role",
                    "alter role",
                    "drop role",
                    "comment on database",
                ]
                .iter()
                .any(|ddl| {
                    code.contains(&format!("\"{ddl}")) || code.contains(&format!("{ddl} {{"))
                })
            },
        ),
        (
            "dynamic SQL is that of tenant databases",
            &["bench", "provisioning", "tenant_db"],
            |code| code.contains("AssertSqlSafe("),
        ),
        (
            "the environment is read by config alone",
            &["config"],
            |code| code.contains("env::var"),
        ),
        (
            "tasks are spawned by shutdown alone",
            &["shutdown"],
            |code| code.contains("tokio::spawn") || code.contains("task::spawn"),
        ),
    ];
    let mut wrong = Vec::new();
    for source in sources() {
        for (rule, places, broken) in rules {
            let allowed = places.iter().any(|place| {
                source.path.starts_with(&format!("src/{place}/"))
                    || source.path == format!("src/{place}.rs")
            });
            if !allowed && broken(&source.code) {
                wrong.push(format!("{}: {rule}", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_stay_small_and_say_what_they_guarantee() {
    let mut wrong = Vec::new();
    for source in sources() {
        let lines = source
            .code
            .lines()
            .filter(|line| !line.trim().is_empty())
            .count();
        if lines > 500 {
            wrong.push(format!(
                "{}: {lines} lines of code; what is the second idea in it?",
                source.path
            ));
        }
        let text = fs::read_to_string(&source.path).unwrap();
        if !text.starts_with("//! ") {
            wrong.push(format!("{}: begins without a module doc", source.path));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_test_is_left_out() {
    // written apart, so that this file does not find itself
    let mark = ["#[ign", "ore"].concat();
    let mut found = Vec::new();
    for directory in ["src", "tests/it", "tests/it/support"] {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() && fs::read_to_string(&path).unwrap().contains(&mark) {
                found.push(path);
            }
        }
    }
    assert!(found.is_empty(), "{found:?}");
}
