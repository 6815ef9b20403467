//! A token's form, signature and times. Pure: keys and `now` are handed in.
//!
//! Guarantees: a token has one reading (three parts of canonical base64url, JSON without repeated keys), or is malformed. What
//! its header says is compared with what is configured, and decides nothing: `jku`, `jwk`, `x5u` and `x5c` are not looked at, any
//! `crit` is a refusal.

use std::str::FromStr;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, TimeDelta, Utc};
use jsonwebtoken::Algorithm;
use serde_json::{Map, Value};

use super::{error::TokenError, json, keys::Key};

/// Longest token that is read (bytes); real ones are under 4 KiB, and so are the headers that carry them.
const MAX_BYTES: usize = 16 * 1024;

/// Longest name of a key (bytes).
const MAX_KID_BYTES: usize = 128;

/// A token that was read and not yet verified.
#[derive(Debug)]
pub(super) struct Token<'a> {
    /// What signed it, by its own account; `None` for what is not known here, such as `none`.
    pub(super) algorithm: Option<Algorithm>,
    /// The name of the key.
    pub(super) kid: Option<String>,
    /// Clerk's category of tokens.
    pub(super) category: Option<String>,
    /// What it says.
    pub(super) claims: Map<String, Value>,
    signed: &'a str,
    signature: &'a str,
}

/// Whether it is worth a look at all.
pub(super) fn check_length(token: &str) -> Result<(), TokenError> {
    if token.len() > MAX_BYTES {
        return Err(TokenError::Malformed("it is longer than 16 KiB"));
    }
    Ok(())
}

impl<'a> Token<'a> {
    /// Reads a token; nothing in it is to be believed yet.
    pub(super) fn parse(token: &'a str) -> Result<Self, TokenError> {
        check_length(token)?;
        let mut parts = token.split('.');
        let (Some(header), Some(claims), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(TokenError::Malformed("it has not three parts"));
        };
        let signed = &token[..header.len() + 1 + claims.len()];
        let header = object(header, "its header is not JSON in base64url")?;
        let claims = object(claims, "its claims are not JSON in base64url")?;
        if URL_SAFE_NO_PAD.decode(signature).is_err() {
            return Err(TokenError::Malformed("its signature is not base64url"));
        }
        if header.contains_key("crit") {
            return Err(TokenError::Refused("its header has crit"));
        }
        let algorithm =
            text(&header, "alg", "alg")?.ok_or(TokenError::Malformed("its header has no alg"))?;
        check_type(text(&header, "typ", "typ")?)?;
        let kid = text(&header, "kid", "kid")?;
        if kid.is_some_and(|kid| kid.is_empty() || kid.len() > MAX_KID_BYTES) {
            return Err(TokenError::Malformed("its kid is empty or too long"));
        }
        Ok(Self {
            algorithm: Algorithm::from_str(algorithm).ok(),
            kid: kid.map(str::to_owned),
            category: text(&header, "cat", "cat")?.map(str::to_owned),
            claims,
            signed,
            signature,
        })
    }

    /// Who says to have issued it.
    pub(super) fn issuer(&self) -> Result<&str, TokenError> {
        let issuer = self.claims.get("iss").and_then(Value::as_str);
        issuer.ok_or(TokenError::Refused("it has no iss"))
    }

    /// The algorithm, if it is one of these.
    pub(super) fn algorithm_of(&self, allowed: &[Algorithm]) -> Result<Algorithm, TokenError> {
        self.algorithm
            .filter(|algorithm| allowed.contains(algorithm))
            .ok_or(TokenError::Refused("its algorithm is not configured"))
    }

    /// Whether this key signed it with this algorithm.
    pub(super) fn check_signature(
        &self,
        key: &Key,
        algorithm: Algorithm,
    ) -> Result<(), TokenError> {
        if !key.fits(algorithm) {
            return Err(TokenError::Refused("its key is for another algorithm"));
        }
        if !key.verifies(algorithm, self.signed.as_bytes(), self.signature) {
            return Err(TokenError::Refused("its signature does not hold"));
        }
        Ok(())
    }

    /// When it ends, if it is in force at `now`.
    pub(super) fn check_times(
        &self,
        now: DateTime<Utc>,
        leeway_s: u32,
    ) -> Result<DateTime<Utc>, TokenError> {
        let leeway = TimeDelta::seconds(leeway_s.into());
        let expires_at = time(&self.claims, "exp", "its exp is no time")?
            .ok_or(TokenError::Refused("it has no exp"))?;
        if is_over(expires_at, now, leeway_s) {
            return Err(TokenError::Expired);
        }
        for (claim, problem) in [("nbf", "its nbf is no time"), ("iat", "its iat is no time")] {
            let from = time(&self.claims, claim, problem)?;
            if from.is_some_and(|from| from > now + leeway) {
                return Err(TokenError::NotYetValid);
            }
        }
        Ok(expires_at)
    }
}

/// Whether what ends then is over, with that much leeway.
pub(super) fn is_over(expires_at: DateTime<Utc>, now: DateTime<Utc>, leeway_s: u32) -> bool {
    expires_at <= now - TimeDelta::seconds(leeway_s.into())
}

fn object(part: &str, problem: &'static str) -> Result<Map<String, Value>, TokenError> {
    let bytes = URL_SAFE_NO_PAD.decode(part).ok();
    let object = bytes.and_then(|bytes| json::parse_object(&bytes));
    object.ok_or(TokenError::Malformed(problem))
}

/// A text of the header; absent is fine, another type is not.
fn text<'a>(
    header: &'a Map<String, Value>,
    key: &str,
    problem: &'static str,
) -> Result<Option<&'a str>, TokenError> {
    match header.get(key) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(TokenError::Malformed(problem)),
    }
}

