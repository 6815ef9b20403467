//! Organization name → slug, host, database and role names. Pure.
//!
//! Guarantees: whatever the name (empty, punctuation, any script, any length), every result is a
//! legal identifier and a legal DNS label; two tenants never share a database or role name, because
//! the name ends in a part of the tenant's id; the organization's text can never be SQL, because only
//! `a-z 0-9 _` come through.

use uuid::Uuid;

use crate::config::{NameStyle, Tenants};

/// Postgres keeps 63 bytes of an identifier and silently cuts the rest.
pub const MAX_IDENTIFIER_BYTES: usize = 63;

const MAX_SLUG: usize = 32;
const SHORT_ID: usize = 10;

/// Hosts that must not be given away under the base domain.
const RESERVED_SLUGS: [&str; 20] = [
    "admin",
    "api",
    "app",
    "assets",
    "auth",
    "billing",
    "cdn",
    "console",
    "dashboard",
    "docs",
    "ftp",
    "help",
    "internal",
    "login",
    "mail",
    "ns",
    "root",
    "status",
    "support",
    "www",
];

/// The names of a tenant, given once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// Host name.
    pub url: String,
    /// Database name.
    pub database: String,
    /// Login role.
    pub role: String,
}

/// Names for a tenant. `attempt` counts from 0: later ones avoid a host that is taken.
///
/// Who asks for a slug gets that host and no other: see [`names_with_slug`].
pub fn names(config: &Tenants, organization: &str, tenant: Uuid, attempt: usize) -> Names {
    let slug = slug(organization);
    let taken = attempt > 0 || is_reserved(&slug);
    give(config, slug, tenant, taken)
}

/// Names for a tenant whose host is to be `<slug>.<base domain>`.
pub fn names_with_slug(config: &Tenants, slug: &str, tenant: Uuid) -> Names {
    let url = host(config, slug);
    Names {
        url,
        ..give(config, slug.to_owned(), tenant, false)
    }
}

/// The host of a slug.
pub fn host(config: &Tenants, slug: &str) -> String {
    format!("{slug}.{}", config.base_domain.to_ascii_lowercase())
}

fn give(config: &Tenants, slug: String, tenant: Uuid, taken: bool) -> Names {
    let id = short_id(
        tenant,
        if config.names == NameStyle::Opaque {
            2 * SHORT_ID
        } else {
            SHORT_ID
        },
    );
    let database = match config.names {
        NameStyle::Readable => format!("{}{}_{id}", config.prefix, slug.replace('-', "_")),
        NameStyle::Opaque => format!("{}{id}", config.prefix),
    };
    let label = match config.names {
        // a shared host name would tell nothing: the id alone does
        NameStyle::Opaque => id.clone(),
        NameStyle::Readable if taken => format!("{slug}-{id}"),
        NameStyle::Readable => slug,
    };
    Names {
        url: host(config, &label),
        role: database.clone(),
        database,
    }
}

/// `Acme Corp!` → `acme-corp`; a name without a letter or digit → `tenant`.
pub fn slug(name: &str) -> String {
    let mut slug = String::with_capacity(MAX_SLUG);
    // four times the length is plenty: one character of another script becomes a few of ours
    let ascii = name
        .chars()
        .take(4 * MAX_SLUG)
        .map(|c| deunicode::deunicode_char(c).unwrap_or("-"))
        .collect::<Vec<_>>();
    for c in ascii.iter().flat_map(|text| text.chars()) {
        if slug.len() >= MAX_SLUG {
            break;
        }
        if c.is_ascii_alphanumeric() {
            slug.push(c.to_ascii_lowercase());
        } else if !slug.is_empty() && !slug.ends_with('-') && c != '\'' {
            slug.push('-');
        }
    }
    let slug = slug.trim_end_matches('-');
    if slug.is_empty() {
        "tenant".to_owned()
    } else {
        slug.to_owned()
    }
}

/// Whether a text is a slug that somebody may ask for: it needs no escaping, as a host's label or anywhere.
///
/// Two hyphens in a row are refused because `xn--` begins a name in another script.
pub fn is_slug(text: &str) -> bool {
    let is_part = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
    };
    (2..=MAX_SLUG).contains(&text.len()) && text.split('-').all(is_part)
}

