//! From a bearer token to an end user: whose tokens are believed, and whose never.
//!
//! The vectors are `tests/fixtures/jwt/jwt_vectors.json`: whatever is added to the file is run. A vector's `config` is mapped to
//! settings of ours by [`settings_of`], which knows every key of that format.

use std::{
    fs,
    sync::{Arc, LazyLock},
};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, TimeDelta, Utc};
use proptest::{prelude::*, sample::Index};
use serde_json::{Map, Value, json};
use tenantry::{
    auth::{EndUser, Issuers, TokenError},
    config::Environment,
    metrics::Metrics,
};
use tokio::runtime::Runtime;

use crate::support::signer::{
    FIXTURES, Signer, config, config_in, hs256, hs512, issuers, signed_part,
};

const NOW: i64 = 1_794_819_601;
const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(seconds, 0).unwrap()
}

/// Clerk with the fixtures' keys, and further lines.
fn clerk(lines: &str) -> Issuers {
    issuers(&format!(
        "[issuers.clerk]\nkind = \"clerk\"\nsource = \"main\"\nissuer = \"https://clerk.example\"\n\
         jwks_file = \"{FIXTURES}/clerk.jwks.json\"\n{lines}"
    ))
}

fn custom(lines: &str) -> Issuers {
    issuers(&format!(
        "[issuers.ours]\nkind = \"custom\"\nsource = \"main\"\nissuer = \"us\"\nsecret = \"{SECRET}\"\n{lines}"
    ))
}

fn clerk_signer() -> Signer {
    Signer::first("ins_3zdfIP046N1RkqXmcmwTCwvX5hA")
}

fn claims_of_clerk() -> Value {
    json!({"iss": "https://clerk.example", "sub": "user_1", "sid": "sess_1", "azp": "https://app.example",
           "iat": NOW, "nbf": NOW - 10, "exp": NOW + 60})
}

fn code(result: &Result<Arc<EndUser>, TokenError>) -> &'static str {
    result
        .as_ref()
        .map_or_else(TokenError::code, |_| "accepted")
}

/// A vector's configuration in our words. Strings and lists of JSON are TOML as well.
fn settings_of(given: &Map<String, Value>) -> String {
    let provider = given["provider"].as_str().unwrap();
    let kind = if provider.starts_with("custom") {
        "custom"
    } else {
        provider
    };
    let mut lines = vec![
        "[issuers.it]".to_owned(),
        "source = \"main\"".to_owned(),
        format!("kind = \"{kind}\""),
    ];
    if kind == "custom" {
        lines.push("organization_claim = \"tenant_id\"".to_owned());
    }
    for (key, value) in given {
        match key.as_str() {
            "provider" => {}
            "jwks" => {
                let file = value.as_str().unwrap();
                lines.push(format!("jwks_file = \"{FIXTURES}/{file}\""));
            }
            "allow_no_sid" => lines.push(format!("accept_templates = {value}")),
            // always so here
            "reject_pending" => assert_eq!(*value, json!(true)),
            "issuer" | "authorized_parties" | "audience" | "leeway_s" | "secret" | "algorithms"
            | "client_id" => lines.push(format!("{key} = {value}")),
            other => panic!("no setting of ours is known for {other} of a vector"),
        }
    }
    lines.join("\n")
}

/// Compares a user with what a vector wants to be said of them.
fn check_wanted(id: &str, user: &EndUser, want: &Map<String, Value>) {
    for (key, wanted) in want {
        let is = match key.as_str() {
            "user_id" => json!(user.user_id),
            "org_id" | "tenant_id" => json!(user.org_id),
            "role" => json!(user.role),
            "session_id" => json!(user.session_id),
            "actor" => json!(user.actor),
            "email" => json!(user.email),
            "permissions" => {
                let mut wanted: Vec<&str> = wanted
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|it| it.as_str().unwrap())
                    .collect();
                wanted.sort_unstable();
                assert_eq!(user.permissions, wanted, "{id}");
                continue;
            }
            other => panic!("{id} wants {other}, which is not known here"),
        };
        assert_eq!(is, *wanted, "{id}: {key}");
    }
}