fn check_type(typ: Option<&str>) -> Result<(), TokenError> {
    let known = ["JWT", "at+jwt"];
    if typ.is_some_and(|typ| !known.iter().any(|known| known.eq_ignore_ascii_case(typ))) {
        return Err(TokenError::Refused("its typ is neither JWT nor at+jwt"));
    }
    Ok(())
}

/// A `NumericDate`: seconds since 1970, perhaps with a fraction, which is dropped.
fn time(
    claims: &Map<String, Value>,
    claim: &str,
    problem: &'static str,
) -> Result<Option<DateTime<Utc>>, TokenError> {
    let Some(value) = claims.get(claim) else {
        return Ok(None);
    };
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a cast saturates, and what saturated is no date"
    )]
    let seconds = value
        .as_i64()
        .or_else(|| value.as_f64().map(|seconds| seconds.floor() as i64));
    // a year of five digits would only be a way around the expiry
    let in_range = |seconds: &i64| (0..=253_402_300_799).contains(seconds);
    let time = seconds
        .filter(in_range)
        .and_then(|seconds| DateTime::from_timestamp(seconds, 0));
    time.map(Some).ok_or(TokenError::Refused(problem))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(text: &str) -> String {
        URL_SAFE_NO_PAD.encode(text)
    }

    /// Why a token of this header is not read.
    fn problem(header: &str) -> Option<TokenError> {
        let token = format!("{}.{}.AAAA", encoded(header), encoded("{}"));
        Token::parse(&token).err()
    }

    fn at(seconds: i64, claims: &str) -> Result<i64, TokenError> {
        let token = format!("{}.{}.", encoded(r#"{"alg":"RS256"}"#), encoded(claims));
        let now = DateTime::from_timestamp(seconds, 0).unwrap();
        let ends = Token::parse(&token).unwrap().check_times(now, 5);
        ends.map(|ends| ends.timestamp())
    }

    #[test]
    fn a_header_is_read_strictly() {
        for fine in [
            r#"{"alg":"RS256"}"#,
            r#"{"alg":"none","typ":"jwt","kid":"../../etc/passwd"}"#,
            r#"{"alg":"RS256","typ":"at+jwt","jku":"https://evil.example","jwk":{},"x5c":[1]}"#,
        ] {
            assert_eq!(problem(fine), None, "{fine}");
        }
        let long_kid = format!(r#"{{"alg":"RS256","kid":"{}"}}"#, "k".repeat(129));
        for (bad, code) in [
            (r#"{"typ":"JWT"}"#, "token_malformed"),
            (r#"{"alg":["RS256"]}"#, "token_malformed"),
            (r#"{"alg":"RS256","alg":"none"}"#, "token_malformed"),
            (r#"{"alg":"RS256","kid":7}"#, "token_malformed"),
            (r#"{"alg":"RS256","kid":""}"#, "token_malformed"),
            (long_kid.as_str(), "token_malformed"),
            (r#"{"alg":"RS256","typ":"JWE"}"#, "token_refused"),
            (
                r#"{"alg":"RS256","crit":["b64"],"b64":false}"#,
                "token_refused",
            ),
            (r#"{"alg":"RS256","crit":[]}"#, "token_refused"),
        ] {
            assert_eq!(problem(bad).map(|error| error.code()), Some(code), "{bad}");
        }
    }

    #[test]
    fn a_token_has_three_parts_of_canonical_base64url() {
        let (header, claims) = (encoded(r#"{"alg":"RS256"}"#), encoded("{\"a\":1}"));
        assert!(Token::parse(&format!("{header}.{claims}.AAAA")).is_ok());
        for bad in [
            String::new(),
            "..".to_owned(),
            format!("{header}.{claims}"),
            format!("{header}.{claims}.AAAA.AAAA"),
            format!("{header}.{claims}.AA=="),
            // bits that no byte has
            format!("{header}.{claims}.AB"),
            format!("{header}.{claims}.AA+/"),
            format!("{header}.{claims}.AAAA "),
            format!(" {header}.{claims}.AAAA"),
            format!("{header}.{}.AAAA", encoded("[]")),
            format!("{header}.{claims}.{}", "A".repeat(MAX_BYTES)),
        ] {
            let error = Token::parse(&bad).unwrap_err();
            assert_eq!(error.code(), "token_malformed", "{bad:.80}");
        }
    }

    #[test]
    fn the_leeway_is_five_seconds_both_ways() {
        assert_eq!(at(1004, r#"{"exp":1000}"#), Ok(1000));
        assert_eq!(at(1005, r#"{"exp":1000}"#), Err(TokenError::Expired));
        assert_eq!(at(995, r#"{"exp":2000,"nbf":1000,"iat":1000}"#), Ok(2000));
        for claim in ["nbf", "iat"] {
            let claims = format!(r#"{{"exp":2000,"{claim}":1000}}"#);
            assert_eq!(at(994, &claims), Err(TokenError::NotYetValid));
        }
    }

    #[test]
    fn a_time_is_a_number_of_our_age() {
        assert_eq!(at(1000, r#"{"exp":1000.9}"#), Ok(1000));
        for claims in [
            r"{}",
            r#"{"exp":"2000"}"#,
            r#"{"exp":null}"#,
            r#"{"exp":1e300}"#,
            r#"{"exp":-1}"#,
            r#"{"exp":9223372036854775807}"#,
            r#"{"exp":18446744073709551615}"#,
            r#"{"exp":2000,"nbf":"0"}"#,
            r#"{"exp":2000,"iat":true}"#,
        ] {
            let error = at(1000, claims).unwrap_err();
            assert_eq!(error.code(), "token_refused", "{claims}");
        }
    }
}
