//! What differs between two structures, in words. Pure.
//!
//! Guarantees: equal lines have no difference, and lines that are not equal have one; what comes first
//! is what the rest follows from: a table before its columns, a column before the index on it.

use std::collections::{BTreeMap, BTreeSet};

/// The kinds of facts; a difference in an earlier one may be why there is one in a later one.
const KINDS: [&str; 24] = [
    "extension",
    "schema",
    "enum",
    "domain",
    "composite type",
    "table",
    "partitioned table",
    "foreign table",
    "function",
    "view",
    "materialized view",
    "column",
    "column collation",
    "constraint",
    "index",
    "sequence",
    "trigger",
    "rule",
    "policy",
    "default privileges",
    "table options",
    "view options",
    "sequence options",
    "function options",
];

/// The end of a kind that says more of a thing that has a line of its own.
const MORE: &str = " options";

/// The longest value that is quoted; of a longer one is only said that it differs.
const LONGEST_VALUE: usize = 100;

/// The letters of an access list, and the rights that they stand for.
const RIGHTS: [(char, &str); 14] = [
    ('r', "select"),
    ('a', "insert"),
    ('w', "update"),
    ('d', "delete"),
    ('D', "truncate"),
    ('x', "references"),
    ('t', "trigger"),
    ('m', "maintain"),
    ('X', "execute"),
    ('U', "usage"),
    ('C', "create"),
    ('c', "connect"),
    ('T', "temporary"),
    ('s', "set"),
];

/// One thing of a structure: kind and name, in the order in which differences are told.
type Key<'a> = (usize, &'a str, &'a str);

/// Its attributes.
type Attributes<'a> = BTreeMap<&'a str, &'a str>;

/// What is different in `actual`, the most telling first; empty when nothing is.
pub fn differences(expected: &[String], actual: &[String]) -> Vec<String> {
    let (expected, actual) = (read(expected), read(actual));
    let mut keys: Vec<&Key<'_>> = expected.keys().chain(actual.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    let mut told = Vec::new();
    for key in keys {
        let thing = describe(key);
        match (expected.get(key), actual.get(key)) {
            // its own line tells that
            (Some(_), None) | (None, Some(_)) if key.1.ends_with(MORE) => {}
            (Some(_), None) => told.push(format!("{thing} is missing")),
            (None, Some(_)) => told.push(format!("{thing} is there and should not be")),
            (Some(expected), Some(actual)) => compare(&thing, expected, actual, &mut told),
            (None, None) => {}
        }
    }
    told
}

fn read(lines: &[String]) -> BTreeMap<Key<'_>, Attributes<'_>> {
    lines.iter().filter_map(|line| read_line(line)).collect()
}

fn read_line(line: &str) -> Option<(Key<'_>, Attributes<'_>)> {
    let mut parts = line.split('\t');
    let (kind, name) = (parts.next()?, parts.next()?);
    let rank = KINDS.iter().position(|known| *known == kind);
    let attributes = parts.map(|part| part.split_once('=').unwrap_or((part, "")));
    let key = (rank.unwrap_or(KINDS.len()), kind, name);
    Some((key, attributes.collect()))
}

/// The thing as somebody would name it.
fn describe((_, kind, name): &Key<'_>) -> String {
    let name = name.strip_prefix("public.").unwrap_or(name);
    let kind = kind.strip_suffix(MORE).unwrap_or(kind);
    let of_relation = [
        "column",
        "column collation",
        "constraint",
        "trigger",
        "rule",
        "policy",
    ];
    match name.rsplit_once('.') {
        Some((relation, own)) if of_relation.contains(&kind) => {
            format!("{kind} {own} of {relation}")
        }
        _ => format!("{kind} {name}"),
    }
}

fn compare(
    thing: &str,
    expected: &Attributes<'_>,
    actual: &Attributes<'_>,
    told: &mut Vec<String>,
) {
    let mut names: Vec<&str> = expected.keys().chain(actual.keys()).copied().collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let (wanted, found) = (expected.get(name).copied(), actual.get(name).copied());
        if wanted == found {
            continue;
        }
        if name == "grants" {
            let owners = [expected.get("owner").copied(), actual.get("owner").copied()];
            told.extend(compare_grants(thing, (wanted, found), owners));
        } else if [wanted, found].into_iter().flatten().all(is_short) && !name.ends_with("body") {
            let show = |value: Option<&str>| value.unwrap_or("nothing").to_owned();
            let (found, wanted) = (show(found), show(wanted));
            told.push(format!("{thing}: {name} is {found}, should be {wanted}"));
        } else {
            told.push(format!("{thing}: {name} differs"));
        }
    }
}

fn is_short(value: &str) -> bool {
    value.len() <= LONGEST_VALUE && !value.contains('\n')
}

/// Who has which right: role and right.
type Rights<'a> = BTreeSet<(&'a str, &'static str)>;

