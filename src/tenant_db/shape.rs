//! The shape: the structure of a database as the server stores it, as one hash.
//!
//! It costs a third of what the fingerprint costs.
//!
//! Guarantees: two databases of one cluster that have the same shape have the same fingerprint, except for an
//! expression that differs only in *which* object of the user's it names, or a hash partition's modulus or remainder
//! from 16384 on. The same migrations make the same shape, except where each database has made for itself an enum that
//! a condition names, an operator class, or a language: to look their names up would cost every database more. The
//! reverse does not hold: text that means the same may be stored differently. So a shape that is known answers, and one
//! that is not asks for the fingerprint.
//!
//! Not for keeping: it differs from cluster to cluster and from one version of the server to the next.
//!
//! Expressions are not turned back into SQL, for which the server would have to open every table first, except an
//! enum's defaults; and no catalog is joined with another: rows name relations by number, and the names are put in
//! here.

use std::{
    collections::{HashMap, HashSet},
    sync::{MutexGuard, PoisonError},
};

use sqlx::{PgConnection, Row};

use super::{Cluster, Error, fingerprint};
use crate::secrets;

/// Far more shapes than there are versions under way at a time.
const MOST_KNOWN: usize = 1000;

/// Between two of these stands the number of a relation.
const MARK: char = '\u{1}';

/// A stored expression follows.
const EXPRESSION: char = '\u{2}';

/// One column of text each. What was made here has numbers from 16384 on.
const CATALOGS: &str = r"
select format(E'\x01%s\x01%s.%s %s %s %s %s %s %s %s %s \x02%s', oid, relnamespace::regnamespace, relname, relkind, relowner, relacl,
              relrowsecurity, relforcerowsecurity, relpersistence, relreplident, reloptions,
              relpartbound)
from pg_class where oid >= 16384 and relnamespace <> 99 and relkind in ('r', 'p', 'v', 'm', 'S', 'f', 'i', 'I', 'c');
select format(E'column \x01%s\x01 %s %s %s %s %s %s %s %s %s %s', attrelid, attnum, attname, atttypid::regtype, atttypmod, attcollation::regcollation, attnotnull, attidentity,
              attgenerated, attacl, attoptions)
from pg_attribute
where attrelid >= 16384
  and attnum > 0
  and not attisdropped
  -- half of all are of indexes, of which the index itself says everything but the options
  and (attoptions is not null or attrelid in (select oid from pg_class where oid >= 16384 and relkind in ('r', 'p', 'v', 'm', 'f', 'c')));
select format(E'default \x01%s\x01 %s \x02%s', adrelid, adnum,
              -- the label of a user's enum is stored as a number of this database
              case when adbin::text ~ ':consttype [0-9]{5}' then pg_get_expr(adbin, adrelid) else adbin::text end)
from pg_attrdef where oid >= 16384;
select format(E'constraint \x01%s\x01 \x01%s\x01 %s %s %s %s %s %s %s %s %s %s %s %s %s %s %s \x02%s', conrelid, confrelid, nullif(contypid, 0)::regtype, conname, connamespace::regnamespace, contype, conkey,
              confkey, confupdtype, confdeltype, condeferrable, condeferred, convalidated, confmatchtype, connoinherit, conexclop::regoperator[],
              -- not every version of the server has it
              case when confdeltype in ('n', 'd') then to_jsonb(pg_constraint) ->> 'confdelsetcols' end,
              conbin)
from pg_constraint where oid >= 16384 and (contype <> 'n' or not convalidated or connoinherit);
select format(E'index \x01%s\x01 \x01%s\x01 %s %s %s %s %s %s %s \x02%s \x02%s', indexrelid, indrelid, indisunique, indisvalid, indkey, indoption,
              indclass,
              case when 16384 <= any (indcollation::oid[]) then indcollation::oid[]::regcollation[]::text else indcollation::text end,
              case when indisunique and not indisprimary then to_jsonb(pg_index) ->> 'indnullsnotdistinct' end,
              indexprs,
              indpred)
from pg_index where indexrelid >= 16384;
select format(E'function %s %s(%s) %s %s %s %s %s %s %s %s %s %s %s %s %s %s %s %s %s %s \x02%s \x02%s', pronamespace::regnamespace, proname, proargtypes::regtype[],
              proowner, prosecdef, provolatile, proconfig, proacl, proretset, prorettype::regtype, proargnames, proargmodes, proallargtypes::regtype[], prokind,
              prolang,
              proisstrict, proleakproof, proparallel, procost, prorows, md5(prosrc),
              proargdefaults,
              prosqlbody)
from pg_proc where oid >= 16384;
select format(E'trigger \x01%s\x01 \x01%s\x01 %s %s %s %s %s %s %s %s %s %s \x02%s', tgrelid, tgconstrrelid, tgname, tgfoid::regproc, tgtype, tgenabled, tgattr, tgargs,
              tgdeferrable, tginitdeferred, tgoldtable, tgnewtable,
              tgqual)
from pg_trigger where oid >= 16384 and not tgisinternal;
select format(E'rule \x01%s\x01 %s %s %s %s \x02%s \x02%s', ev_class, rulename, ev_type, ev_enabled, is_instead, ev_qual, ev_action)
from pg_rewrite where oid >= 16384;
select format(E'policy \x01%s\x01 %s %s %s %s \x02%s \x02%s', polrelid, polname, polpermissive, polcmd, polroles,
              polqual,
              polwithcheck)
