//! `[pool]`: how many databases are ready before anybody asks.

use serde::Deserialize;

use super::{Error, check_range};

/// More databases than this per cluster are a mistake.
const MOST: u32 = 10_000;

/// `[pool]`
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// Databases per cluster; 0 for none, -1 for as many as tenants come.
    pub size: i32,
    /// At least so many, where the size follows the tenants.
    pub min: u32,
    /// The most databases, where the size follows the tenants.
    pub max: u32,
    /// How long a database of an older blueprint is kept, in seconds.
    pub evict_after_s: u32,
}

impl Pool {
    /// Whether there is a pool.
    pub const fn is_on(&self) -> bool {
        self.size != 0 && !(self.size < 0 && self.max == 0)
    }

    /// How many databases there should be, when so many tenants came in the busiest minute.
    pub fn wanted(&self, busiest_minute: u32) -> u32 {
        match u32::try_from(self.size) {
            Ok(size) => size,
            Err(_) => busiest_minute.saturating_mul(2).clamp(self.min, self.max),
        }
    }

    /// Refuses what cannot work.
    pub(super) fn check(&self) -> Result<(), Error> {
        let largest = i32::try_from(MOST).unwrap_or(i32::MAX);
        check_range("pool.size", self.size, -1..=largest)?;
        check_range("pool.max", self.max, 0..=MOST)?;
        if self.min > self.max {
            let min = self.min.to_string();
            return Err(Error::value("pool.min", &min, "at most pool.max"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_is_fixed_or_follows_the_tenants() {
        let pool = |size| Pool {
            size,
            min: 2,
            max: 20,
            evict_after_s: 600,
        };
        let wanted = |size, came| pool(size).wanted(came);
        assert_eq!([wanted(-1, 0), wanted(-1, 5), wanted(-1, 500)], [2, 10, 20]);
        assert_eq!([wanted(7, 0), wanted(7, 500), wanted(0, 500)], [7, 7, 0]);
        assert!(pool(-1).is_on() && pool(7).is_on() && !pool(0).is_on());
    }
}