fn compare_grants(
    thing: &str,
    (wanted, found): (Option<&str>, Option<&str>),
    owners: [Option<&str>; 2],
) -> Vec<String> {
    let is_function = thing.starts_with("function ");
    let (lacks, has) = (rights(wanted, is_function), rights(found, is_function));
    // where nothing was ever granted the list is empty, and the owner has every right all the same
    let is_default = wanted.is_none() || found.is_none();
    let counts = |role: &str| !(is_default && owners.contains(&Some(role)));
    let only_in = |these: &Rights<'_>, others: &Rights<'_>, say: &str| {
        let mut of_roles = BTreeMap::<String, Vec<&str>>::new();
        for (role, right) in these.difference(others) {
            if counts(role) {
                of_roles.entry((*role).to_owned()).or_default().push(right);
            }
        }
        let tell = |(role, rights): (String, Vec<&str>)| {
            let who = if role.is_empty() {
                "PUBLIC".to_owned()
            } else {
                format!("role {role}")
            };
            say.replace("{who}", &who)
                .replace("{rights}", &rights.join(", "))
                .replace("{thing}", thing)
        };
        of_roles.into_iter().map(tell).collect::<Vec<_>>()
    };
    let mut told = only_in(&lacks, &has, "{who} lacks {rights} on {thing}");
    told.extend(only_in(
        &has,
        &lacks,
        "{who} has {rights} on {thing} and should not",
    ));
    if told.is_empty() {
        told.push(format!("{thing}: its grants differ in who gave them"));
    }
    told
}

/// Reads an access list, such as `{app=arwd/owner}`.
fn rights(list: Option<&str>, is_function: bool) -> Rights<'_> {
    let Some(list) = list else {
        let execute = is_function.then_some(("", "execute"));
        return execute.into_iter().collect();
    };
    let items = list.trim_matches(['{', '}']).split(',');
    let mut rights = Rights::new();
    for item in items {
        let Some((role, given)) = item.trim_matches('"').split_once('=') else {
            continue;
        };
        let letters = given.split('/').next().unwrap_or_default();
        let role = role.trim_matches(['"', '\\']);
        let known = |letter| RIGHTS.iter().find(|(known, _)| *known == letter);
        for (_, right) in letters.chars().filter_map(known) {
            rights.insert((role, *right));
        }
    }
    rights
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(expected: &[&str], actual: &[&str]) -> Vec<String> {
        let own = |lines: &[&str]| {
            lines
                .iter()
                .map(|line| (*line).to_owned())
                .collect::<Vec<_>>()
        };
        differences(&own(expected), &own(actual))
    }

    const TABLE: &str = "table\tpublic.tasks\towner=own\tgrants={own=arwdDxt/own,app=arwd/own}";

    #[test]
    fn the_same_has_no_difference() {
        assert!(told(&[TABLE], &[TABLE]).is_empty());
    }

    #[test]
    fn a_table_is_told_before_its_columns_and_these_before_their_index() {
        let lines = [
            "index\tpublic.a_of_tasks\tdefinition=x",
            "column\tpublic.tasks.due_on\ttype=date",
            TABLE,
        ];
        assert_eq!(
            told(&lines, &[]),
            [
                "table tasks is missing",
                "column due_on of tasks is missing",
                "index a_of_tasks is missing",
            ]
        );
        assert_eq!(
            told(&[], &["table\tpublic.extra\towner=own"]),
            ["table extra is there and should not be"]
        );
    }

    #[test]
    fn an_attribute_is_quoted_where_it_is_short() {
        let column = |rest: &str| format!("column\tpublic.tasks.due_on\t{rest}");
        let differs = told(
            &[&column("type=date\tdefault=now()")],
            &[&column("type=text")],
        );
        assert_eq!(
            differs,
            [
                "column due_on of tasks: default is nothing, should be now()",
                "column due_on of tasks: type is text, should be date",
            ]
        );
        let function = |body: &str| format!("function\tpublic.f()\tbody={body}");
        assert_eq!(
            told(&[&function("1")], &[&function("2")]),
            ["function f(): body differs"]
        );
    }

    #[test]
    fn a_right_is_told_by_role_and_name() {
        let other = |grants: &str| format!("table\tpublic.tasks\towner=own{grants}");
        let lacking = other("\tgrants={own=arwdDxt/own,app=awd/own}");
        assert_eq!(
            told(&[TABLE], &[&lacking]),
            ["role app lacks select on table tasks"]
        );
        let open = other("\tgrants={own=arwdDxt/own,app=arwd/own,=r/own}");
        assert_eq!(
            told(&[TABLE], &[&open]),
            ["PUBLIC has select on table tasks and should not"]
        );
        // nothing was ever granted: the owner's own rights are no difference
        assert_eq!(
            told(&[TABLE], &[&other("")]),
            ["role app lacks delete, insert, select, update on table tasks"]
        );
        let by_another = other("\tgrants={own=arwdDxt/own,app=arwd/another}");
        assert_eq!(
            told(&[TABLE], &[&by_another]),
            ["table tasks: its grants differ in who gave them"]
        );
    }
}
