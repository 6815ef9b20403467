//! The structure of a database as one hash.
//!
//! Guarantees: two databases have the same fingerprint exactly when their schemas, relations (with
//! owner, grants, row security), columns, constraints, indexes, functions, triggers, enum labels,
//! default privileges and extensions are the same. Data does not count.

use sqlx::PgConnection;

use super::Error;

/// Every structural fact of the database as one line of text.
///
/// Ordered by bytes ("C"), so that databases of different collations compare equal.
const FINGERPRINT: &str = "
with scope as (
    select oid, nspname, nspowner, nspacl
    from pg_namespace
    where nspname <> 'information_schema'
      and nspname !~ '^pg_'
),
facts (line) as (
    select format('schema %s owner %s acl %s', nspname, nspowner::regrole, nspacl)
    from scope
    union all
    select format('relation %s.%s kind %s owner %s acl %s row security %s %s', nspname, relname, relkind,
                  relowner::regrole, relacl, relrowsecurity, relforcerowsecurity)
    from pg_class
    join scope on scope.oid = relnamespace
    where relkind in ('r', 'p', 'v', 'm', 'S', 'f')
    union all
    select format('column %s.%s.%s %s %s not null %s default %s identity %s acl %s', nspname, relname, attnum, attname,
                  format_type(atttypid, atttypmod), attnotnull, pg_get_expr(adbin, adrelid), attidentity, attacl)
    from pg_attribute
    join pg_class on pg_class.oid = attrelid
    join scope on scope.oid = relnamespace
    left join pg_attrdef on adrelid = attrelid and adnum = attnum
    where attnum > 0
      and not attisdropped
      and relkind in ('r', 'p', 'v', 'm', 'f')
    union all
    select format('constraint %s.%s %s', nspname, conname, pg_get_constraintdef(pg_constraint.oid))
    from pg_constraint
    join scope on scope.oid = connamespace
    union all
    select format('index %s valid %s', pg_get_indexdef(indexrelid), indisvalid)
    from pg_index
    join pg_class on pg_class.oid = indexrelid
    join scope on scope.oid = relnamespace
    union all
    select format('view %s.%s %s', nspname, relname, pg_get_viewdef(pg_class.oid))
    from pg_class
    join scope on scope.oid = relnamespace
    where relkind in ('v', 'm')
    union all
    select format('function %s.%s(%s) owner %s definer %s volatile %s config %s acl %s body %s', nspname, proname,
                  pg_get_function_identity_arguments(pg_proc.oid), proowner::regrole, prosecdef, provolatile, proconfig, proacl, md5(prosrc))
    from pg_proc
    join scope on scope.oid = pronamespace
    union all
    select format('trigger %s enabled %s', pg_get_triggerdef(pg_trigger.oid), tgenabled)
    from pg_trigger
    join pg_class on pg_class.oid = tgrelid
    join scope on scope.oid = relnamespace
    where not tgisinternal
    union all
    select format('policy %s on %s %s %s %s %s', polname, polrelid::regclass, polcmd, polroles::regrole[],
                  pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid))
    from pg_policy
    union all
    select format('enum %s.%s %s %s', nspname, typname, enumsortorder, enumlabel)
    from pg_enum
    join pg_type on pg_type.oid = enumtypid
    join scope on scope.oid = typnamespace
    union all
    select format('default privileges %s %s %s %s', defaclrole::regrole, defaclnamespace::regnamespace, defaclobjtype, defaclacl)
    from pg_default_acl
    union all
    select format('extension %s %s', extname, extversion)
    from pg_extension
)
select encode(sha256(convert_to(coalesce(string_agg(line, E'\\n' order by line collate \"C\"), ''), 'UTF8')), 'hex')
from facts";

/// The fingerprint of the database that `connection` is in.
pub async fn of(connection: &mut PgConnection) -> Result<String, Error> {
    sqlx::query_scalar(FINGERPRINT)
        .fetch_one(connection)
        .await
        .map_err(Error::sql("taking the structural fingerprint"))
}
