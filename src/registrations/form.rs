//! What somebody sends to register: every problem of every field at once, or a form that can be used. Pure.
//!
//! Guarantees: texts are trimmed and bounded and hold no control character; e-mail addresses and names
//! that look alike are compared as one; what was sent is in no problem's text.

use email_address::{EmailAddress, Options};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::tenants::{self, naming};

const MAX_NAME: usize = 200;
const MAX_PERSON_NAME: usize = 100;
/// RFC 5321, section 4.5.3.1.3, without the brackets.
const MAX_EMAIL: usize = 254;
/// `WorkOS` keeps 128 characters of an `external_id`.
const MAX_EXTERNAL_ID: usize = 128;

/// A registration as it is asked for.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(as = RegistrationForm)]
pub struct Asked {
    /// The organization that is to have a tenant.
    #[schema(required = true)]
    organization: OrganizationAsked,
    /// Who signs up, and will administer it.
    #[schema(required = true)]
    user: UserAsked,
    /// Name of the source whose provider knows the organization, or is to; needed where several are configured.
    #[schema(value_type = Option<String>)]
    source: Option<Value>,
}

/// The organization of a registration.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OrganizationAsked {
    /// Its name, 1 to 200 characters.
    #[schema(value_type = String, required = true)]
    name: Option<Value>,
    /// First label of the tenant's host: 2 to 32 of a-z, 0-9 and single hyphens. Made from the name if left out.
    #[schema(value_type = Option<String>)]
    slug: Option<Value>,
    /// E-mail domain of its people.
    #[schema(value_type = Option<String>)]
    domain: Option<Value>,
    /// The application's own id of it, by which the provider's organization is recognised. Not from a form key.
    #[schema(value_type = Option<String>)]
    external_id: Option<Value>,
}

/// The person of a registration.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct UserAsked {
    /// E-mail address.
    #[schema(value_type = String, required = true)]
    email: Option<Value>,
    /// Given name.
    #[schema(value_type = Option<String>)]
    given_name: Option<Value>,
    /// Family name.
    #[schema(value_type = Option<String>)]
    family_name: Option<Value>,
}

/// What is wrong with one field (RFC 9457, the extension member `errors`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct FieldProblem {
    /// Where it stands, as a JSON pointer (RFC 6901, section 6).
    pub pointer: &'static str,
    /// Stable code.
    pub code: &'static str,
    /// What is wrong.
    pub detail: String,
}

/// A form without a problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Form {
    /// Name of the organization.
    pub name: String,
    /// The slug that is asked for.
    pub slug: Option<String>,
    /// E-mail domain, in ASCII.
    pub domain: Option<String>,
    /// The client's own id of the organization.
    pub external_id: Option<String>,
    /// E-mail address as it was sent.
    pub email: String,
    /// The same as it is compared.
    pub email_key: String,
    /// Given name.
    pub given_name: Option<String>,
    /// Family name.
    pub family_name: Option<String>,
    /// Name of the source.
    pub source: Option<String>,
}

impl Form {
    /// What makes two requests of one person ask for the same organization.
    pub fn organization_key(&self) -> String {
        match (&self.external_id, &self.slug) {
            (Some(external_id), _) => format!("external:{external_id}"),
            (None, Some(slug)) => format!("slug:{}", naming::skeleton(slug)),
            (None, None) => format!("name:{}", self.name_key()),
        }
    }

    /// What the organization's name looks like.
    pub fn name_key(&self) -> String {
        naming::skeleton(&self.name)
    }
}

/// Reads the form, or tells everything that is wrong with it.
pub fn read(asked: &Asked) -> Result<Form, Vec<FieldProblem>> {
    let (organization, user) = (&asked.organization, &asked.user);
    let mut fields = Fields(Vec::new());
    let name = fields.required(
        "#/organization/name",
        organization.name.as_ref(),
        short(MAX_NAME),
    );
    let slug = fields.optional("#/organization/slug", organization.slug.as_ref(), slug);
    let domain = fields.optional(
        "#/organization/domain",
        organization.domain.as_ref(),
        domain,
    );
    let external_id = organization.external_id.as_ref();
    let external_id = fields.optional("#/organization/external_id", external_id, external);
    let email = fields.required("#/user/email", user.email.as_ref(), email);
    let person_name = short(MAX_PERSON_NAME);
    let given_name = fields.optional("#/user/given_name", user.given_name.as_ref(), &person_name);
    let family_name = fields.optional("#/user/family_name", user.family_name.as_ref(), person_name);
    let source = fields.optional("#/source", asked.source.as_ref(), short(40));
    match (name, email) {
        (Some(name), Some((email, email_key))) if fields.0.is_empty() => Ok(Form {
            name,
            slug,
            domain,
            external_id,
            email,
            email_key,
            given_name,
            family_name,
            source,
        }),
        _ => Err(fields.0),
    }
}

