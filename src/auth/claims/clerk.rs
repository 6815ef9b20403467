//! Clerk's session tokens, versions 1 and 2, and those of JWT templates.
//!
//! Guarantees: only a session's token passes, unless templates are accepted; a machine's (M2M) never does, although the same key
//! signs it; nor does one of a category or version that is not known here.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Claims, MAX_PERMISSIONS, Place, id, is_text, listed, text};
use crate::{auth::error::TokenError, config::Issuer};

/// Header `cat` of a session's token.
const SESSION: &str = "cl_B7d4PD111AAA";

/// Header `cat` of a JWT template's token.
const TEMPLATE: &str = "cl_B7d4PD222AAA";

/// Header `cat` of instances that put it on every token: it says nothing.
const SAYS_NOTHING: &str = "cl_I7d4PD111III";

/// Longest integer of `fpm` that is read (decimal digits): 3000 permissions of one feature.
const MAX_DIGITS: usize = 1000;

/// Refuses what is not a session's token, or not for us.
pub(super) fn check(
    issuer: &Issuer,
    category: Option<&str>,
    claims: &Claims,
) -> Result<(), TokenError> {
    match category {
        // tokens from before there were categories have none
        None | Some(SESSION | SAYS_NOTHING) => {}
        Some(TEMPLATE) if issuer.accept_templates => {}
        Some(_) => return Err(TokenError::Refused("its category is not accepted")),
    }
    let parties = &issuer.authorized_parties;
    let party = claims.get("azp").and_then(Value::as_str);
    if !parties.is_empty() && !party.is_some_and(|azp| parties.iter().any(|ours| ours == azp)) {
        return Err(TokenError::Refused(
            "its azp is none of the authorized parties",
        ));
    }
    let has_session = id(claims, "sid", "its sid is no id")?.is_some();
    if !has_session && !issuer.accept_templates {
        return Err(TokenError::Refused("it belongs to no session"));
    }
    match claims.get("sts") {
        None | Some(Value::Null) => Ok(()),
        Some(Value::String(status)) if status == "active" => Ok(()),
        Some(Value::String(status)) if status == "pending" => Err(TokenError::SessionPending),
        Some(_) => Err(TokenError::Refused("its sts is not known")),
    }
}

/// Organization, role and permissions. A token of version 2 says them in `o` only, one of version 1 in `org_…` only.
pub(super) fn place(claims: &Claims) -> Result<Place, TokenError> {
    let version = claims.get("v").map_or(Some(1), Value::as_u64);
    match (version, claims.get("o")) {
        (Some(1), _) => Ok(Place {
            org_id: id(claims, "org_id", "its org_id is no id")?,
            role: text(claims.get("org_role")),
            permissions: listed(claims.get("org_permissions")),
        }),
        (Some(2), None | Some(Value::Null)) => Ok(Place::default()),
        (Some(2), Some(Value::Object(o))) => of_version_2(claims, o),
        (Some(2), Some(_)) => Err(TokenError::Refused("its o is no object")),
        _ => Err(TokenError::Refused("its version is not known")),
    }
}

fn of_version_2(claims: &Claims, o: &Claims) -> Result<Place, TokenError> {
    let org_id = id(o, "id", "its o.id is no id")?;
    let Some(org_id) = org_id else {
        return Err(TokenError::Refused("its o has no id"));
    };
    let part = |map: &Claims, key: &str| {
        let text = map.get(key).and_then(Value::as_str);
        text.unwrap_or_default().to_owned()
    };
    Ok(Place {
        org_id: Some(org_id),
        role: text(o.get("rol")).map(|role| {
            if role.starts_with("org:") {
                role
            } else {
                format!("org:{role}")
            }
        }),
        permissions: permissions(&part(claims, "fea"), &part(o, "per"), &part(o, "fpm")),
    })
}

/// Unpacks permissions. The i-th feature of an organization goes with the i-th integer of `fpm`; its bit k, the lowest first,
/// says whether the k-th name of `per` is permitted. What cannot be read permits nothing, and keeps its place.
fn permissions(features: &str, names: &str, masks: &str) -> Vec<String> {
    let names: Vec<&str> = items(names).collect();
    let of_organization = items(features).filter_map(|feature| match feature.split_once(':') {
        Some(("o" | "ou" | "uo", feature)) => Some(feature),
        _ => None,
    });
    let mut found = BTreeSet::new();
    for (feature, mask) in of_organization.zip(items(masks)) {
        for (name, is_set) in names.iter().zip(bits(mask, names.len())) {
            if !is_set || !is_text(feature) || !is_text(name) {
                continue;
            }
            if found.len() == MAX_PERMISSIONS {
                return found.into_iter().collect();
            }
            found.insert(format!("org:{feature}:{name}"));
        }
    }
    found.into_iter().collect()
}

