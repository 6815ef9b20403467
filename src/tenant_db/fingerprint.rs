//! The structure of a database: its facts, a line each, and all of them as one hash.
//!
//! Guarantees: two databases have the same fingerprint exactly when their schemas, relations (with
//! owner, grants, row security, persistence, bounds, options of views), columns, constraints (a NOT NULL by its column, not by its name), indexes, sequences except
//! their values and where they start, functions (all but the inside of an aggregate), triggers, rules, policies, enums, domains, composite
//! types, default privileges and extensions are the same; the hash is over exactly the lines that [`structure`]
//! returns, so that whatever differs can be named. Data does not count, nor does what only tunes: storage parameters of
//! tables, statistics.
//!
//! Does not: say what differs. [`super::structure`] does.

use sqlx::PgConnection;

use super::{Error, wording};
use crate::secrets;

/// Begins a line that does not count: a NOT NULL, which its column or domain says as well, by the name that the server
/// keeps it under from version 17 on. After something was renamed, an upgrade of the server gives another one.
const NOT_NULL: &str = "not null\t";

/// Begins the body of a function in standard SQL. The attribute before it is the hash of that, which does not count: an
/// upgrade of the server words it otherwise.
const SQL_BODY: &str = "\tsql body=";

/// Every structural fact of the database as one line: kind, name, attributes as `key=value`, with tabs
/// between them.
///
/// Ordered by bytes ("C"), so that databases of different collations compare equal.
const FACTS: &str = r#"
with scope as (
    select oid, nspname, nspowner, nspacl
    from pg_namespace
    where nspname <> 'information_schema'
      and nspname !~ '^pg_'
),
facts (line) as (
    select concat_ws(E'\t', 'schema', nspname, 'owner=' || nspowner::regrole, 'grants=' || nspacl::text)
    from scope
    union all
    select concat_ws(E'\t',
                     case relkind
                         when 'r' then 'table'
                         when 'p' then 'partitioned table'
                         when 'v' then 'view'
                         when 'm' then 'materialized view'
                         when 'S' then 'sequence'
                         when 'f' then 'foreign table'
                     end,
                     nspname || '.' || relname,
                     'owner=' || relowner::regrole,
                     'grants=' || relacl::text,
                     case when relkind in ('r', 'p') then 'row security=' || relrowsecurity || ', forced=' || relforcerowsecurity end,
                     case when relkind in ('v', 'm') then 'definition=' || pg_get_viewdef(pg_class.oid) end)
    from pg_class
    join scope on scope.oid = relnamespace
    where relkind in ('r', 'p', 'v', 'm', 'S', 'f')
    union all
    select concat_ws(E'\t',
                     'column',
                     nspname || '.' || relname || '.' || attname,
                     'type=' || format_type(atttypid, atttypmod),
                     'not null=' || attnotnull,
                     'default=' || pg_get_expr(adbin, adrelid),
                     'identity=' || nullif(attidentity::text, ''),
                     'generated=' || nullif(attgenerated::text, ''),
                     'grants=' || attacl::text,
                     -- among those that are there: a number that a dropped column had is not given again
                     'position=' || row_number() over (partition by attrelid order by attnum))
    from pg_attribute
    join pg_class on pg_class.oid = attrelid
    join scope on scope.oid = relnamespace
    left join pg_attrdef on adrelid = attrelid and adnum = attnum
    where attnum > 0
      and not attisdropped
      and relkind in ('r', 'p', 'v', 'm', 'f')
    union all
    select concat_ws(E'\t',
                     case when contype = 'n' and convalidated and not connoinherit then 'not null' else 'constraint' end,
                     concat_ws('.', nspname, coalesce(relname, typname), conname),
                     'definition=' || pg_get_constraintdef(pg_constraint.oid))
    from pg_constraint
    join scope on scope.oid = connamespace
    left join pg_class on pg_class.oid = conrelid
    left join pg_type on pg_type.oid = contypid
    union all
    select concat_ws(E'\t',
                     'index',
                     nspname || '.' || relname,
                     'definition=' || pg_get_indexdef(indexrelid),
                     'valid=' || indisvalid)
    from pg_index
    join pg_class on pg_class.oid = indexrelid
    join scope on scope.oid = relnamespace
    union all
    select concat_ws(E'\t',
                     'function',
                     nspname || '.' || proname || '(' || pg_get_function_identity_arguments(pg_proc.oid) || ')',
                     'owner=' || proowner::regrole,
                     'grants=' || proacl::text,
                     'returns=' || pg_get_function_result(pg_proc.oid),
                     'security definer=' || prosecdef,
                     'volatility=' || provolatile::text,
                     'configuration=' || proconfig::text,
                     -- a body of standard SQL is no text there
                     'body=' || md5(coalesce(pg_get_function_sqlbody(pg_proc.oid), prosrc)),
                     'sql body=' || pg_get_function_sqlbody(pg_proc.oid))
    from pg_proc
    join scope on scope.oid = pronamespace
    union all
    select concat_ws(E'\t',
                     'trigger',
                     nspname || '.' || relname || '.' || tgname,
                     'definition=' || pg_get_triggerdef(pg_trigger.oid),
                     'enabled=' || tgenabled::text)
    from pg_trigger
    join pg_class on pg_class.oid = tgrelid
    join scope on scope.oid = relnamespace
    where not tgisinternal
    union all
    select concat_ws(E'\t',
                     'policy',
                     nspname || '.' || relname || '.' || polname,
                     'permissive=' || polpermissive,
                     'command=' || polcmd::text,
                     'roles=' || polroles::regrole[]::text,
                     'using=' || pg_get_expr(polqual, polrelid),
                     'check=' || pg_get_expr(polwithcheck, polrelid))
    from pg_policy
    join pg_class on pg_class.oid = polrelid
    join scope on scope.oid = relnamespace
    union all
    select concat_ws(E'\t',
                     'enum',
                     nspname || '.' || typname,
                     'labels=' || string_agg(enumlabel, ', ' order by enumsortorder))
    from pg_enum
    join pg_type on pg_type.oid = enumtypid
    join scope on scope.oid = typnamespace
    group by nspname, typname
    union all
    select concat_ws(E'\t',
                     'default privileges',
                     defaclrole::regrole || ' in ' || case when defaclnamespace = 0 then 'every schema' else defaclnamespace::regnamespace::text end
                         || ' on ' || defaclobjtype::text,
                     'grants=' || defaclacl::text)
    from pg_default_acl
    union all
    select concat_ws(E'\t', 'extension', extname, 'version=' || extversion)
    from pg_extension
    union all
    select concat_ws(E'\t',
                     'table options',
                     nspname || '.' || relname,
                     'persistence=' || relpersistence::text,
                     'replica identity=' || relreplident::text,
                     'bound=' || pg_get_expr(relpartbound, pg_class.oid))
    from pg_class
    join scope on scope.oid = relnamespace
    where relkind in ('r', 'p', 'f')
    union all
    select concat_ws(E'\t', 'view options', nspname || '.' || relname, 'options=' || reloptions::text)
    from pg_class
    join scope on scope.oid = relnamespace
    where relkind in ('v', 'm')
    union all
    select concat_ws(E'\t',
                     'sequence options',
                     nspname || '.' || relname,
                     'type=' || format_type(seqtypid, null),
                     'increment=' || seqincrement,
                     'minimum=' || seqmin,
                     'maximum=' || seqmax,
                     'cache=' || seqcache,
                     'cycle=' || seqcycle)
    from pg_sequence
    join pg_class on pg_class.oid = seqrelid
    join scope on scope.oid = relnamespace
    union all
    select concat_ws(E'\t',
                     'function options',
                     nspname || '.' || proname || '(' || pg_get_function_identity_arguments(pg_proc.oid) || ')',
                     'arguments=' || pg_get_function_arguments(pg_proc.oid),
                     'language=' || lanname,
                     'strict=' || proisstrict,
                     'leakproof=' || proleakproof,
                     'parallel=' || proparallel::text,
                     'cost=' || procost,
                     'rows=' || prorows)
    from pg_proc
    join scope on scope.oid = pronamespace
    join pg_language on pg_language.oid = prolang
    union all
    select concat_ws(E'\t',
                     'column collation',
                     nspname || '.' || relname || '.' || attname,
                     'collation=' || attcollation::regcollation)
    from pg_attribute
    join pg_type on pg_type.oid = atttypid
    join pg_class on pg_class.oid = attrelid
    join scope on scope.oid = relnamespace
    where attnum > 0
      and not attisdropped
      and relkind in ('r', 'p', 'v', 'm', 'f')
      and attcollation <> typcollation
    union all
    select concat_ws(E'\t',
                     'rule',
                     nspname || '.' || relname || '.' || rulename,
                     'definition=' || pg_get_ruledef(pg_rewrite.oid),
                     'enabled=' || ev_enabled::text)
    from pg_rewrite
    join pg_class on pg_class.oid = ev_class
    join scope on scope.oid = relnamespace
    -- a view's own
    where rulename <> '_RETURN'
    union all
    select concat_ws(E'\t',
                     'domain',
                     nspname || '.' || typname,
                     'owner=' || typowner::regrole,
                     'grants=' || typacl::text,
                     'type=' || format_type(typbasetype, typtypmod),
                     'not null=' || typnotnull,
                     'default=' || pg_get_expr(typdefaultbin, 0),
                     'collation=' || nullif(typcollation, 0)::regcollation)
    from pg_type
    join scope on scope.oid = typnamespace
    where typtype = 'd'
    union all
    select concat_ws(E'\t',
                     'composite type',
                     nspname || '.' || relname,
                     'owner=' || relowner::regrole,
                     'attributes=' || string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ' order by attnum))
    from pg_class
    join scope on scope.oid = relnamespace
    left join pg_attribute on attrelid = pg_class.oid and attnum > 0 and not attisdropped
    where relkind = 'c'
    group by nspname, relname, relowner
)
select line from facts order by line collate "C""#;

/// The fingerprint of the database that `connection` is in.
pub async fn of(connection: &mut PgConnection) -> Result<String, Error> {
    Ok(of_lines(&structure(connection).await?))
}

/// The lines that the fingerprint is made of.
pub async fn structure(connection: &mut PgConnection) -> Result<Vec<String>, Error> {
    Ok(compared_lines(&facts(connection).await?))
}

/// All lines, in order, as the server words them; those that do not count as well.
pub async fn facts(connection: &mut PgConnection) -> Result<Vec<String>, Error> {
    sqlx::query_scalar(FACTS)
        .fetch_all(connection)
        .await
        .map_err(Error::sql("reading the structure"))
}

/// The lines that the fingerprint is made of, of all lines.
pub fn compared_lines(facts: &[String]) -> Vec<String> {
    let counts = |line: &&String| !line.starts_with(NOT_NULL);
    let settled = |line: &String| match split_function(line) {
        Some((before, body)) => {
            let (before, _hash) = before.rsplit_once('\t').unwrap_or((before, ""));
            format!("{before}{SQL_BODY}{}", wording::settled(body))
        }
        None => wording::settled(line).into_owned(),
    };
    let mut lines: Vec<String> = facts.iter().filter(counts).map(settled).collect();
    lines.sort_unstable();
    lines
}

/// What is said of a function in standard SQL, and its body.
fn split_function(line: &str) -> Option<(&str, &str)> {
    let is_function = line.starts_with("function\t");
    line.split_once(SQL_BODY).filter(|_| is_function)
}

/// The fingerprint of a database with these lines.
pub fn of_lines(lines: &[String]) -> String {
    hex::encode(secrets::sha256(lines.join("\n").as_bytes()))
}

/// The lines that a tenantry with fewer than 19 control migrations compares, of all lines.
pub fn older_lines(facts: &[String]) -> Vec<String> {
    let older = |line: &String| match (line.strip_prefix(NOT_NULL), split_function(line)) {
        (Some(named), _) => format!("constraint\t{named}"),
        (None, Some((before, _))) => before.to_owned(),
        (None, None) => line.clone(),
    };
    let mut lines: Vec<String> = facts.iter().map(older).collect();
    lines.sort_unstable();
    lines
}

/// Major version of the server, which may word the same structure otherwise than another one.
pub fn server_major(connection: &PgConnection) -> Option<i32> {
    let version = connection.server_version_num()? / 10_000;
    i32::try_from(version).ok()
}
