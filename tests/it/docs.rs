//! The documents say what the code does: codes, settings, metrics, the picture, links.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Every file below a directory whose name ends so.
fn files(directory: &str, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![PathBuf::from(directory)];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                open.push(path);
            } else if path.is_file() && name.ends_with(ending) {
                found.push(path);
            }
        }
    }
    found
}

fn read(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What stands between each `before` and the next `after`.
fn between<'a>(text: &'a str, before: &str, after: &str) -> Vec<&'a str> {
    text.split(before)
        .skip(1)
        .filter_map(|rest| rest.split_once(after))
        .map(|(inside, _)| inside)
        .collect()
}

fn is_code(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase())
        && text
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

/// The text of a string literal.
fn literal(text: &str) -> Option<&str> {
    text.trim().strip_prefix('"')?.strip_suffix('"')
}

/// The codes in the source: of `code()` functions, `code: "…"`, problems, and files of a blueprint.
fn codes_in_source() -> BTreeSet<String> {
    let mut codes = BTreeSet::new();
    for path in files("src", ".rs") {
        let text = read(&path);
        let code = text.split("#[cfg(test)]").next().unwrap();
        let mut literals = between(code, "code: \"", "\"");
        for body in between(code, "fn code(", "\n    }\n") {
            literals.extend(body.split('"').skip(1).step_by(2));
        }
        for body in between(code, "fn code_of(", "\n}\n") {
            literals.extend(body.split('"').skip(1).step_by(2));
        }
        // the second argument of a problem, where it is a literal
        let problems = code.split("Problem::new(").skip(1);
        literals.extend(problems.filter_map(|rest| literal(rest.split(',').nth(1)?)));
        for short in [
            "Problem::forbidden(",
            "Self::unauthorized(",
            "Problem::unauthorized(",
        ] {
            let shorts = code.split(short).skip(1);
            literals.extend(shorts.filter_map(|rest| literal(rest.split(',').next()?)));
        }
        if path.ends_with("http/problem.rs") || code.contains("for Problem {") {
            let own = code.split("Self::new(").skip(1);
            literals.extend(own.filter_map(|rest| literal(rest.split(',').nth(1)?)));
        }
        literals.extend(between(code, "StepError::file(\"", "\""));
        literals.extend(between(code, "Failure::new(\"", "\""));
        // the reason of an event that failed, as it is stored
        literals.extend(between(code, "format!(\"", ": {reason}\""));
        let answers = between(code, "not_ready(", ",");
        literals.extend(answers.into_iter().filter_map(literal));
        if path.ends_with("provisioning/template.rs") {
            literals.extend(code.split('"').filter(|it| it.ends_with("_failed")));
        }
        // why a target was skipped
        if path.starts_with("src/fleet") {
            for before in [
                "skipped(held, \"",
                "Some(\"",
                // why a slot was left
                "BLUEPRINT_UNKNOWN: &str = \"",
                "NOT_DUE: &str = \"",
            ] {
                literals.extend(between(code, before, "\""));
            }
            literals.extend(between(code, "error_code = '", "'"));
            literals.extend(between(code, "coalesce(error_code, '", "'"));
        }
        codes.extend(
            literals
                .into_iter()
                .filter(|it| is_code(it))
                .map(str::to_owned),
        );
    }
    codes
}

#[test]
fn every_error_code_has_an_entry_and_every_entry_a_code() {
    let codes = codes_in_source();
    assert!(
        codes.len() > 80,
        "only {} codes found: {codes:?}",
        codes.len()
    );
    let document = read("docs/errors.md");
    let entries: Vec<String> = document
        .lines()
        .filter_map(|line| line.strip_prefix("### "))
        .map(str::to_owned)
        .collect();
    let documented: BTreeSet<String> = entries.iter().cloned().collect();
    assert_eq!(documented.len(), entries.len(), "an entry is there twice");
    let missing: Vec<_> = codes.difference(&documented).collect();
    let stale: Vec<_> = documented.difference(&codes).collect();
    assert!(
        missing.is_empty() && stale.is_empty(),
        "docs/errors.md: missing {missing:?}, no longer in src {stale:?}"
    );
    for entry in document.split("\n### ").skip(1) {
        assert!(entry.contains("\n**Fix:** "), "no fix: {entry}");
    }
}

