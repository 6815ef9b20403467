//! Who may ask for a registration, and who may look at one: people in a browser who have no account yet.
//!
//! Guarantees: a form key opens one route, and only for requests that a browser sends from a page of the
//! key's origins; who uses it is counted by address first, so that nobody at one address uses up what the key has for
//! all; a status token is in no log, no answer and no debug output.
//!
//! Does not: keep programs out. A form key can be read by anybody, and `Origin` be written by anybody who is no
//! browser: the limits are for them. Nor does it know registrations: the handler compares a status token with theirs.

use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use axum::{
    http::{HeaderMap, header},
    response::IntoResponse,
};
use secrecy::{ExposeSecret, SecretString};

use super::{
    AppState, Problem,
    access::{self, Admitted, Asking, Caller, Refused},
};
use crate::{
    api_keys::{ApiKey, Scope},
    secrets::sha256,
};

const STATUS_TOKEN_PREFIX: &str = "rst_";

/// Characters of base64url after the prefix: 256 bits.
const STATUS_TOKEN_LEN: usize = 43;

/// The parameter that carries a status token where a browser cannot send a header: `EventSource`.
const STATUS_TOKEN_PARAMETER: &str = "status_token";

/// A text that may be the status token of a registration; in debug output it is hidden.
#[derive(Debug, Clone)]
pub(super) struct StatusToken(SecretString);

impl StatusToken {
    /// `None` if it cannot be one.
    fn parse(text: &str) -> Option<Self> {
        let random = text.strip_prefix(STATUS_TOKEN_PREFIX)?;
        let is_base64url = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let is_whole = random.len() == STATUS_TOKEN_LEN && random.bytes().all(is_base64url);
        is_whole.then(|| Self(SecretString::from(text)))
    }

    /// Whether it is this one; takes as long whichever character differs.
    pub(super) fn matches(&self, known: &str) -> bool {
        let ours = self.0.expose_secret().as_bytes();
        verify_slices_are_equal(ours, known.as_bytes()).is_ok()
    }

    /// Tells it from others, and tells nothing of it.
    pub(super) fn fingerprint(&self) -> String {
        hex::encode(&sha256(self.0.expose_secret().as_bytes())[..16])
    }
}

/// Whether somebody means a status token, well formed or not.
pub(super) fn looks_like_status_token(text: &str) -> bool {
    text.starts_with(STATUS_TOKEN_PREFIX)
}

/// Whoever may ask for a registration.
pub(super) async fn admit(state: &AppState, asking: Asking<'_>) -> Result<Admitted, Refused> {
    match access::known(state, asking).await? {
        Caller::Form(key) => admit_form(state, asking, key),
        caller => admit_operator(state, caller, &[Scope::RegistrationsWrite]),
    }
}

/// Whoever may look at registrations; at which of them the handler has to judge.
pub(super) async fn admit_reader(
    state: &AppState,
    asking: Asking<'_>,
) -> Result<Admitted, Refused> {
    let said = match access::bearer(asking.headers) {
        Ok(Some(text)) => Some(text.to_owned()).filter(|text| looks_like_status_token(text)),
        Ok(None) => in_query(asking.query),
        // whoever is asked next says what is wrong
        Err(_) => None,
    };
    if let Some(text) = said {
        return admit_status_token(state, asking, &text);
    }
    match access::known(state, asking).await? {
        Caller::Form(_) => Err(Box::new(access::refuse(state, asking, form_key_refused()))),
        caller => {
            let either = [Scope::RegistrationsWrite, Scope::TenantsRead];
            admit_operator(state, caller, &either)
        }
    }
}

/// The status token in a query; empty, which none is, where there are several.
fn in_query(query: Option<&str>) -> Option<String> {
    let parameters = url::form_urlencoded::parse(query?.as_bytes());
    let mut tokens = parameters.filter(|(name, _)| name == STATUS_TOKEN_PARAMETER);
    let (_, first) = tokens.next()?;
    Some(match tokens.next() {
        None => first.into_owned(),
        Some(_) => String::new(),
    })
}

/// Somebody in a page of the key's origins, as often as their address may, and as all with the key may.
fn admit_form(state: &AppState, asking: Asking<'_>, key: Arc<ApiKey>) -> Result<Admitted, Refused> {
    let limited = |problem: Problem| Box::new(problem.into_response());
    let by_address = state.limits.count_form_address(asking.address);
    let by_address = by_address.map_err(limited)?;
    // before the key is counted: what another page sends uses up nothing that this one's visitors need
    if !comes_from_a_page_of(&key, asking.headers) {
        return Err(Box::new(
            by_address.tell(origin_not_allowed().into_response()),
        ));
    }
    match state.limits.count_form_key(&key.id) {
        Ok(by_key) => Ok(Admitted {
            caller: Caller::Form(key),
            of: None,
            allowance: by_address.and(by_key),
        }),
        Err(problem) => Err(limited(problem)),
    }
}