from pg_policy;
select format(E'sequence \x01%s\x01 %s %s %s %s %s %s', seqrelid, seqtypid::regtype, seqincrement, seqmin, seqmax, seqcache, seqcycle)
from pg_sequence;
select format(E'domain %s %s %s %s %s %s %s \x02%s', oid::regtype, typowner, typacl, typbasetype::regtype, typtypmod, typnotnull, typcollation::regcollation,
              typdefaultbin)
from pg_type where oid >= 16384 and typtype = 'd';
select format('enum %s %s %s', enumtypid::regtype, enumsortorder, enumlabel) from pg_enum;
select format('default privileges %s %s %s %s', defaclrole, defaclnamespace::regnamespace, defaclobjtype, defaclacl) from pg_default_acl;
select format('extension %s %s', extname, extversion) from pg_extension;
select format('schema %s %s %s', nspname, nspowner, nspacl) from pg_namespace where nspname <> 'information_schema' and nspname !~ '^pg_'";

impl Cluster {
    /// Whether the database that `connection` is in has this fingerprint.
    ///
    /// A fleet's databases come out in the same shape: of a shape that had the fingerprint once it need not be
    /// taken again.
    pub async fn has_fingerprint(
        &self,
        connection: &mut PgConnection,
        expected: &str,
    ) -> Result<bool, Error> {
        let pair = (expected.to_owned(), of(connection).await?);
        if self.shapes().contains(&pair) {
            return Ok(true);
        }
        if fingerprint::of(connection).await? != expected {
            return Ok(false);
        }
        // somebody may have repaired it in between: then the shape was another one's
        if of(connection).await? != pair.1 {
            return Ok(true);
        }
        let mut shapes = self.shapes();
        if shapes.len() >= MOST_KNOWN {
            shapes.clear();
        }
        shapes.insert(pair);
        Ok(true)
    }

    fn shapes(&self) -> MutexGuard<'_, HashSet<(String, String)>> {
        self.shapes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The shape of the database that `connection` is in: one round trip.
pub async fn of(connection: &mut PgConnection) -> Result<String, Error> {
    let rows = sqlx::raw_sql(CATALOGS).fetch_all(connection).await;
    let rows = rows.map_err(Error::sql("reading the structure"))?;
    let lines = rows.iter().map(|row| row.try_get::<&str, _>(0));
    let lines: Vec<&str> = lines
        .collect::<sqlx::Result<_>>()
        .map_err(Error::sql("reading the structure"))?;
    let names = lines
        .iter()
        .filter_map(|line| line.strip_prefix(MARK)?.split_once(MARK))
        // whatever names the relation is to be told to the last number, but for its own expressions
        .map(|(number, name)| (number, name.split(EXPRESSION).next().unwrap_or(name)));
    // a constraint of a domain, or one that refers to nothing
    let names: HashMap<&str, &str> = names.chain([("0", "")]).collect();
    let mut facts: Vec<String> = lines.iter().filter_map(|line| name(line, &names)).collect();
    facts.sort_unstable();
    Ok(hex::encode(secrets::sha256(facts.join("\n").as_bytes())))
}

/// The line with names for numbers; `None` for one about a relation that is no part of the structure, such as a
/// table's own store of long values.
fn name(line: &str, names: &HashMap<&str, &str>) -> Option<String> {
    let mut parts = line.split(MARK);
    let mut text = parts.next()?.to_owned();
    while let (Some(number), Some(after)) = (parts.next(), parts.next()) {
        text.push_str(names.get(number)?);
        text.push_str(after);
    }
    match text.split_once(EXPRESSION) {
        None => Some(text),
        Some((before, expressions)) => Some(format!("{before}{}", settled(expressions))),
    }
}

/// Stored expressions without what differs from database to database: where they stood in their source, and the
/// numbers of what was made here, also as the value of a `regclass` (2205).
fn settled(expressions: &str) -> String {
    let mut settled = String::with_capacity(expressions.len());
    let mut words = expressions.split(' ').peekable();
    while let Some(word) = words.next() {
        match word {
            ":location" => {
                words.next();
            }
            ":consttype" if words.peek() == Some(&"2205") => {
                words.find(|word| word.ends_with('}'));
            }
            word if is_of_here(word) => {}
            word => {
                settled.push_str(word);
                settled.push(' ');
            }
        }
    }
    settled
}

/// The first number that the server gives to what users make; it gives those before at its own making.
const FIRST: u32 = 16_384;

/// A number of something that was made here.
fn is_of_here(word: &str) -> bool {
    // most words are shorter
    if word.len() < 5 {
        return false;
    }
    let digits = word.trim_matches(['(', ')', '{', '}']);
    digits.parse::<u32>().is_ok_and(|number| number >= FIRST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_expression_is_told_by_what_it_says() {
        let stored = |place: &str, number: &str, value: &str| {
            format!(
                "{{FUNCEXPR :funcid {number} :args ({{CONST :consttype 23 :location {place} :constvalue 4 [ {value} 0 0 0 ]}}) :location {place}}}"
            )
        };
        let one = settled(&stored("68", "16397", "1"));
        assert_eq!(one, settled(&stored("-1", "24001", "1")));
        assert_ne!(one, settled(&stored("68", "16397", "2")));
        assert_ne!(one, settled(&stored("68", "1574", "1")));
        let sequence = |value: &str| {
            settled(&format!(
                "{{CONST :consttype 2205 :constvalue 4 [ {value} 64 0 0 ]}} :b 1"
            ))
        };
        assert_eq!(sequence("9"), sequence("12"));
        assert!(sequence("9").contains(":b 1"));
    }
}