/// Codes of refusals in the file as it came: each is refused for the reason that it is about.
const REFUSALS: &[(&str, &str)] = &[
    ("clerk.alg_none", "token_refused"),
    ("clerk.expired_by_5s", "token_expired"),
    ("clerk.m2m_category", "token_refused"),
    ("clerk.nbf_in_6s", "token_not_yet_valid"),
    ("clerk.no_exp", "token_refused"),
    ("clerk.pending_session", "token_session_pending"),
    ("clerk.tampered_payload", "token_refused"),
    (
        "clerk.template_category_when_session_required",
        "token_refused",
    ),
    ("clerk.truncated", "token_refused"),
    ("clerk.two_parts", "token_malformed"),
    ("clerk.unknown_kid", "token_key_unknown"),
    ("clerk.wrong_azp", "token_refused"),
    ("custom.expired", "token_expired"),
    ("custom.hs512", "token_refused"),
    ("custom.rs256_token_on_hs_config", "token_refused"),
    ("custom.wrong_aud", "token_refused"),
];

#[tokio::test]
async fn every_vector_has_its_verdict() {
    let file = fs::read_to_string(format!("{FIXTURES}/jwt_vectors.json")).unwrap();
    let file: Value = serde_json::from_str(&file).unwrap();
    let vectors = file["vectors"].as_array().unwrap();
    assert!(vectors.len() >= 24, "only {} vectors", vectors.len());
    for vector in vectors {
        let id = vector["id"].as_str().unwrap();
        let expects_user = match vector["expect"].as_str().unwrap() {
            "accept" => true,
            "reject" => false,
            other => panic!("{id} expects {other}"),
        };
        let given = vector["config"].as_object().unwrap();
        let config = match config(&settings_of(given)) {
            Ok(config) => config,
            // a weak secret is refused before any token comes
            Err(error) => {
                assert!(
                    !expects_user && given.contains_key("secret"),
                    "{id}: {error}"
                );
                assert!(error.to_string().contains("the secret"), "{id}: {error}");
                continue;
            }
        };
        let issuers = Issuers::new(&config, &Metrics::new()).unwrap();
        let now = at(vector["now"].as_i64().unwrap());
        // and once more, as a token that is remembered
        for _ in 0..2 {
            let verdict = issuers
                .authenticate(vector["token"].as_str().unwrap(), now)
                .await;
            assert_eq!(verdict.is_ok(), expects_user, "{id}: {verdict:?}");
            if let (Ok(user), Some(want)) = (&verdict, vector["want"].as_object()) {
                check_wanted(id, user, want);
            }
            if let Some((_, expected)) = REFUSALS.iter().find(|(known, _)| *known == id) {
                assert_eq!(code(&verdict), *expected, "{id}");
            }
        }
    }
}

#[tokio::test]
async fn a_remembered_token_ends_when_it_says() {
    let issuers = clerk("");
    let token = clerk_signer().token(&claims_of_clerk());
    let first = issuers.authenticate(&token, at(NOW)).await.unwrap();
    let again = issuers.authenticate(&token, at(NOW + 64)).await.unwrap();
    assert!(Arc::ptr_eq(&first, &again), "it was not verified again");
    assert_eq!(first.expires_at, at(NOW + 60));
    let late = issuers.authenticate(&token, at(NOW + 65)).await;
    assert_eq!(code(&late), "token_expired");
    // a clock that went back asks again, and hears the same as without memory
    let early = issuers.authenticate(&token, at(NOW - 16)).await;
    assert_eq!(code(&early), "token_not_yet_valid");
}

#[tokio::test]
async fn a_token_is_remembered_for_five_minutes_at_most() {
    let issuers = custom("");
    let claims = json!({"iss": "us", "sub": "u1", "exp": NOW + 3600});
    let token = hs256(SECRET.as_bytes(), &json!({"alg": "HS256"}), &claims);
    let first = issuers.authenticate(&token, at(NOW)).await.unwrap();
    let within = issuers.authenticate(&token, at(NOW + 300)).await.unwrap();
    let after = issuers.authenticate(&token, at(NOW + 301)).await.unwrap();
    assert!(Arc::ptr_eq(&first, &within));
    assert!(!Arc::ptr_eq(&first, &after));
}

