//! How many of a number of tenants: a count, or a share.

use std::{borrow::Cow, fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use utoipa::openapi::{ObjectBuilder, RefOr, Schema, Type};

/// What [`Portion`] reads, and more than any fleet has.
const PATTERN: &str = "^(?:[0-9]{1,9}|(?:100|0?[0-9]{1,2})%)$";

/// A count such as `5`, or a share such as `10%`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Portion {
    /// A count.
    Count(u32),
    /// A percentage.
    Percent(u8),
}

/// The text is neither a count nor a share.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither a count such as 5 nor a share such as 10%")]
pub struct PortionInvalid(String);

impl Portion {
    /// How many that is of `total`; a share is rounded up.
    pub fn of(self, total: u32) -> u32 {
        match self {
            Self::Count(count) => count.min(total),
            Self::Percent(percent) => {
                let share = (u64::from(total) * u64::from(percent)).div_ceil(100);
                u32::try_from(share).unwrap_or(total)
            }
        }
    }
}

impl FromStr for Portion {
    type Err = PortionInvalid;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || PortionInvalid(text.to_owned());
        // no sign, no space: what parse() allows and a check in the database does not
        if !text.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(invalid());
        }
        match text.strip_suffix('%') {
            Some(percent) => match percent.parse() {
                Ok(percent @ 0..=100) => Ok(Self::Percent(percent)),
                _ => Err(invalid()),
            },
            None => text.parse().map(Self::Count).map_err(|_| invalid()),
        }
    }
}

impl fmt::Display for Portion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl TryFrom<String> for Portion {
    type Error = PortionInvalid;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Portion> for String {
    fn from(portion: Portion) -> Self {
        portion.to_string()
    }
}

impl utoipa::PartialSchema for Portion {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some("A count such as `5`, or a share such as `10%`."))
            .pattern(Some(PATTERN))
            .into()
    }
}

impl utoipa::ToSchema for Portion {
    fn name() -> Cow<'static, str> {
        "FleetPortion".into()
    }
}

/// The last target of each wave, of `total` targets: waves go up to their portions, and the last one to the end.
///
/// A wave that would be empty is left out.
pub(super) fn wave_ends(waves: &[Portion], total: u32) -> Vec<u32> {
    let mut ends: Vec<u32> = Vec::new();
    for end in waves.iter().map(|wave| wave.of(total)).chain([total]) {
        if end > ends.last().copied().unwrap_or(0) {
            ends.push(end);
        }
    }
    ends
}

#[cfg(test)]
mod tests {
    use super::*;

    fn portions(text: &str) -> Vec<Portion> {
        text.split(',').map(|part| part.parse().unwrap()).collect()
    }

    #[test]
    fn a_portion_is_a_count_or_a_share() {
        for text in ["0", "5", "0%", "10%", "100%"] {
            assert_eq!(text.parse::<Portion>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "%",
            "-1",
            "+1",
            "101%",
            "1.5",
            " 1",
            "1 %",
            "5000000000",
        ] {
            assert!(text.parse::<Portion>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn waves_go_up_to_their_portions_and_the_last_one_to_the_end() {
        assert_eq!(wave_ends(&portions("1,10%,100%"), 200), [1, 20, 200]);
        assert_eq!(wave_ends(&portions("1,10%"), 200), [1, 20, 200]);
        assert_eq!(wave_ends(&portions("1,10%,100%"), 5), [1, 5]);
        assert_eq!(wave_ends(&portions("50%,10%"), 10), [5, 10]);
        assert_eq!(wave_ends(&[], 3), [3]);
        assert_eq!(wave_ends(&portions("1,10%"), 0), [0_u32; 0]);
    }
}
