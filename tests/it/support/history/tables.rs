//! What is known in fact: the rows of the product, a line each, as `fold` writes them.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::{AssertSqlSafe, PgConnection};

use super::World;

/// Every register as kind, id column, and what is shown of its content.
const REGISTERS: [(&str, &str, &str, &str); 10] = [
    ("organizations", "organization", "org_id", "name"),
    (
        "users",
        "user",
        "user_id",
        "concat_ws(' ', coalesce(email, '-'), coalesce(first_name, '-'), coalesce(last_name, '-'))",
    ),
    (
        "memberships",
        "membership",
        "membership_id",
        "concat_ws(' ', status, coalesce(role, '-'))",
    ),
    (
        "invitations",
        "invitation",
        "invitation_id",
        "concat_ws(' ', coalesce(org_id, '-'), email, state, coalesce(role, '-'))",
    ),
    (
        "roles",
        "role",
        "role_id",
        "case when is_gone then 'gone' else slug || ' ' || array_to_string(array(
             select permission
             from role_permissions carried
             where (carried.source, carried.role_id) = (known.source, known.role_id)
             order by permission
         ), ',') end",
    ),
    ("permissions", "permission", "permission_id", "slug"),
    (
        "organization_domains",
        "domain",
        "domain_id",
        "concat_ws(' ', org_id, domain, coalesce(state, '-'))",
    ),
    (
        "directory_users",
        "directory user",
        "directory_user_id",
        "concat_ws(' ', org_id, email, state)",
    ),
    ("directory_groups", "group", "directory_group_id", "name"),
    (
        "directory_group_members",
        "group member",
        "group_member_id",
        "case when is_gone then 'gone' else 'in' end",
    ),
];

const MEMBERS: &str = "
    select source,
           format('member %s %s: %s %s %s %s %s', org_id, user_id, status, coalesce(role, '-'), display_name,
                  coalesce(email, '-'), coalesce(customer_id, '-'))
    from members";

/// What is known of each source; events that wait are not among it.
pub async fn read_worlds(connection: &mut PgConnection) -> BTreeMap<String, World> {
    let moment = |column: &str| {
        let seconds = format!(
            "extract(epoch from {column})::bigint - {}",
            super::bodies::BEGINNING
        );
        format!("coalesce(({seconds})::text, '-')")
    };
    let (since, deleted) = (moment("updated_at"), moment("deleted_at"));
    let registers = REGISTERS.iter().map(|(table, kind, id, content)| {
        let content = format!("case when content is null then '' else {content} end");
        format!(
            "select source, format('{kind} %s: %s, since %s, deleted %s', {id}, {content}, {since}, {deleted})
             from {table} known"
        )
    });
    let all: Vec<String> = registers.chain([MEMBERS.to_owned()]).collect();
    read(connection, &all.join(" union all ")).await
}

/// Every row of each source, with all that does not depend on when it was written.
pub async fn read_rows(connection: &mut PgConnection) -> BTreeMap<String, BTreeSet<String>> {
    let tables = REGISTERS.iter().map(|(table, ..)| *table);
    let rows = tables.chain(["members", "role_permissions"]).map(|table| {
        let bookkeeping = "array['id', 'number', 'source', 'event', 'recorded_at']";
        format!("select source, '{table} ' || (to_jsonb(known) - {bookkeeping})::text from {table} known")
    });
    let all: Vec<String> = rows.collect();
    read(connection, &all.join(" union all ")).await
}

async fn read(connection: &mut PgConnection, sql: &str) -> BTreeMap<String, BTreeSet<String>> {
    let rows: Vec<(String, String)> = sqlx::query_as(AssertSqlSafe(sql.to_owned()))
        .fetch_all(connection)
        .await
        .unwrap();
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (source, line) in rows {
        found.entry(source).or_default().insert(line);
    }
    found
}
