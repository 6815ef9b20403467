//! What a verified token says: claims → [`EndUser`], as each kind of issuer writes them. Pure.
//!
//! Guarantees: claims of a type that the issuer does not document refuse the token where they say who somebody is (`sub`, the
//! organization, the session, an impersonator), and give nothing where they say what somebody may do: a permission that cannot be
//! read is not had. Work and result are bounded whatever a token says.
//!
//! Does not: check signature or times (`token`).

mod clerk;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

use super::error::TokenError;
use crate::config::{Issuer, IssuerKind};

/// Longest id, role or permission that is read (bytes).
const MAX_TEXT_BYTES: usize = 255;

/// How many permissions are read; a token of 16 KiB can spell out no more, but could multiply some.
const MAX_PERMISSIONS: usize = 2000;

/// Somebody who has signed in, as a verified token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndUser {
    /// The configured name of who issued the token.
    pub issuer: String,
    /// The source whose ids these are.
    pub source: String,
    /// The user's id at the provider.
    pub user_id: String,
    /// The organization that the user works in; none where no organization is active.
    pub org_id: Option<String>,
    /// The role there, as the provider writes it; Clerk's with its `org:`.
    pub role: Option<String>,
    /// What the user may do there, sorted, each once.
    pub permissions: Vec<String>,
    /// The session.
    pub session_id: Option<String>,
    /// Who acts in the user's name (`act.sub`): an impersonator.
    pub actor: Option<String>,
    /// The e-mail address, where the token has one. Nobody has checked it here.
    pub email: Option<String>,
    /// When the token ends.
    pub expires_at: DateTime<Utc>,
}

type Claims = Map<String, Value>;

/// Who a token of this issuer stands for.
pub(super) fn end_user(
    name: &str,
    issuer: &Issuer,
    category: Option<&str>,
    claims: &Claims,
    expires_at: DateTime<Utc>,
) -> Result<EndUser, TokenError> {
    check_audience(claims, issuer.audience())?;
    let place = match issuer.kind {
        IssuerKind::Clerk => {
            clerk::check(issuer, category, claims)?;
            clerk::place(claims)?
        }
        IssuerKind::Workos => Place {
            org_id: id(claims, "org_id", "its org_id is no id")?,
            role: text(claims.get("role")),
            permissions: listed(claims.get("permissions")),
        },
        IssuerKind::Custom => Place {
            org_id: id(
                claims,
                issuer.organization_claim(),
                "its organization is no id",
            )?,
            role: text(claims.get(issuer.role_claim())),
            permissions: listed(claims.get(issuer.permissions_claim())),
        },
    };
    let user = match issuer.kind {
        IssuerKind::Custom => issuer.user_claim(),
        IssuerKind::Clerk | IssuerKind::Workos => "sub",
    };
    // wherever the user's id stands, no token goes without a subject
    let subject = id(claims, "sub", "its sub is no id")?;
    let user_id = id(claims, user, "its user is no id")?;
    let (Some(_), Some(user_id)) = (subject, user_id) else {
        return Err(TokenError::Refused("it has no sub, or no user"));
    };
    let mut permissions = place.permissions;
    permissions.sort_unstable();
    permissions.dedup();
    Ok(EndUser {
        issuer: name.to_owned(),
        source: issuer.source.clone(),
        user_id,
        org_id: place.org_id,
        role: place.role,
        permissions,
        session_id: id(claims, "sid", "its sid is no id")?,
        actor: actor(claims)?,
        email: text(claims.get(issuer.email_claim())),
        expires_at,
    })
}

/// Where somebody is, and what they may do there.
#[derive(Debug, Default)]
struct Place {
    org_id: Option<String>,
    role: Option<String>,
    permissions: Vec<String>,
}

/// `aud` is a text or a list; one of them has to be ours, if any is configured.
fn check_audience(claims: &Claims, audience: &[String]) -> Result<(), TokenError> {
    let is_ours = |value: &Value| {
        value
            .as_str()
            .is_some_and(|aud| audience.iter().any(|our| our == aud))
    };
    let holds = match claims.get("aud") {
        _ if audience.is_empty() => true,
        Some(Value::Array(all)) => all.iter().any(is_ours),
        Some(one) => is_ours(one),
        None => false,
    };
    if holds {
        Ok(())
    } else {
        Err(TokenError::Refused(
            "its aud is none of the configured ones",
        ))
    }
}

/// An id that need not be there; null and empty are absent, but nothing else passes for absent.
fn id(claims: &Claims, claim: &str, problem: &'static str) -> Result<Option<String>, TokenError> {
    match claims.get(claim) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        value => text(value).map(Some).ok_or(TokenError::Refused(problem)),
    }
}