/// Whether a browser says so: one `Origin`, and one of the key's.
fn comes_from_a_page_of(key: &ApiKey, headers: &HeaderMap) -> bool {
    let mut origins = headers.get_all(header::ORIGIN).iter();
    match (origins.next(), origins.next()) {
        (Some(origin), None) => key.is_for_pages_of(origin.as_bytes()),
        _ => false,
    }
}

/// The holder of an API key with one of the scopes.
fn admit_operator(state: &AppState, caller: Caller, scopes: &[Scope]) -> Result<Admitted, Refused> {
    let counted = state.limits.count_principal(&caller.principal());
    let allowance = counted.map_err(|limited| Box::new(limited.into_response()))?;
    let may = |key: &ApiKey| scopes.iter().any(|scope| key.scopes.allows(*scope));
    let problem = match &caller {
        Caller::Key(key) if may(key) => {
            return Ok(Admitted {
                caller,
                of: None,
                allowance,
            });
        }
        Caller::Key(_) => access::scope_missing(Scope::RegistrationsWrite),
        Caller::User(_) => access::api_key_required(),
        Caller::Form(_) | Caller::Registrant(_) => form_key_refused(),
    };
    Err(Box::new(allowance.tell(problem.into_response())))
}

fn admit_status_token(
    state: &AppState,
    asking: Asking<'_>,
    text: &str,
) -> Result<Admitted, Refused> {
    let Some(token) = StatusToken::parse(text) else {
        let problem = Problem::unauthorized(
            "status_token_malformed",
            "this is no well-formed status token",
        );
        return Err(Box::new(access::refuse(state, asking, problem)));
    };
    match state.limits.count_address(asking.address) {
        Ok(allowance) => Ok(Admitted {
            caller: Caller::Registrant(token),
            of: None,
            allowance,
        }),
        Err(limited) => Err(Box::new(limited.into_response())),
    }
}

fn origin_not_allowed() -> Problem {
    Problem::forbidden(
        "origin_not_allowed",
        "the form key is not for pages of the origin that the request comes from",
        "make one that is: tenantry keys create --form --origin …",
    )
}

/// What a form key is told on every other route.
pub(super) fn form_key_refused() -> Problem {
    Problem::forbidden(
        "form_key_refused",
        "a form key can post registrations, and nothing else",
        "use an operator's API key, and never in a page",
    )
}

/// What a status token is told where it opens nothing.
pub(super) fn status_token_refused() -> Problem {
    Problem::unauthorized(
        "status_token_refused",
        "a status token shows its own registration, and nothing else",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANDOM: &str = "AbCdEfGhIjKlMnOpQrStUvWxYz0123456789-_AbCdE";

    #[test]
    fn a_status_token_is_read_whole_and_matches_itself_alone() {
        let text = format!("rst_{RANDOM}");
        let token = StatusToken::parse(&text).unwrap();
        assert!(token.matches(&text));
        for other in ["", "rst_", RANDOM, &text[..46], &format!("{text}x")] {
            assert!(!token.matches(other), "{other}");
            assert!(StatusToken::parse(other).is_none(), "{other}");
        }
        assert!(StatusToken::parse(&text.replace('-', "+")).is_none());
        assert!(StatusToken::parse(&text.replace("rst_", "RST_")).is_none());
    }

    #[test]
    fn a_status_token_shows_in_no_debug_output() {
        let token = StatusToken::parse(&format!("rst_{RANDOM}")).unwrap();
        let caller = Caller::Registrant(token);
        let shown = format!("{caller:?} {:?} {}", caller.actor(), caller.principal());
        assert!(!shown.contains(&RANDOM[..8]), "{shown}");
        assert!(!shown.contains(&RANDOM[35..]), "{shown}");
    }

    #[test]
    fn a_query_says_one_token_or_none() {
        let told = |query| in_query(Some(query));
        assert_eq!(told("a=b&status_token=rst_x"), Some("rst_x".to_owned()));
        assert_eq!(told("status_token=rst%5Fx"), Some("rst_x".to_owned()));
        assert_eq!(told("status_token=a&status_token=a"), Some(String::new()));
        assert_eq!(told("status_tokens=a"), None);
        assert_eq!(in_query(None), None);
    }
}