/// The settings of the default file, also those that are commented out, as `section.key`.
fn settings() -> BTreeSet<String> {
    let mut section = String::new();
    let mut found = BTreeSet::new();
    for line in read("tenantry.default.toml").lines() {
        let line = line.trim_start_matches("# ");
        if line.starts_with('[') {
            let name = line.trim_matches(['[', ']']);
            section = name
                .replace("sources.workos", "sources.<name>")
                .replace("issuers.clerk", "issuers.<name>")
                .replace("notifications.app", "notifications.<name>");
        } else if let Some((key, _)) = line.split_once(" = ")
            && is_code(key)
        {
            found.insert(format!("{section}.{key}"));
        }
    }
    found
}

#[test]
fn every_setting_is_explained() {
    let settings = settings();
    assert!(
        settings.len() > 20,
        "only {} settings found: {settings:?}",
        settings.len()
    );
    let document = read("docs/configuration.md");
    let documented: BTreeSet<String> = between(&document, "\n| `", "`")
        .into_iter()
        .filter(|key| key.contains('.'))
        .map(str::to_owned)
        .collect();
    assert_eq!(documented, settings);
}

#[test]
fn every_metric_is_explained() {
    let source = read("src/metrics.rs");
    let names: Vec<&str> = between(&source, ".register(", ",")
        .into_iter()
        .filter_map(literal)
        .collect();
    assert!(
        names.len() > 15,
        "only {} metrics found: {names:?}",
        names.len()
    );
    let document = read("docs/operations.md");
    for name in &names {
        let explained = ["", "_total", "_info"]
            .iter()
            .any(|suffix| document.contains(&format!("\n| `tenantry_{name}{suffix}` |")));
        assert!(explained, "docs/operations.md does not explain {name}");
    }
    for row in between(&document, "\n| `tenantry_", "`") {
        let name = row.trim_end_matches("_total").trim_end_matches("_info");
        assert!(names.contains(&name), "there is no metric {name} any more");
    }
}

#[test]
fn the_readme_is_short_and_shows_the_picture_of_the_library() {
    let readme = read("README.md");
    let lines = readme.lines().count();
    assert!(lines <= 120, "README.md has {lines} lines");
    let library = read("src/lib.rs");
    let library: Vec<&str> = library
        .lines()
        .map_while(|line| line.strip_prefix("//!"))
        .map(|line| line.strip_prefix(' ').unwrap_or(line))
        .collect();
    let library = library.join("\n");
    let picture = |text: &str| between(text, "```text\n", "```")[0].to_owned();
    assert_eq!(picture(&readme), picture(&library));
    assert_eq!(picture(&read("ARCHITECTURE.md")), picture(&library));
}

/// The anchor that a heading gets.
fn anchor(heading: &str) -> String {
    heading
        .trim_start_matches('#')
        .trim()
        .to_lowercase()
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

#[test]
fn every_link_leads_somewhere() {
    let documents = files(".", ".md");
    assert!(
        documents.len() >= 10,
        "only {} documents found",
        documents.len()
    );
    for document in documents {
        let text = read(&document);
        for link in between(&text, "](", ")") {
            if link.contains("://") {
                continue;
            }
            let (file, wanted) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() {
                document.clone()
            } else {
                document.parent().unwrap().join(file)
            };
            assert!(
                target.exists(),
                "{}: {link} leads nowhere",
                document.display()
            );
            let has_anchor = || {
                let text = read(&target);
                text.lines()
                    .any(|line| line.starts_with('#') && anchor(line) == wanted)
            };
            assert!(
                wanted.is_empty() || has_anchor(),
                "{}: {link} names no heading",
                document.display()
            );
        }
    }
}