#[tokio::test]
async fn a_public_key_is_no_shared_secret() {
    let issuers = clerk("");
    let jwk = clerk_signer().jwk();
    let pem = fs::read(format!("{FIXTURES}/test_rsa_public.pem")).unwrap();
    let n = jwk["n"].as_str().unwrap().as_bytes().to_vec();
    let set = fs::read(format!("{FIXTURES}/clerk.jwks.json")).unwrap();
    let header = json!({"alg": "HS256", "typ": "JWT", "kid": jwk["kid"]});
    for secret in [pem, jwk.to_string().into_bytes(), n, set, Vec::new()] {
        let token = hs256(&secret, &header, &claims_of_clerk());
        let verdict = issuers.authenticate(&token, at(NOW)).await;
        assert_eq!(code(&verdict), "token_refused");
    }
}

#[tokio::test]
async fn only_the_configured_algorithms_may_have_signed() {
    let claims = json!({"iss": "us", "sub": "u1", "exp": NOW + 60});
    let token = hs512(SECRET.as_bytes(), &json!({"alg": "HS512"}), &claims);
    for (lines, expected) in [
        ("", "token_refused"),
        ("algorithms = [\"HS256\", \"HS384\"]", "token_refused"),
        ("algorithms = [\"HS512\"]", "accepted"),
    ] {
        let verdict = custom(lines).authenticate(&token, at(NOW)).await;
        assert_eq!(code(&verdict), expected, "{lines}");
    }
}

#[tokio::test]
async fn keys_on_curves_verify_what_is_theirs() {
    let ec = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let ed = Ed25519KeyPair::generate().unwrap();
    let encoded = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let (x, y) = ec.public_key().as_ref()[1..].split_at(32);
    let keys = json!({"keys": [
        {"kty": "EC", "crv": "P-256", "kid": "ec", "x": encoded(x), "y": encoded(y)},
        {"kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": encoded(ed.public_key().as_ref())},
    ]});
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("keys.json");
    fs::write(&file, keys.to_string()).unwrap();
    let issuers = issuers(&format!(
        "[issuers.ours]\nkind = \"custom\"\nsource = \"main\"\nissuer = \"us\"\n\
         jwks_file = {file:?}\nalgorithms = [\"ES256\", \"EdDSA\"]"
    ));
    let claims = json!({"iss": "us", "sub": "u1", "exp": NOW + 60});
    for (alg, kid, expected) in [
        ("ES256", "ec", "accepted"),
        ("EdDSA", "ed", "accepted"),
        ("ES256", "ed", "token_refused"),
        ("EdDSA", "ec", "token_refused"),
    ] {
        let signed = signed_part(&json!({"alg": alg, "kid": kid}), &claims);
        let signature = if alg == "EdDSA" {
            ed.sign(signed.as_bytes()).as_ref().to_vec()
        } else {
            let random = SystemRandom::new();
            ec.sign(&random, signed.as_bytes())
                .unwrap()
                .as_ref()
                .to_vec()
        };
        let token = format!("{signed}.{}", encoded(&signature));
        let verdict = issuers.authenticate(&token, at(NOW)).await;
        assert_eq!(code(&verdict), expected, "{alg} with {kid}");
    }
    // with two keys, one has to be named
    let nameless = format!("{}.AAAA", signed_part(&json!({"alg": "ES256"}), &claims));
    let verdict = issuers.authenticate(&nameless, at(NOW)).await;
    assert_eq!(code(&verdict), "token_key_unknown");
}