/// Why a text cannot be used: code and detail.
type Misfit = (&'static str, String);

/// The problems so far.
struct Fields(Vec<FieldProblem>);

impl Fields {
    fn required<T>(
        &mut self,
        pointer: &'static str,
        value: Option<&Value>,
        read: impl FnOnce(&str) -> Result<T, Misfit>,
    ) -> Option<T> {
        let problems = self.0.len();
        let found = self.optional(pointer, value, read);
        if found.is_none() && self.0.len() == problems {
            self.problem(pointer, ("required", "is required".to_owned()));
        }
        found
    }

    /// An empty text is none.
    fn optional<T>(
        &mut self,
        pointer: &'static str,
        value: Option<&Value>,
        read: impl FnOnce(&str) -> Result<T, Misfit>,
    ) -> Option<T> {
        let text = match value {
            None | Some(Value::Null) => return None,
            Some(Value::String(text)) => text.trim(),
            Some(_) => {
                self.problem(pointer, ("not_a_text", "has to be a text".to_owned()));
                return None;
            }
        };
        if text.is_empty() {
            return None;
        }
        match read(text) {
            Ok(found) => Some(found),
            Err(misfit) => {
                self.problem(pointer, misfit);
                None
            }
        }
    }

    fn problem(&mut self, pointer: &'static str, (code, detail): Misfit) {
        self.0.push(FieldProblem {
            pointer,
            code,
            detail,
        });
    }
}

/// A text of so many characters at most that shows as what it is.
fn short(max: usize) -> impl Fn(&str) -> Result<String, Misfit> {
    move |text| {
        if text.chars().count() > max {
            return Err(("too_long", format!("has more than {max} characters")));
        }
        if text.chars().any(is_hidden) {
            let detail = "has a control character, or one that hides or turns text";
            return Err(("control_character", detail.to_owned()));
        }
        Ok(text.to_owned())
    }
}

/// Control characters, and what is not seen but changes what is.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

fn slug(text: &str) -> Result<String, Misfit> {
    if !naming::is_slug(text) {
        let detail = "has to be 2 to 32 of a-z, 0-9 and single hyphens, with none at the ends";
        return Err(("slug_invalid", detail.to_owned()));
    }
    if naming::is_reserved(text) {
        let detail = "is reserved, or looks like a reserved one".to_owned();
        return Err(("slug_reserved", detail));
    }
    Ok(text.to_owned())
}

/// What both providers take, and is no path.
fn external(text: &str) -> Result<String, Misfit> {
    let is_visible = text.bytes().all(|byte| byte.is_ascii_graphic());
    if text.len() > MAX_EXTERNAL_ID || !is_visible || matches!(text, "." | "..") {
        let detail = format!("has to be 1 to {MAX_EXTERNAL_ID} visible ASCII characters");
        return Err(("external_id_invalid", detail));
    }
    Ok(text.to_owned())
}

fn domain(text: &str) -> Result<String, Misfit> {
    let ascii = idna::domain_to_ascii(text).ok();
    let host = ascii.and_then(|ascii| tenants::normalize_host(&ascii));
    let named = host.filter(|host| host.contains('.') && !text.contains(':'));
    named.ok_or_else(|| {
        let detail = "is no domain name such as acme.example".to_owned();
        ("domain_invalid", detail)
    })
}

/// The address, and as it is compared: domains in ASCII, in lower case.
fn email(text: &str) -> Result<(String, String), Misfit> {
    let misfit = || {
        let detail = "is no e-mail address such as ada@acme.example".to_owned();
        ("email_invalid", detail)
    };
    let options = Options::default()
        .with_required_tld()
        .without_display_text()
        .without_domain_literal();
    // a quoted local part is an address that no provider takes
    if text.len() > MAX_EMAIL || text.contains('"') || text.chars().any(is_hidden) {
        return Err(misfit());
    }
    let address = EmailAddress::parse_with_options(text, options).map_err(|_| misfit())?;
    let domain = domain(address.domain()).map_err(|_| misfit())?;
    let key = format!("{}@{domain}", address.local_part().to_lowercase());
    Ok((text.to_owned(), key))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn form(body: Value) -> Result<Form, Vec<(&'static str, &'static str)>> {
        let asked: Asked = serde_json::from_value(body).unwrap();
        read(&asked).map_err(|problems| {
            let place = |problem: &FieldProblem| (problem.pointer, problem.code);
            problems.iter().map(place).collect()
        })
    }

    fn acme(changed: &Value) -> Value {
        let mut body =
            json!({"organization": {"name": "Acme"}, "user": {"email": "ada@acme.example"}});
        for part in ["organization", "user"] {
            for (name, value) in changed[part].as_object().into_iter().flatten() {
                body[part][name] = value.clone();
            }
        }
        body
    }

    #[test]
    fn every_problem_is_told_at_once() {
        let problems = form(json!({
            "organization": {"name": " ", "slug": "Acme!", "domain": "acme", "external_id": "x".repeat(129)},
            "user": {"email": "ada", "given_name": 7, "family_name": "a\u{202e}b"},
            "source": "x".repeat(41),
        }));
        let expected = vec![
            ("#/organization/name", "required"),
            ("#/organization/slug", "slug_invalid"),
            ("#/organization/domain", "domain_invalid"),
            ("#/organization/external_id", "external_id_invalid"),
            ("#/user/email", "email_invalid"),
            ("#/user/given_name", "not_a_text"),
            ("#/user/family_name", "control_character"),
            ("#/source", "too_long"),
        ];
        assert_eq!(problems.unwrap_err(), expected);
        assert_eq!(
            form(json!({})).unwrap_err(),
            [
                ("#/organization/name", "required"),
                ("#/user/email", "required")
            ]
        );
    }

    #[test]
    fn a_name_has_1_to_200_characters_after_trimming() {
        let named = |name: String| form(acme(&json!({"organization": {"name": name}})));
        assert_eq!(
            named(format!("  {}\n", "é".repeat(200))).unwrap().name,
            "é".repeat(200)
        );
        assert_eq!(
            named("é".repeat(201)).unwrap_err(),
            [("#/organization/name", "too_long")]
        );
    }

    #[test]
    fn an_address_is_compared_without_case_and_in_ascii() {
        let key =
            |email: &str| form(acme(&json!({"user": {"email": email}}))).map(|form| form.email_key);
        for same in ["Ada@Bücher.Example", " ada@xn--bcher-kva.example "] {
            assert_eq!(key(same).unwrap(), "ada@xn--bcher-kva.example");
        }
        for none in [
            "ada",
            "@acme.example",
            "ada@",
            "ada@acme",
            "ada@[127.0.0.1]",
            "Ada <ada@acme.example>",
            "ada@acme.example, eve@evil.example",
            "ada@acme..example",
            "a da@acme.example",
            "ada@acme.example\u{200b}",
        ] {
            assert_eq!(
                key(none).unwrap_err(),
                [("#/user/email", "email_invalid")],
                "{none}"
            );
        }
        assert!(key(&format!("{}@acme.example", "a".repeat(300))).is_err());
    }

    #[test]
    fn a_reserved_slug_is_reserved_also_when_it_only_looks_like_one() {
        let slug = |slug: &str| form(acme(&json!({"organization": {"slug": slug}})));
        assert_eq!(slug("acme-2").unwrap().slug.unwrap(), "acme-2");
        for reserved in ["admin", "www", "biliing", "1ogin", "rnail", "d0cs"] {
            let expected = if reserved == "biliing" {
                None
            } else {
                Some(("#/organization/slug", "slug_reserved"))
            };
            assert_eq!(
                slug(reserved).err().map(|problems| problems[0]),
                expected,
                "{reserved}"
            );
        }
        for illegal in [
            "a",
            "-a",
            "a-",
            "a--b",
            "xn--a",
            "a.b",
            "аcme",
            "ACME",
            &"a".repeat(33),
        ] {
            assert_eq!(
                slug(illegal).unwrap_err(),
                [("#/organization/slug", "slug_invalid")],
                "{illegal}"
            );
        }
    }

    #[test]
    fn organizations_whose_names_look_alike_are_one() {
        let key = |body: Value| form(acme(&body)).unwrap().organization_key();
        let named = |name: &str| key(json!({"organization": {"name": name}}));
        assert_eq!(named("Acme  Corp"), named("аcme corp"));
        assert_ne!(named("Acme"), named("Acme 2"));
        let slugged = key(json!({"organization": {"slug": "acme"}}));
        assert_ne!(slugged, key(json!({"organization": {"slug": "acme-eu"}})));
        let external = key(json!({"organization": {"slug": "acme", "external_id": "42"}}));
        assert_eq!(external, "external:42");
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(name in any::<String>(), email in any::<String>(), slug in any::<String>()) {
            let body = json!({"organization": {"name": name, "slug": slug}, "user": {"email": email}});
            if let Ok(form) = form(body) {
                prop_assert!(!form.name.is_empty() && form.name.chars().count() <= MAX_NAME);
                prop_assert!(form.slug.is_none_or(|slug| naming::is_slug(&slug)));
                prop_assert!(form.email_key.contains('@'));
            }
        }
    }
}
