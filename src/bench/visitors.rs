//! Who asks at the door: members of one ready tenant with tokens of an issuer of the bench, and an API key.
//!
//! Does not: provision. The tenant's row says that it is ready; nobody connects to its database.

use std::path::Path;

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use jsonwebtoken::{
    Algorithm, EncodingKey, Header,
    jwk::{Jwk, JwkSet},
};
use secrecy::ExposeSecret;
use serde_json::json;

use super::{
    Error,
    sender::{Request, now},
    server::{Server, execute},
};
use crate::{
    api_keys::{self, NewKey, Scope, Scopes},
    audit::Actor,
    db::Db,
};

const ISSUER: &str = "https://bench.example.com";
const ORGANIZATION: &str = "org_bench_door";
const HOST: &str = "door.bench.example.com";
const KEY_ID: &str = "bench";

/// A token outlives every measure, in seconds.
const LIFETIME_S: i64 = 3600;

/// Where the issuer's keys lie, below the files of the run.
const JWKS_FILE: &str = "jwks.json";
const SIGNING_KEY_FILE: &str = "issuer.p8";

/// What a replica must be told of the issuer, and that the key's limit is far away.
pub(super) fn variables(scratch: &Path) -> Vec<(&'static str, String)> {
    vec![
        ("TENANTRY__ISSUERS__BENCH__KIND", "custom".to_owned()),
        ("TENANTRY__ISSUERS__BENCH__SOURCE", "workos".to_owned()),
        ("TENANTRY__ISSUERS__BENCH__ISSUER", ISSUER.to_owned()),
        ("TENANTRY__ISSUERS__BENCH__ALGORITHMS", "ES256".to_owned()),
        (
            "TENANTRY__ISSUERS__BENCH__JWKS_FILE",
            scratch.join(JWKS_FILE).display().to_string(),
        ),
        (
            "TENANTRY__LIMITS__PER_PRINCIPAL_PER_MINUTE",
            "1000000000".to_owned(),
        ),
    ]
}

/// Makes the issuer's keys, before any replica reads them.
pub(super) fn make_issuer(scratch: &Path) -> Result<(), Error> {
    let doing = "making the issuer's key";
    let unspecified = |_| Error::io(doing)(std::io::Error::other("no key could be made"));
    let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
        .map_err(unspecified)?;
    let signing = EncodingKey::from_ec_der(key.as_ref());
    let other = |error| Error::io(doing)(std::io::Error::other(error));
    let mut public = Jwk::from_encoding_key(&signing, Algorithm::ES256).map_err(other)?;
    public.common.key_id = Some(KEY_ID.to_owned());
    let set = JwkSet { keys: vec![public] };
    let set = serde_json::to_vec(&set).map_err(|error| Error::io(doing)(error.into()))?;
    std::fs::create_dir_all(scratch).map_err(Error::io(doing))?;
    std::fs::write(scratch.join(JWKS_FILE), set).map_err(Error::io(doing))?;
    std::fs::write(scratch.join(SIGNING_KEY_FILE), key.as_ref()).map_err(Error::io(doing))
}

/// Members with their tokens, and a key.
#[derive(Debug)]
pub(super) struct Visitors {
    tokens: Vec<String>,
    key: String,
}

impl Visitors {
    /// So many members of a ready tenant.
    pub(super) async fn settle(server: &Server, members: usize) -> Result<Self, Error> {
        let rows = format!(
            "insert into organizations (source, org_id, content, updated_at)
             values ('workos', '{ORGANIZATION}', '{{\"name\": \"Door\"}}', now());
             insert into tenants
                 (id, org_id, initialize, name, url, database, read_only_database, username, alembic_version,
                  source, state, credential)
             values (gen_random_uuid(), '{ORGANIZATION}', true, 'Door', '{HOST}', 'door', 'door', 'door', '1',
                     'workos', 'ready', '');
             insert into users (source, user_id, content, updated_at)
             select 'workos', 'user_' || number,
                    jsonb_build_object('email', number || '@example.com', 'first_name', 'Ada'), now()
             from generate_series(0, {members}) as number;
             insert into memberships (source, membership_id, content, updated_at)
             select 'workos', 'om_' || number,
                    jsonb_build_object('organization_id', '{ORGANIZATION}', 'user_id', 'user_' || number,
                                       'status', 'active', 'role', 'admin'), now()
             from generate_series(0, {members}) as number;
             analyze users, memberships, invitations, directory_users"
        );
        execute(&mut server.control().await?, rows).await?;
        Ok(Self {
            tokens: tokens(server, members)?,
            key: make_key(server, Scope::TenantsRead).await?,
        })
    }

    /// Each member asks with a token of their own.
    pub(super) fn verify(&self, path: &str) -> Vec<Request> {
        let ask = |token: &String| Request::get(path, Some(token));
        self.tokens.iter().map(ask).collect()
    }

    /// All ask with the same key.
    pub(super) fn resolve(&self, path: &str) -> Vec<Request> {
        let path = format!("{path}?host={HOST}");
        vec![Request::get(&path, Some(&self.key)); self.tokens.len()]
    }

    /// Forgets them.
    pub(super) async fn leave(self, server: &Server) -> Result<(), Error> {
        forget_keys(server).await?;
        server.empty_registers().await
    }
}

/// Nobody has a key any more.
pub(super) async fn forget_keys(server: &Server) -> Result<(), Error> {
    let forget = "delete from api_keys";
    execute(&mut server.control().await?, forget.to_owned()).await
}

fn tokens(server: &Server, members: usize) -> Result<Vec<String>, Error> {
    let doing = "signing tokens";
    let key = std::fs::read(server.scratch.join(SIGNING_KEY_FILE)).map_err(Error::io(doing))?;
    let key = EncodingKey::from_ec_der(&key);
    let mut header = Header::new(Algorithm::ES256);
    header.kid = Some(KEY_ID.to_owned());
    let now = now().timestamp();
    let sign = |number: usize| {
        let claims = json!({
            "iss": ISSUER,
            "sub": format!("user_{number}"),
            "org_id": ORGANIZATION,
            "iat": now,
            "exp": now + LIFETIME_S,
        });
        jsonwebtoken::encode(&header, &claims, &key)
            .map_err(|error| Error::io(doing)(std::io::Error::other(error)))
    };
    (0..members).map(sign).collect()
}

/// An API key with this scope.
pub(super) async fn make_key(server: &Server, scope: Scope) -> Result<String, Error> {
    let new = NewKey {
        name: "bench".to_owned(),
        scopes: Scopes::from_iter([scope]),
        origins: Vec::new(),
        expires_at: None,
    };
    let actor = Actor::Operator("bench".to_owned());
    let db = Db::new(&server.config.database.url, 1)?;
    let made = db
        .transaction(async |tx| api_keys::create(tx, &new, &actor).await)
        .await;
    db.close().await;
    let (_, text) =
        made.map_err(|error| Error::io("making a key")(std::io::Error::other(error)))?;
    Ok(text.expose_secret().to_owned())
}