#[tokio::test]
async fn a_header_decides_nothing() {
    let (issuers, ours, other) = (clerk(""), clerk_signer(), Signer::other("evil"));
    let kid = ours.jwk()["kid"].clone();
    let base = json!({"alg": "RS256", "typ": "JWT", "kid": kid});
    let with = |field: &str, value: Value| {
        let mut header = base.clone();
        header[field] = value;
        header
    };
    // its own key, brought along in every way that there is
    for (field, value) in [
        ("jwk", other.jwk()),
        ("jku", json!("https://evil.example/keys")),
        ("x5u", json!("https://evil.example/cert")),
        ("x5c", json!(["MIIB"])),
    ] {
        let header = with(field, value);
        let forged = other.with_header(&header, &claims_of_clerk());
        let honest = ours.with_header(&header, &claims_of_clerk());
        assert_eq!(
            code(&issuers.authenticate(&forged, at(NOW)).await),
            "token_refused"
        );
        assert_eq!(
            code(&issuers.authenticate(&honest, at(NOW)).await),
            "accepted"
        );
    }
    for (field, value, expected) in [
        ("crit", json!(["exp"]), "token_refused"),
        ("typ", json!("JWE"), "token_refused"),
        ("alg", json!("none"), "token_refused"),
        ("alg", json!("RS384"), "token_refused"),
        ("cat", json!("cl_unheard_of"), "token_refused"),
        ("kid", json!("../../clerk.jwks.json"), "token_key_unknown"),
        ("kid", json!("' or 1=1 --"), "token_key_unknown"),
        ("kid", json!("k".repeat(129)), "token_malformed"),
        ("kid", json!(null), "token_malformed"),
    ] {
        let token = ours.with_header(&with(field, value.clone()), &claims_of_clerk());
        let verdict = issuers.authenticate(&token, at(NOW)).await;
        assert_eq!(code(&verdict), expected, "{field}: {value}");
    }
    let nameless = ours.with_header(&json!({"alg": "RS256"}), &claims_of_clerk());
    assert_eq!(
        code(&issuers.authenticate(&nameless, at(NOW)).await),
        "token_refused"
    );
}

#[tokio::test]
async fn what_is_signed_is_still_checked() {
    let issuers = clerk("authorized_parties = [\"https://app.example\"]\naudience = [\"app\"]");
    let signer = clerk_signer();
    let mut good = claims_of_clerk();
    good["aud"] = json!(["web", "app"]);
    for (field, value, expected) in [
        ("fva", json!([7, -1]), "accepted"),
        ("iss", json!("https://clerk.example/"), "token_refused"),
        ("iss", json!("HTTPS://clerk.example"), "token_refused"),
        ("iss", json!(["https://clerk.example"]), "token_refused"),
        (
            "azp",
            json!("https://app.example.evil.example"),
            "token_refused",
        ),
        ("azp", json!(null), "token_refused"),
        ("aud", json!("web"), "token_refused"),
        ("sid", json!(null), "token_refused"),
        ("sub", json!(null), "token_refused"),
        ("sts", json!("pending"), "token_session_pending"),
        ("sts", json!("revoked"), "token_refused"),
        ("v", json!(3), "token_refused"),
        ("o", json!({"id": "org_1"}), "accepted"),
        ("iat", json!(NOW + 6), "token_not_yet_valid"),
        ("iat", json!(NOW + 5), "accepted"),
        ("exp", json!(NOW - 4), "accepted"),
        ("exp", json!(NOW - 5), "token_expired"),
    ] {
        let mut claims = good.clone();
        claims[field] = value.clone();
        let verdict = issuers.authenticate(&signer.token(&claims), at(NOW)).await;
        assert_eq!(code(&verdict), expected, "{field}: {value}");
        if field == "o" {
            assert_eq!(verdict.unwrap().org_id, None, "only version 2 has it");
        }
    }
}

#[tokio::test]
async fn templates_are_accepted_where_that_was_decided() {
    let signer = clerk_signer();
    let mut claims = claims_of_clerk();
    claims.as_object_mut().unwrap().remove("sid");
    let header = |cat: &str| json!({"alg": "RS256", "kid": signer.jwk()["kid"], "cat": cat});
    for (lines, cat, expected) in [
        ("", "cl_B7d4PD222AAA", "token_refused"),
        ("", "cl_I7d4PD111III", "token_refused"),
        ("accept_templates = true", "cl_B7d4PD222AAA", "accepted"),
        ("accept_templates = true", "cl_I7d4PD111III", "accepted"),
        (
            "accept_templates = true",
            "cl_B7d4PD333AAA",
            "token_refused",
        ),
    ] {
        let token = signer.with_header(&header(cat), &claims);
        let verdict = clerk(lines).authenticate(&token, at(NOW)).await;
        assert_eq!(code(&verdict), expected, "{lines} {cat}");
    }
}