fn items(list: &str) -> impl Iterator<Item = &str> {
    let list = Some(list).filter(|list| !list.is_empty());
    list.into_iter()
        .flat_map(|list| list.split(','))
        .map(str::trim)
}

/// The lowest bits of a decimal integer of any size, the lowest first; none of what is no integer, or longer than
/// [`MAX_DIGITS`].
fn bits(decimal: &str, count: usize) -> Vec<bool> {
    let is_integer = !decimal.is_empty() && decimal.bytes().all(|digit| digit.is_ascii_digit());
    if !is_integer || decimal.len() > MAX_DIGITS {
        return Vec::new();
    }
    // the integer modulo 2^(32 × limbs), the lowest limb first: higher bits name nothing
    let mut limbs = vec![0_u32; count.div_ceil(32)];
    for digit in decimal.bytes() {
        let mut carry = u64::from(digit - b'0');
        for limb in &mut limbs {
            let value = u64::from(*limb) * 10 + carry;
            #[expect(clippy::cast_possible_truncation, reason = "the rest is carried")]
            {
                *limb = value as u32;
            }
            carry = value >> 32;
        }
    }
    let bit = |at: usize| limbs[at / 32] >> (at % 32) & 1 == 1;
    (0..count).map(bit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set_bits(decimal: &str, count: usize) -> Vec<usize> {
        let bits = bits(decimal, count);
        (0..bits.len()).filter(|&at| bits[at]).collect()
    }

    #[test]
    fn integers_of_any_size_are_read_bit_by_bit() {
        assert!(set_bits("0", 4).is_empty());
        assert_eq!(set_bits("6", 4), [1, 2]);
        assert_eq!(set_bits("00006", 4), [1, 2]);
        // 2^64 + 1, and 2^200
        assert_eq!(set_bits("18446744073709551617", 65), [0, 64]);
        let two_to_200 = "1606938044258990275541962092341162602522202993782792835301376";
        assert_eq!(set_bits(two_to_200, 201), [200]);
        assert!(
            set_bits(two_to_200, 200).is_empty(),
            "a bit that names nothing"
        );
        assert!(set_bits("255", 0).is_empty());
        for malformed in ["", "-1", "+1", "1.0", "1e3", "0x3", "٣", &"9".repeat(1001)] {
            assert!(set_bits(malformed, 8).is_empty(), "{malformed:.10}");
        }
        assert!(!set_bits(&"9".repeat(1000), 3000).is_empty());
    }

    #[test]
    fn a_feature_goes_with_the_integer_at_its_place() {
        let all = "u:beta,uo:dashboard,o:teams,ou:wiki";
        assert_eq!(
            permissions(all, "manage,read", "1,3,2"),
            [
                "org:dashboard:manage",
                "org:teams:manage",
                "org:teams:read",
                "org:wiki:read"
            ]
        );
        // what cannot be read permits nothing, and the others stay where they are
        assert_eq!(
            permissions(all, "manage,read", "x,3"),
            ["org:teams:manage", "org:teams:read"]
        );
        assert_eq!(permissions(all, "manage,read", ",,2"), ["org:wiki:read"]);
        for (features, names, masks) in [
            ("", "read", "1"),
            ("o:teams", "", "1"),
            ("o:teams", "read", ""),
            ("teams", "read", "1"),
            ("u:teams", "read", "1"),
        ] {
            assert!(permissions(features, names, masks).is_empty());
        }
    }

    #[test]
    fn few_bytes_do_not_become_many_permissions() {
        let features = vec!["o:f"; 400].join(",");
        let names: Vec<String> = (0..400).map(|at| format!("n{at}")).collect();
        let masks = vec!["9".repeat(1000); 400].join(",");
        let found = permissions(&features, &names.join(","), &masks);
        assert!(found.len() <= MAX_PERMISSIONS);
    }
}
