//! API keys: made, used, rotated, revoked, and what is never kept of them.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use secrecy::{ExposeSecret, SecretString};
use sqlx::PgConnection;
use tenantry::{
    api_keys::{self, ApiKey, ApiKeys, Error, KeyError, NewKey, Scope, Scopes, Standing},
    audit::Actor,
    db::Db,
    shutdown::Tasks,
};

use crate::support::{
    Deployment,
    app::{now, operator, wait_until},
    cluster::{ask, execute, hold, rows, try_execute},
};

/// A control database with API keys, and one replica that looks at them.
struct Office {
    deployment: Deployment,
    db: Db,
    tasks: Tasks,
    keys: ApiKeys,
}

impl Office {
    async fn open() -> Self {
        let deployment = Deployment::new().await;
        let db = Db::new(&deployment.config().database.url, 60).unwrap();
        db.migrate().await.unwrap();
        let tasks = Tasks::new();
        Self {
            deployment,
            keys: ApiKeys::new(&db, &tasks),
            db,
            tasks,
        }
    }

    /// Another replica, which remembers things of its own.
    fn replica(&self) -> ApiKeys {
        ApiKeys::new(&self.db, &self.tasks)
    }

    async fn change<T>(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.db.transaction(work).await
    }

    /// A key with these scopes.
    async fn has(&self, scopes: &[&str]) -> (ApiKey, SecretString) {
        self.makes(scopes, None).await.unwrap()
    }

    async fn makes(
        &self,
        scopes: &[&str],
        expires_at: Option<DateTime<Utc>>,
    ) -> Result<(ApiKey, SecretString), Error> {
        let new = NewKey {
            name: "ci".to_owned(),
            scopes: scopes.iter().map(|it| Scopes::parse(it).unwrap()).collect(),
            origins: Vec::new(),
            expires_at,
        };
        self.change(async |tx| api_keys::create(tx, &new, &operator()).await)
            .await
    }

    async fn rotates(&self, id: &str, overlap: Duration) -> Result<SecretString, Error> {
        let rotated = self
            .change(async |tx| api_keys::rotate(tx, id, overlap, &operator()).await)
            .await?;
        assert_eq!(rotated.0.id, id);
        Ok(rotated.1)
    }

    async fn revokes(&self, id: &str) -> ApiKey {
        let revoked = self.change(async |tx| api_keys::revoke(tx, id, &operator()).await);
        revoked.await.unwrap()
    }

    async fn lists(&self) -> Vec<ApiKey> {
        self.db.run(api_keys::list).await.unwrap()
    }

    async fn ask<T>(&self, sql: &str) -> T
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
    {
        ask(&self.deployment.control_url, sql).await
    }

    async fn closes(self) {
        assert!(self.tasks.finish(Duration::from_secs(20)).await);
        self.db.close().await;
    }
}

/// What somebody with this text is told: the key's id, or the code.
async fn told(
    keys: &ApiKeys,
    text: &SecretString,
    at: DateTime<Utc>,
) -> Result<String, &'static str> {
    let answer = keys.authenticate(text.expose_secret(), at).await;
    answer
        .map(|key| key.id.clone())
        .map_err(|error| error.code())
}

/// The text with another secret and the right checksum.
fn forged(id: &str) -> SecretString {
    let body = format!("tnt_{id}_{}", "0".repeat(32));
    let mut rest = crc32fast::hash(body.as_bytes());
    let alphabet: Vec<char> = ('0'..='9').chain('A'..='Z').chain('a'..='z').collect();
    let mut checksum = ['0'; 6];
    for digit in checksum.iter_mut().rev() {
        *digit = alphabet[rest as usize % 62];
        rest /= 62;
    }
    SecretString::from(body + &checksum.iter().collect::<String>())
}

const REFUSED: Result<String, &str> = Err("api_key_refused");