#[test]
fn no_two_issuers_write_the_same_iss() {
    let both = |first: &str, second: &str| {
        let issuer = |name: &str, iss: &str| {
            format!(
                "[issuers.{name}]\nkind = \"custom\"\nsource = \"main\"\nissuer = {iss}\nsecret = \"{SECRET}\"\n"
            )
        };
        config(&(issuer("a", first) + &issuer("b", second)))
    };
    assert!(both("\"x\"", "\"y\"").is_ok());
    let refused = both("\"x\"", "[\"y\", \"x\"]").unwrap_err().to_string();
    assert_eq!(
        refused,
        "issuers.b cannot be used: issuers.a has the issuer x as well"
    );
    let nowhere = "[issuers.a]\nkind = \"custom\"\nsource = \"nowhere\"\nissuer = \"x\"";
    let refused = config(nowhere).unwrap_err().to_string();
    assert!(
        refused.contains("its source is not configured"),
        "{refused}"
    );
}

#[test]
fn issuers_can_be_configured_by_the_environment_and_keep_their_secret() {
    let variables = [
        ("KIND", "custom"),
        ("SOURCE", "main"),
        ("ISSUER", "[\"us\", \"them\"]"),
        ("AUDIENCE", "app"),
        ("SECRET", "98765432109876543210987654321098"),
        ("ALGORITHMS", "HS256,HS512"),
        ("LEEWAY_S", "7"),
    ];
    let variables =
        variables.map(|(key, value)| (format!("TENANTRY__ISSUERS__OURS__{key}"), value));
    let config = config_in("", &Environment::from_iter(variables)).unwrap();
    let issuer = &config.issuers["ours"];
    assert_eq!(issuer.issuers(), ["us", "them"]);
    assert_eq!(issuer.audience(), ["app"]);
    assert_eq!(issuer.algorithms().len(), 2);
    assert_eq!(issuer.leeway_s, 7);
    let shown = format!("{:?} {config:?} {issuer:?}", config.redacted());
    assert!(!shown.contains("9876543210"), "{shown}");
    assert!(shown.contains("(set)"), "{shown}");

    let of_clerk = [
        ("KIND", "clerk"),
        ("SOURCE", "main"),
        ("ISSUER", "https://clerk.example"),
        ("ACCEPT_TEMPLATES", "true"),
        ("AUTHORIZED_PARTIES", "https://a.example,https://b.example"),
    ];
    let variables = of_clerk.map(|(key, value)| (format!("TENANTRY__ISSUERS__C__{key}"), value));
    let config = config_in("", &Environment::from_iter(variables)).unwrap();
    assert!(config.issuers["c"].accept_templates);
    assert_eq!(config.issuers["c"].authorized_parties.len(), 2);
}

#[test]
fn a_refusal_tells_its_category_only() {
    let reasons = [
        TokenError::Refused("its azp is none of the authorized parties"),
        TokenError::Malformed("its kid is empty or too long"),
    ];
    for error in reasons {
        assert!(!error.to_string().contains("azp") && !error.to_string().contains("kid"));
        assert!(!error.is_unavailable());
        assert_eq!(error.retry_after_s(), 0);
    }
}

/// What the property tests share: issuers of two kinds, and a token of each that is accepted.
struct Good {
    runtime: Runtime,
    clerk: Issuers,
    custom: Issuers,
    tokens: [String; 2],
}