/// Whether a slug is kept back, or looks like one that is.
pub fn is_reserved(slug: &str) -> bool {
    let looks = skeleton(slug);
    RESERVED_SLUGS
        .iter()
        .any(|reserved| skeleton(reserved) == looks)
}

/// What a text looks like (Unicode TS 39, section 4): texts that are easily taken for each other have the same one.
///
/// Case and the width of white space make no difference.
pub fn skeleton(text: &str) -> String {
    let lower = text.to_lowercase();
    let words: Vec<&str> = lower.split_whitespace().collect();
    let looks: String = unicode_security::skeleton(&words.join(" ")).collect();
    // some prototypes are capitals: a nought looks like an O
    looks.to_lowercase()
}

/// The last `length` characters of the id in base 32 (Crockford, lower case): its random part.
pub fn short_id(id: Uuid, length: usize) -> String {
    const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
    let mut rest = id.as_u128();
    let mut digits = Vec::with_capacity(length);
    for _ in 0..length {
        digits.push(char::from(DIGITS[(rest & 31) as usize]));
        rest >>= 5;
    }
    digits.iter().rev().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn config(names: NameStyle) -> Tenants {
        Tenants {
            prefix: "tn_".into(),
            names,
            base_domain: "app.example.com".into(),
            connection_limit: 50,
        }
    }

    fn is_legal_identifier(name: &str) -> bool {
        name.len() <= MAX_IDENTIFIER_BYTES
            && name.starts_with(|c: char| c.is_ascii_lowercase())
            && name
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    }

    fn is_legal_host(host: &str) -> bool {
        host.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        })
    }

    proptest! {
        #[test]
        fn every_name_is_legal(name in any::<String>(), id in any::<u128>(), attempt in 0..3_usize, opaque in any::<bool>()) {
            let style = if opaque { NameStyle::Opaque } else { NameStyle::Readable };
            let names = names(&config(style), &name, Uuid::from_u128(id), attempt);
            prop_assert!(is_legal_identifier(&names.database), "{}", names.database);
            prop_assert!(is_legal_identifier(&names.role), "{}", names.role);
            prop_assert!(is_legal_host(&names.url), "{}", names.url);
        }

        #[test]
        fn tenants_of_any_names_do_not_share_a_database(a in any::<String>(), b in any::<String>(), x in any::<u64>(), y in any::<u64>()) {
            let config = config(NameStyle::Readable);
            // the short id keeps 50 bits; equal ones are caught by the unique constraint
            prop_assume!(x & ((1 << 50) - 1) != y & ((1 << 50) - 1));
            let of = |name: &str, id: u64| names(&config, name, Uuid::from_u128(id.into()), 0).database;
            prop_assert_ne!(of(&a, x), of(&b, y));
        }

        #[test]
        fn a_slug_is_its_own_slug(name in any::<String>()) {
            let slug = slug(&name);
            prop_assert_eq!(super::slug(&slug), slug);
        }
    }

    #[test]
    fn readable_names_show_the_organization() {
        let slugs = [
            "Acme Corp",
            "acme-corp!",
            "  --  ",
            "",
            "日本株式会社",
            "Ünïcode Straße",
            "O'Brien & Sons",
            "🚀🚀",
            "'; drop database x; --",
        ];
        let expected = [
            "acme-corp",
            "acme-corp",
            "tenant",
            "tenant",
            "ri-ben-zhu-shi-hui-she",
            "unicode-strasse",
            "obrien-sons",
            "rocket-rocket",
            "drop-database-x",
        ];
        assert_eq!(slugs.map(slug), expected);
    }

    #[test]
    fn a_reserved_or_taken_host_gets_the_id() {
        let host = |name, attempt| {
            names(
                &config(NameStyle::Readable),
                name,
                Uuid::from_u128(7),
                attempt,
            )
            .url
        };
        assert_eq!(host("Acme", 0), "acme.app.example.com");
        assert_eq!(host("Acme", 1), "acme-0000000007.app.example.com");
        assert_eq!(host("WWW", 0), "www-0000000007.app.example.com");
    }
}