/// Who acts in the user's name. That somebody does must not get lost.
fn actor(claims: &Claims) -> Result<Option<String>, TokenError> {
    let problem = "its act names nobody";
    match claims.get("act") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(act)) => {
            let actor = id(act, "sub", problem)?;
            actor.map(Some).ok_or(TokenError::Refused(problem))
        }
        Some(_) => Err(TokenError::Refused(problem)),
    }
}

/// A short printable text.
fn text(value: Option<&Value>) -> Option<String> {
    let text = value?.as_str()?;
    is_text(text).then(|| text.to_owned())
}

fn is_text(text: &str) -> bool {
    !text.trim().is_empty() && text.len() <= MAX_TEXT_BYTES && !text.contains(char::is_control)
}

/// Permissions as a list, or as one text with spaces between them.
fn listed(value: Option<&Value>) -> Vec<String> {
    let all: Vec<&str> = match value {
        Some(Value::Array(items)) => items.iter().filter_map(Value::as_str).collect(),
        Some(Value::String(text)) => text.split_ascii_whitespace().collect(),
        _ => Vec::new(),
    };
    let usable = all.into_iter().filter(|text| is_text(text));
    usable.take(MAX_PERMISSIONS).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn issuer(lines: &str) -> Issuer {
        toml::from_str(&format!("source = \"main\"\nissuer = \"us\"\n{lines}")).unwrap()
    }

    fn read(issuer: &Issuer, claims: &Value) -> Result<EndUser, TokenError> {
        let Value::Object(claims) = claims else {
            panic!("an object")
        };
        end_user("it", issuer, None, claims, DateTime::UNIX_EPOCH)
    }

    #[test]
    fn claims_of_ones_own_are_named_by_configuration() {
        let custom = issuer(
            "kind = \"custom\"\nuser_claim = \"uid\"\norganization_claim = \"tenant\"\n\
             role_claim = \"r\"\npermissions_claim = \"scope\"\nemail_claim = \"mail\"",
        );
        let user = read(
            &custom,
            &json!({"sub": "s", "uid": "u1", "tenant": "t1", "r": "admin", "mail": "a@b.example",
                    "scope": "b:read a:read b:read", "org_id": "other", "role": "other"}),
        )
        .unwrap();
        assert_eq!(user.user_id, "u1");
        assert_eq!(user.org_id.as_deref(), Some("t1"));
        assert_eq!(user.role.as_deref(), Some("admin"));
        assert_eq!(user.permissions, ["a:read", "b:read"]);
        assert_eq!(user.email.as_deref(), Some("a@b.example"));
    }

    #[test]
    fn who_somebody_is_is_said_properly_or_not_at_all() {
        let workos = issuer("kind = \"workos\"\nclient_id = \"client_1\"");
        let plain = read(&workos, &json!({"sub": "user_1"})).unwrap();
        assert_eq!((plain.org_id, plain.actor), (None, None));
        for claims in [
            json!({}),
            json!({"sub": ""}),
            json!({"sub": null}),
            json!({"sub": 7}),
            json!({"sub": ["user_1"]}),
            json!({"sub": "user\n1"}),
            json!({"sub": "u".repeat(256)}),
            json!({"sub": "user_1", "org_id": 7}),
            json!({"sub": "user_1", "org_id": {"id": "org_1"}}),
            json!({"sub": "user_1", "sid": []}),
            json!({"sub": "user_1", "act": "admin"}),
            json!({"sub": "user_1", "act": {}}),
            json!({"sub": "user_1", "act": {"sub": 7}}),
        ] {
            let refused = read(&workos, &claims).unwrap_err();
            assert_eq!(refused.code(), "token_refused", "{claims}");
        }
        let claims = json!({"sub": "user_1", "role": 7, "permissions": [1, "b", "", "a"]});
        let user = read(&workos, &claims).unwrap();
        assert_eq!(
            (user.role, user.permissions),
            (None, vec!["a".to_owned(), "b".to_owned()])
        );
    }

    #[test]
    fn an_audience_counts_where_one_is_configured() {
        let any = issuer("kind = \"custom\"");
        assert!(read(&any, &json!({"sub": "u", "aud": "other"})).is_ok());
        let ours = issuer("kind = \"custom\"\naudience = [\"app\", \"api\"]");
        for aud in [json!("app"), json!(["x", "api"])] {
            assert!(read(&ours, &json!({"sub": "u", "aud": aud})).is_ok());
        }
        for aud in [
            json!("ap"),
            json!(["x"]),
            json!([]),
            json!(null),
            json!({"app": 1}),
        ] {
            assert!(read(&ours, &json!({"sub": "u", "aud": aud})).is_err());
        }
        assert!(read(&ours, &json!({"sub": "u"})).is_err());
    }
}