static GOOD: LazyLock<Good> = LazyLock::new(|| {
    let claims =
        json!({"iss": "us", "sub": "u1", "exp": NOW + 60, "org_id": "t1", "role": "admin"});
    let good = Good {
        runtime: Runtime::new().unwrap(),
        clerk: clerk(""),
        custom: custom(""),
        tokens: [
            clerk_signer().token(&claims_of_clerk()),
            hs256(SECRET.as_bytes(), &json!({"alg": "HS256"}), &claims),
        ],
    };
    assert!(good.verdict(&good.tokens[0]).is_ok() && good.verdict(&good.tokens[1]).is_ok());
    good
});

impl Good {
    /// The better of both issuers' verdicts.
    fn verdict(&self, token: &str) -> Result<Arc<EndUser>, TokenError> {
        let now = at(NOW);
        self.runtime.block_on(async {
            match self.clerk.authenticate(token, now).await {
                Ok(user) => Ok(user),
                Err(_) => self.custom.authenticate(token, now).await,
            }
        })
    }
}

#[derive(Debug, Clone)]
enum Edit {
    Set(Index, char),
    Insert(Index, char),
    Remove(Index),
    Swap(Index, Index),
    Cut(Index),
}

fn edit() -> impl Strategy<Value = Edit> {
    let character = || {
        prop_oneof![
            8 => proptest::char::ranges(vec!['a'..='z', 'A'..='Z', '0'..='9', '-'..='.', '_'..='_'].into()),
            1 => any::<char>(),
        ]
    };
    prop_oneof![
        4 => (any::<Index>(), character()).prop_map(|(at, c)| Edit::Set(at, c)),
        2 => (any::<Index>(), character()).prop_map(|(at, c)| Edit::Insert(at, c)),
        2 => any::<Index>().prop_map(Edit::Remove),
        1 => (any::<Index>(), any::<Index>()).prop_map(|(a, b)| Edit::Swap(a, b)),
        1 => any::<Index>().prop_map(Edit::Cut),
    ]
}

fn edited(token: &str, edits: &[Edit]) -> String {
    let mut text: Vec<char> = token.chars().collect();
    for edit in edits {
        if text.is_empty() {
            break;
        }
        let len = text.len();
        match edit {
            Edit::Set(at, c) => text[at.index(len)] = *c,
            Edit::Insert(at, c) => text.insert(at.index(len + 1), *c),
            Edit::Remove(at) => {
                text.remove(at.index(len));
            }
            Edit::Swap(a, b) => text.swap(a.index(len), b.index(len)),
            Edit::Cut(at) => text.truncate(at.index(len)),
        }
    }
    text.into_iter().collect()
}

/// A claim's value as no issuer would write it.
fn odd() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(|number| json!(number)),
        "\\PC{0,20}".prop_map(Value::from),
        "[0-9,:ou]{0,60}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map("(id|per|fpm|rol|sub)", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn no_edit_of_a_token_is_accepted(
        which in 0..2_usize,
        edits in prop::collection::vec(edit(), 1..4),
    ) {
        let token = &GOOD.tokens[which];
        let edited = edited(token, &edits);
        prop_assume!(edited != *token);
        prop_assert!(GOOD.verdict(&edited).is_err(), "accepted: {edited}");
    }

    #[test]
    fn no_bytes_are_a_token(bytes in prop::collection::vec(any::<u8>(), 0..300), text in "[A-Za-z0-9_.-]{0,300}") {
        let lossy = String::from_utf8_lossy(&bytes);
        prop_assert!(GOOD.verdict(&lossy).is_err());
        prop_assert!(GOOD.verdict(&text).is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn whatever_is_signed_is_read_or_refused(
        changed in prop::collection::hash_map(
            "(sub|sid|exp|nbf|iat|azp|aud|act|sts|v|o|fea|org_id|org_role|org_permissions|email)",
            odd(),
            0..5,
        ),
        version in 0..3_u8,
    ) {
        let mut claims = claims_of_clerk();
        claims["v"] = json!(version);
        for (claim, value) in changed {
            claims[claim] = value;
        }
        let verdict = GOOD.verdict(&clerk_signer().token(&claims));
        if let Ok(user) = verdict {
            prop_assert!(user.expires_at > at(NOW) - TimeDelta::seconds(5));
            prop_assert!(!user.user_id.is_empty());
        }
    }
}
