//! MCS category pairs: the part of a SELinux range that keeps two domains apart.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How many categories an MCS policy has: `c0` to `c1023`.
pub const CATEGORY_COUNT: u16 = 1024;

/// Two different categories, the lower one first; printed as `c17,c901`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "(u16, u16)", into = "(u16, u16)")]
pub struct CategoryPair {
    low: u16,
    high: u16,
}

/// Why two numbers are no category pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CategoryError {
    /// Both categories are the same: a lone category is dominated by every pair that holds it.
    #[error("both categories are c{0}")]
    Equal(u16),
    /// A category is 1024 or more.
    #[error("category c{0} is above c1023")]
    OutOfRange(u16),
}

impl CategoryPair {
    /// Makes a pair from two different categories in either order.
    pub fn new(a: u16, b: u16) -> Result<Self, CategoryError> {
        let (low, high) = if a < b { (a, b) } else { (b, a) };
        if high >= CATEGORY_COUNT {
            return Err(CategoryError::OutOfRange(high));
        }
        if low == high {
            return Err(CategoryError::Equal(low));
        }
        Ok(Self { low, high })
    }

    /// The lower category.
    #[must_use]
    pub fn low(self) -> u16 {
        self.low
    }

    /// The higher category.
    #[must_use]
    pub fn high(self) -> u16 {
        self.high
    }
}

impl TryFrom<(u16, u16)> for CategoryPair {
    type Error = CategoryError;

    fn try_from((a, b): (u16, u16)) -> Result<Self, CategoryError> {
        Self::new(a, b)
    }
}

impl From<CategoryPair> for (u16, u16) {
    fn from(pair: CategoryPair) -> Self {
        (pair.low, pair.high)
    }
}

impl fmt::Display for CategoryPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "c{},c{}", self.low, self.high)
    }
}
