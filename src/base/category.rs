//! MCS category pairs: the part of a SELinux range that keeps two domains apart.

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};

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

/// Every other pair that the categories of `pairs` make: what holds all of `pairs` dominates these, too.
#[must_use]
pub fn crossings(pairs: &[CategoryPair]) -> Vec<CategoryPair> {
    let all: BTreeSet<u16> = pairs.iter().flat_map(|pair| [pair.low, pair.high]).collect();
    let above = |low: u16| all.range(low + 1..).map(move |high| CategoryPair { low, high: *high });
    all.iter().flat_map(|low| above(*low)).filter(|pair| !pairs.contains(pair)).collect()
}

/// A level of the sensitivity `s0`, as the kernel prints it: in order, runs of three and more with a dot.
#[must_use]
pub fn level_text(sensitivity: u8, categories: impl IntoIterator<Item = u16>) -> String {
    let mut out = format!("s{sensitivity}");
    let mut run: Option<(u16, u16)> = None;
    let mut separator = ':';
    let mut put = |out: &mut String, (first, last): (u16, u16)| {
        let _ = match last - first {
            0 => write!(out, "{separator}c{first}"),
            1 => write!(out, "{separator}c{first},c{last}"),
            _ => write!(out, "{separator}c{first}.c{last}"),
        };
        separator = ',';
    };
    for category in categories.into_iter().collect::<BTreeSet<_>>() {
        run = match run {
            Some((first, last)) if last + 1 == category => Some((first, category)),
            before => {
                if let Some(run) = before {
                    put(&mut out, run);
                }
                Some((category, category))
            }
        };
    }
    if let Some(run) = run {
        put(&mut out, run);
    }
    out
}

impl CategoryPair {
    /// The level that holds all of `pairs`, such as `s0:c1,c2`.
    #[must_use]
    pub fn level(pairs: &[Self]) -> String {
        level_text(0, pairs.iter().flat_map(|pair| [pair.low, pair.high]))
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

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    fn pair(a: u16, b: u16) -> CategoryPair {
        CategoryPair::new(a, b).unwrap()
    }

    #[test]
    fn crossings_are_every_other_pair() {
        assert!(crossings(&[pair(1, 2)]).is_empty());
        assert_eq!(crossings(&[pair(1, 9), pair(4, 5)]), [pair(1, 4), pair(1, 5), pair(4, 9), pair(5, 9)]);
        assert_eq!(crossings(&[pair(1, 2), pair(2, 3)]), [pair(1, 3)]);
    }

    #[test]
    fn levels_are_printed_as_the_kernel_does() {
        assert_eq!(CategoryPair::level(&[pair(9, 1)]), "s0:c1,c9");
        assert_eq!(CategoryPair::level(&[pair(1, 2), pair(3, 900)]), "s0:c1.c3,c900");
        assert_eq!(level_text(3, [5, 4]), "s3:c4,c5");
        assert_eq!(level_text(0, []), "s0");
    }
}