#[tokio::test(flavor = "multi_thread")]
async fn a_key_opens_with_its_whole_text_and_nothing_else_does() {
    let office = Office::open().await;
    let (key, text) = office.has(&["tenants:*", "audit:read"]).await;
    assert!(api_keys::looks_like_key(text.expose_secret()));
    let opened = office.keys.authenticate(text.expose_secret(), now()).await;
    let opened = opened.unwrap();
    assert_eq!((&opened.id, &*opened.created_by), (&key.id, "ops"));
    assert!(opened.scopes.allows(Scope::TenantsWrite));
    assert!(!opened.scopes.allows(Scope::TenantsConnect));

    let mut typo = text.expose_secret().to_owned();
    let other = if typo.ends_with('0') { "1" } else { "0" };
    typo.replace_range(50.., other);
    let typo = SecretString::from(typo);
    assert_eq!(
        told(&office.keys, &typo, now()).await,
        Err("api_key_malformed")
    );
    assert_eq!(told(&office.keys, &forged(&key.id), now()).await, REFUSED);
    assert_eq!(
        told(&office.keys, &forged("00000000"), now()).await,
        REFUSED
    );

    // nobody knows a key by what the table has of it
    let hash: String = office.ask("select encode(hash, 'hex') from api_keys").await;
    let hash = SecretString::from(hash);
    assert_eq!(
        told(&office.keys, &hash, now()).await,
        Err("api_key_malformed")
    );
    office.closes().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_cannot_be_used_is_not_made() {
    let office = Office::open().await;
    let make = async |name: &str, scopes: &[Scope], expires_at| {
        let new = NewKey {
            name: name.to_owned(),
            scopes: scopes.iter().copied().collect(),
            origins: Vec::new(),
            expires_at,
        };
        let made = office.change(async |tx| api_keys::create(tx, &new, &operator()).await);
        made.await.map_err(|error| error.code())
    };
    let read = [Scope::TenantsRead];
    let too_long = "n".repeat(101);
    for name in ["", "  ", "a\nb", &too_long] {
        let refused = make(name, &read, None).await.unwrap_err();
        assert_eq!(refused, "api_key_name_invalid", "{name:?}");
    }
    let refused = make("ci", &[], None).await.unwrap_err();
    assert_eq!(refused, "api_key_scopes_missing");
    let past = Some(now() - TimeDelta::seconds(5));
    let refused = make("ci", &read, past).await.unwrap_err();
    assert_eq!(refused, "api_key_expiry_passed");
    assert!(office.lists().await.is_empty());
    office.closes().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_key_has_origins_and_one_scope_and_no_other_key_has_that() {
    let office = Office::open().await;
    let make = async |scopes: &[&str], origins: &[&str]| {
        let new = NewKey {
            name: "signup".to_owned(),
            scopes: scopes.iter().map(|it| Scopes::parse(it).unwrap()).collect(),
            origins: origins.iter().map(|it| (*it).to_owned()).collect(),
            expires_at: None,
        };
        let made = office.change(async |tx| api_keys::create(tx, &new, &operator()).await);
        made.await.map_err(|error| error.code())
    };
    let (submit, page) = ("registrations:submit", "https://app.example.com");
    let (key, text) = make(&[submit], &[page, "http://localhost:3000"])
        .await
        .unwrap();
    assert!(key.is_form() && key.is_for_pages_of(page.as_bytes()));
    let opened = office.keys.authenticate(text.expose_secret(), now()).await;
    let origins = opened.unwrap().origins.clone().unwrap();
    assert_eq!(origins, [page, "http://localhost:3000"]);
    let (ordinary, _) = office.has(&["admin"]).await;
    assert!(!ordinary.is_form() && !ordinary.is_for_pages_of(page.as_bytes()));

    let refused: [(&[&str], &[&str], &str); 7] = [
        (&[submit], &[], "api_key_origins_missing"),
        (&["admin", submit], &[], "api_key_origins_missing"),
        (
            &[submit, "registrations:write"],
            &[page],
            "api_key_form_scopes",
        ),
        (&["admin"], &[page], "api_key_form_scopes"),
        (&[], &[page], "api_key_scopes_missing"),
        (&[submit], &[page, "*"], "api_key_origin_invalid"),
        (
            &[submit],
            &["https://app.example.com/"],
            "api_key_origin_invalid",
        ),
    ];
    for (scopes, origins, code) in refused {
        let told = make(scopes, origins).await.unwrap_err();
        assert_eq!(told, code, "{scopes:?} {origins:?}");
    }
    // nor does anybody get there by hand
    let url = &office.deployment.control_url;
    for (id, change) in [
        (&ordinary.id, "scopes = '{registrations:submit}'"),
        (&ordinary.id, "scopes = '{admin,registrations:submit}'"),
        (&ordinary.id, "origins = '{https://app.example.com}'"),
        (&key.id, "origins = null"),
        (&key.id, "origins = '{}'"),
        (&key.id, "origins = array['https://app.example.com', null]"),
        (&key.id, "scopes = '{registrations:submit,audit:read}'"),
        (&key.id, "scopes = '{registrations:write}'"),
    ] {
        let sql = format!("update api_keys set {change} where id = '{id}'");
        let refused = try_execute(url, &sql).await.expect_err(change).to_string();
        assert!(refused.contains("api_keys_form_check"), "{refused}");
    }
    office.closes().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_key_keeps_its_old_text_for_the_overlap_and_no_longer() {
    let office = Office::open().await;
    let (key, first) = office.has(&["members:*"]).await;
    assert_eq!(told(&office.keys, &first, now()).await, Ok(key.id.clone()));

    let second = office
        .rotates(&key.id, Duration::from_hours(1))
        .await
        .unwrap();
    office.keys.forget(&key.id);
    let until = office.lists().await[0].previous_until.unwrap();
    let before = until - TimeDelta::milliseconds(1);
    for text in [&first, &second] {
        assert_eq!(told(&office.keys, text, before).await, Ok(key.id.clone()));
    }
    // the same loaded row, a moment later
    assert_eq!(told(&office.keys, &first, until).await, REFUSED);
    assert_eq!(told(&office.keys, &second, until).await, Ok(key.id.clone()));

    // only the text before the last one overlaps
    let third = office
        .rotates(&key.id, Duration::from_hours(1))
        .await
        .unwrap();
    office.keys.forget(&key.id);
    assert_eq!(told(&office.keys, &first, now()).await, REFUSED);
    assert!(told(&office.keys, &second, now()).await.is_ok());

    let fourth = office.rotates(&key.id, Duration::ZERO).await.unwrap();
    office.keys.forget(&key.id);
    for text in [&second, &third] {
        assert_eq!(told(&office.keys, text, now()).await, REFUSED);
    }
    assert!(told(&office.keys, &fourth, now()).await.is_ok());

    let rotated = &office.lists().await[0];
    assert_eq!((&rotated.name, &rotated.scopes), (&key.name, &key.scopes));
    assert_eq!(rotated.created_at, key.created_at);
    // an overlap that no calendar holds is a long one
    office.rotates(&key.id, Duration::MAX).await.unwrap();
    office.closes().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_stays_so_with_all_its_texts() {
    let office = Office::open().await;
    let (key, first) = office.has(&["admin"]).await;
    let second = office
        .rotates(&key.id, Duration::from_hours(1))
        .await
        .unwrap();
    for text in [&first, &second] {
        assert!(told(&office.keys, text, now()).await.is_ok());
    }
    let revoked = office.revokes(&key.id).await;
    assert_eq!(revoked.standing(now()), Standing::Revoked);
    office.keys.forget(&key.id);
    for text in [&first, &second] {
        assert_eq!(told(&office.keys, text, now()).await, REFUSED);
    }
    let again = office.revokes(&key.id).await;
    assert_eq!(again.revoked_at, revoked.revoked_at);
    let changes =
        "select count(*) from audit_log where target_kind = 'api_key' and after ? 'revoked_at'";
    assert_eq!(office.ask::<i64>(changes).await, 1, "a second time is none");

    let rotated = office.rotates(&key.id, Duration::ZERO).await;
    assert_eq!(rotated.unwrap_err().code(), "api_key_revoked");
    for missing in ["00000000", "", "not one"] {
        let rotated = office.rotates(missing, Duration::ZERO).await;
        assert_eq!(rotated.unwrap_err().code(), "api_key_unknown");
        let revoked = office.change(async |tx| api_keys::revoke(tx, missing, &operator()).await);
        assert_eq!(revoked.await.unwrap_err().code(), "api_key_unknown");
    }
    office.closes().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_expires_to_the_moment_and_says_so_to_its_holder_alone() {
    let office = Office::open().await;
    let expires_at = now() + TimeDelta::hours(1);
    let (key, text) = office
        .makes(&["tenants:read"], Some(expires_at))
        .await
        .unwrap();
    let at = key.expires_at.unwrap();
    let before = at - TimeDelta::milliseconds(1);
    assert_eq!(told(&office.keys, &text, before).await, Ok(key.id.clone()));
    assert_eq!(told(&office.keys, &text, at).await, Err("api_key_expired"));
    assert_eq!(told(&office.keys, &forged(&key.id), at).await, REFUSED);

    let past = "update api_keys set expires_at = now() - interval '1 second'";
    execute(&office.deployment.control_url, past).await;
    let rotated = office.rotates(&key.id, Duration::ZERO).await;
    assert_eq!(rotated.unwrap_err().code(), "api_key_expired");
    office.closes().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_reaches_a_replica_at_once_by_word_and_in_ten_seconds_without() {
    let office = Office::open().await;
    let (told_of, not_told, told_of_all) = (office.replica(), office.replica(), office.replica());
    let replicas = [&told_of, &not_told, &told_of_all];
    let (key, text) = office.has(&["events:*"]).await;
    let unknown = forged("zzzzzzzz");
    for keys in replicas {
        assert!(told(keys, &text, now()).await.is_ok());
        assert_eq!(told(keys, &unknown, now()).await, REFUSED);
    }
    let mut word = office.db.listen("tenantry_changed").await.unwrap();
    office.revokes(&key.id).await;
    let heard = word.recv().await.unwrap();
    assert_eq!(heard.payload(), format!("key:{}", key.id));

    told_of.forget(heard.payload().strip_prefix("key:").unwrap());
    told_of_all.forget_all();
    assert_eq!(told(&told_of, &text, now()).await, REFUSED);
    assert_eq!(told(&told_of_all, &text, now()).await, REFUSED);
    let revoked = std::time::Instant::now();
    assert!(
        told(&not_told, &text, now()).await.is_ok(),
        "it was told nothing"
    );
    wait_until("the other replica looks again", async || {
        told(&not_told, &text, now()).await.is_err()
    })
    .await;
    assert!(revoked.elapsed() < Duration::from_secs(14), "{revoked:?}");
    drop(word);
    office.closes().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_before_a_revocation_is_not_believed_after_it() {
    let office = Office::open().await;
    let (key, text) = office.has(&["admin"]).await;
    // whoever reads has read at the beginning of a second that passes before the answer
    let url = &office.deployment.control_url;
    let slow = "alter table api_keys rename to kept;
                create view api_keys as select kept.* from (select pg_sleep(1)) slow, kept;
                grant select on api_keys to public";
    execute(url, slow).await;
    let load = {
        let (keys, text) = (office.keys.clone(), text.clone());
        office
            .tasks
            .spawn(async move { told(&keys, &text, now()).await })
    };
    let sleeping = "select count(*) from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database()";
    wait_until("the key is being read", async || {
        office.ask::<i64>(sleeping).await == 1
    })
    .await;
    execute(url, "update kept set revoked_at = now()").await;
    office.keys.forget(&key.id);

    assert_eq!(
        told(&office.keys, &text, now()).await,
        REFUSED,
        "while it is being read"
    );
    let early = load.await.unwrap().unwrap();
    assert_eq!(early, Ok(key.id), "who asked before the revocation");
    assert_eq!(
        told(&office.keys, &text, now()).await,
        REFUSED,
        "after it was read"
    );
    office.tasks.stop_now();
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_requests_at_once_are_one_look_at_the_database() {
    let office = Office::open().await;
    let (key, text) = office.has(&["admin"]).await;
    let url = &office.deployment.control_url;
    let mut lock = hold(url, "lock table api_keys in access exclusive mode").await;
    let ask_now = |text: &SecretString| {
        let (keys, text) = (office.keys.clone(), text.clone());
        office
            .tasks
            .spawn(async move { told(&keys, &text, now()).await })
    };
    let asked: Vec<_> = (0..50).map(|_| ask_now(&text)).collect();
    let guessed: Vec<_> = (0..50).map(|_| ask_now(&forged("zzzzzzzz"))).collect();
    let looks = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()";
    wait_until("both ids are looked up", async || {
        office.ask::<i64>(looks).await >= 2
    })
    .await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(office.ask::<i64>(looks).await, 2, "one for each id");
    // also nobody who is still connecting
    let (open, idle) = office.db.connections();
    assert_eq!(open - idle, 2, "{open} open, {idle} idle");
    lock.release().await;
    for answer in asked {
        assert_eq!(answer.await.unwrap().unwrap(), Ok(key.id.clone()));
    }
    for answer in guessed {
        assert_eq!(answer.await.unwrap().unwrap(), REFUSED);
    }

    // what is remembered, an unknown id too, needs no database
    office.db.close().await;
    assert!(told(&office.keys, &text, now()).await.is_ok());
    assert_eq!(
        told(&office.keys, &forged("zzzzzzzz"), now()).await,
        REFUSED
    );
    let stranger = forged("yyyyyyyy");
    let unheard = office.keys.authenticate(stranger.expose_secret(), now());
    let away = unheard.await.unwrap_err();
    assert!(away.is_unavailable() && matches!(away, KeyError::Unavailable(_)));
    assert_eq!(away.code(), "control_database_unavailable");
    office.tasks.stop_now();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_use_is_noted_once_a_minute_and_is_no_change() {
    let office = Office::open().await;
    let (key, text) = office.has(&["admin"]).await;
    let url = &office.deployment.control_url;
    let count = "create table notes (at timestamptz);
                 create function count_note() returns trigger language plpgsql security definer as
                 $$ begin insert into notes values (new.last_used_at); return null; end $$;
                 create trigger count_note after update on api_keys for each row execute function count_note()";
    execute(url, count).await;
    let mut word = office.db.listen("tenantry_changed").await.unwrap();
    let start = key.created_at;
    let noted = async |at: DateTime<Utc>| {
        wait_until("the use is noted", async || {
            office.lists().await[0].last_used_at == Some(at)
        })
        .await;
    };
    told(&office.keys, &text, start).await.unwrap();
    noted(start).await;
    // ten uses in the same minute, and nobody whose text is wrong
    for second in 1..=10 {
        let at = start + TimeDelta::seconds(second);
        told(&office.keys, &text, at).await.unwrap();
        told(&office.keys, &forged(&key.id), at + TimeDelta::hours(1))
            .await
            .unwrap_err();
    }
    let later = start + TimeDelta::minutes(1);
    told(&office.keys, &text, later).await.unwrap();
    noted(later).await;
    // a replica whose clock is behind does not turn it back
    told(&office.replica(), &text, start).await.unwrap();
    assert!(office.tasks.finish(Duration::from_secs(20)).await);
    noted(later).await;
    let times: i64 = office.ask("select count(*) from notes").await;
    assert_eq!(times, 3, "one a minute and replica");

    let entries = "select string_agg(action, ' ') from audit_log where target_kind = 'api_key'";
    assert_eq!(office.ask::<String>(entries).await, "api_key.created");
    let silence = tokio::time::timeout(Duration::from_millis(300), word.recv()).await;
    assert!(silence.is_err(), "{silence:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_let_in_does_not_wait_for_the_note_of_it() {
    let office = Office::open().await;
    let (key, text) = office.has(&["admin"]).await;
    let url = &office.deployment.control_url;
    let mut lock = hold(url, "select from api_keys for update").await;
    let answer = told(&office.keys, &text, now());
    let answer = tokio::time::timeout(Duration::from_secs(4), answer).await;
    assert_eq!(answer.unwrap(), Ok(key.id));
    lock.release().await;
    wait_until("the use is noted", async || {
        office.lists().await[0].last_used_at.is_some()
    })
    .await;
    office.closes().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_has_no_text_of_any_key() {
    let office = Office::open().await;
    let (key, first) = office.has(&["tenants:read"]).await;
    let hour = Duration::from_hours(1);
    let second = office.rotates(&key.id, hour).await.unwrap();
    told(&office.keys, &second, now()).await.unwrap();
    office.revokes(&key.id).await;

    let url = &office.deployment.control_url;
    let tables = "select tablename::text, '', '' from pg_tables where schemaname = 'public'";
    let mut dump = String::new();
    for (table, ..) in rows(url, tables).await {
        let all = format!("select coalesce(string_agg(to_jsonb(t)::text, ' '), '') from {table} t");
        dump += &office.ask::<String>(&all).await;
    }
    assert!(dump.contains(&key.id) && dump.contains("previous_hash"));
    for text in [&first, &second] {
        let text = text.expose_secret();
        for part in [text, &text[13..45], &text[13..]] {
            let in_hex = hex::encode(part);
            assert!(!dump.contains(part) && !dump.contains(&in_hex));
        }
    }
    let json = serde_json::to_string(&office.lists().await).unwrap();
    assert!(!json.contains("hash"), "{json}");
    office.closes().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_log_names_who_changed_a_key_and_never_its_hash() {
    let office = Office::open().await;
    let (key, _) = office.has(&["tenants:read"]).await;
    let (admin, _) = office.has(&["admin"]).await;
    let hour = Duration::from_hours(1);
    office.rotates(&key.id, hour).await.unwrap();
    let by_key = Actor::Key(admin.id.clone());
    office
        .change(async |tx| api_keys::rotate(tx, &key.id, Duration::ZERO, &by_key).await)
        .await
        .unwrap();
    office.revokes(&key.id).await;

    let entries = rows(
        &office.deployment.control_url,
        "select concat_ws(' ', actor_kind, actor), concat_ws(' ', action, target),
                (select string_agg(field, ' ' order by field) from jsonb_object_keys(after) field)
         from audit_log
         where target_kind = 'api_key'
         order by id",
    )
    .await;
    let (ops, id, other) = ("operator ops", &key.id, &admin.id);
    let by_admin = format!("key {other}");
    let made = "created_at created_by id name scopes";
    let expected = [
        (ops, format!("api_key.created {id}"), made),
        (ops, format!("api_key.created {other}"), made),
        (ops, format!("api_key.changed {id}"), "previous_until"),
        (&by_admin, format!("api_key.changed {id}"), "previous_until"),
        (ops, format!("api_key.changed {id}"), "revoked_at"),
    ];
    let expected = expected.map(|(who, what, after)| (who.to_owned(), what, after.to_owned()));
    assert_eq!(entries, expected);
    let before = "select string_agg(before::text, ' ') from audit_log";
    let before: String = office.ask(before).await;
    assert!(!before.contains("hash"), "{before}");
    office.closes().await;
}
