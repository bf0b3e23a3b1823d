//! Sensitivities, category sets and ranges of SELinux's MLS part, with dominance.

use std::fmt;
use std::str::FromStr;

use crate::base::{CATEGORY_COUNT, CategoryPair, level_text};

/// A run of categories that pairs are drawn from, such as `c0.c1023`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CategoryRange {
    first: u16,
    last: u16,
}

/// Why a text is no range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// A category is missing, above c1023, or a run goes downwards.
    #[error("{0:?} is no category")]
    Category(String),
    /// The lower level is not dominated by the higher one.
    #[error("the range's high level does not dominate its low level")]
    Inverted,
    /// Fewer categories than a useful pool of pairs needs.
    #[error("fewer than 8 categories")]
    Narrow,
    /// A sensitivity is missing or above s15.
    #[error("{0:?} is no sensitivity")]
    Sensitivity(String),
}

impl CategoryRange {
    /// `c0.c1023`
    pub const ALL: Self = Self { first: 0, last: CATEGORY_COUNT - 1 };

    /// A run of at least 8 categories, libvirt's own least.
    pub fn new(first: u16, last: u16) -> Result<Self, RangeError> {
        if last >= CATEGORY_COUNT {
            return Err(RangeError::Category(format!("c{last}")));
        }
        if last < first || last - first < 7 {
            return Err(RangeError::Narrow);
        }
        Ok(Self { first, last })
    }

    /// How many categories.
    #[must_use]
    pub fn len(self) -> usize {
        usize::from(self.last - self.first) + 1
    }

    /// Never: a range has at least 8 categories.
    #[must_use]
    pub fn is_empty(self) -> bool {
        false
    }

    /// The place of a category in the range.
    #[must_use]
    pub fn offset(self, category: u16) -> Option<usize> {
        (self.first..=self.last).contains(&category).then(|| usize::from(category - self.first))
    }

    /// The category at a place.
    #[must_use]
    pub fn at(self, offset: usize) -> Option<u16> {
        let category = u16::try_from(offset).ok()?.checked_add(self.first)?;
        (category <= self.last).then_some(category)
    }
}

/// A set of categories.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Categories([u64; 16]);

impl Categories {
    /// Adds one; numbers above 1023 are refused by the parser before.
    pub fn insert(&mut self, category: u16) {
        if let Some(word) = self.0.get_mut(usize::from(category) / 64) {
            *word |= 1 << (category % 64);
        }
    }

    /// Whether one is in the set.
    #[must_use]
    pub fn contains(&self, category: u16) -> bool {
        self.0.get(usize::from(category) / 64).is_some_and(|word| word & (1 << (category % 64)) != 0)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// Whether every category of `other` is in the set.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.0.iter().zip(other.0).all(|(own, theirs)| theirs & !own == 0)
    }

    /// All, in order.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        (0..CATEGORY_COUNT).filter(|category| self.contains(*category))
    }

    /// The pair, where there are exactly two.
    #[must_use]
    pub fn pair(&self) -> Option<CategoryPair> {
        let mut all = self.iter();
        let (a, b) = (all.next()?, all.next()?);
        if all.next().is_some() { None } else { CategoryPair::new(a, b).ok() }
    }
}

impl From<CategoryPair> for Categories {
    fn from(pair: CategoryPair) -> Self {
        let mut set = Self::default();
        set.insert(pair.low());
        set.insert(pair.high());
        set
    }
}

/// A sensitivity with categories, such as `s0:c1,c2`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Level {
    /// `s0` to `s15`.
    pub sensitivity: u8,
    /// The categories.
    pub categories: Categories,
}

impl Level {
    /// Whether a subject at this level may read what is at `other`.
    #[must_use]
    pub fn dominates(&self, other: &Self) -> bool {
        self.sensitivity >= other.sensitivity && self.categories.covers(&other.categories)
    }
}

/// A low and a high level; printed as one where they are equal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Range {
    low: Level,
    high: Level,
}

impl Range {
    /// A range whose high level dominates its low one.
    pub fn new(low: Level, high: Level) -> Result<Self, RangeError> {
        if high.dominates(&low) { Ok(Self { low, high }) } else { Err(RangeError::Inverted) }
    }

    /// `s0` with a pair.
    #[must_use]
    pub fn of(pair: CategoryPair) -> Self {
        Self::of_all(&[pair])
    }

    /// `s0` with every category of `pairs`.
    #[must_use]
    pub fn of_all(pairs: &[CategoryPair]) -> Self {
        let mut categories = Categories::default();
        for pair in pairs {
            categories.insert(pair.low());
            categories.insert(pair.high());
        }
        let level = Level { sensitivity: 0, categories };
        Self { low: level, high: level }
    }

    /// The low level.
    #[must_use]
    pub fn low(&self) -> &Level {
        &self.low
    }

    /// The high level.
    #[must_use]
    pub fn high(&self) -> &Level {
        &self.high
    }

    /// Whether the high level dominates the other's high level.
    #[must_use]
    pub fn dominates(&self, other: &Self) -> bool {
        self.high.dominates(&other.high)
    }

    /// The pair, where the range is one level of sensitivity `s0` with exactly two categories.
    #[must_use]
    pub fn pair(&self) -> Option<CategoryPair> {
        if self.low != self.high || self.low.sensitivity != 0 {
            return None;
        }
        self.low.categories.pair()
    }
}

/// A number as a policy names it: `c41` is a category, and `c041` is none.
pub(super) fn number(text: &str, prefix: char, below: u16) -> Option<u16> {
    let digits = text.strip_prefix(prefix)?;
    // from_str alone takes a sign.
    let plain = !digits.is_empty() && digits.len() <= 4 && digits.bytes().all(|b| b.is_ascii_digit());
    let plain = plain && (digits == "0" || !digits.starts_with('0'));
    digits.parse().ok().filter(|n| plain && *n < below)
}

impl FromStr for Level {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        let (sensitivity, list) = text.split_once(':').map_or((text, None), |(s, c)| (s, Some(c)));
        let sensitivity = number(sensitivity, 's', 16)
            .and_then(|n| u8::try_from(n).ok())
            .ok_or_else(|| RangeError::Sensitivity(sensitivity.into()))?;
        let mut categories = Categories::default();
        for part in list.iter().flat_map(|list| list.split(',')) {
            let wrong = || RangeError::Category(part.into());
            let (first, last) = part.split_once('.').unwrap_or((part, part));
            let first = number(first, 'c', CATEGORY_COUNT).ok_or_else(wrong)?;
            let last = number(last, 'c', CATEGORY_COUNT).ok_or_else(wrong)?;
            if last < first {
                return Err(wrong());
            }
            (first..=last).for_each(|category| categories.insert(category));
        }
        Ok(Self { sensitivity, categories })
    }
}

impl FromStr for Range {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        let (low, high) = text.split_once('-').unwrap_or((text, text));
        Self::new(low.parse()?, high.parse()?)
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&level_text(self.sensitivity, self.categories.iter()))
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.low == self.high { self.low.fmt(f) } else { write!(f, "{}-{}", self.low, self.high) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn level() -> impl Strategy<Value = Level> {
        (0u8..16, proptest::collection::vec((0u16..1024, 0u16..6), 0..5)).prop_map(|(sensitivity, runs)| {
            let mut categories = Categories::default();
            for (first, length) in runs {
                (first..=(first + length).min(1023)).for_each(|c| categories.insert(c));
            }
            Level { sensitivity, categories }
        })
    }

    #[test]
    fn kernel_spelling() {
        for text in ["s0", "s0:c1,c2", "s0:c0.c1023", "s0-s0:c0.c1023", "s0:c1,c3.c5,c9,c10", "s2-s3:c7"] {
            assert_eq!(text.parse::<Range>().unwrap().to_string(), text);
        }
        assert_eq!("s0:c2,c1".parse::<Range>().unwrap().to_string(), "s0:c1,c2");
    }

    #[test]
    fn refused_spellings() {
        for text in [
            "",
            "s",
            "s16",
            "s0:",
            "s0:c",
            "s0:c1024",
            "s0:c+1",
            "s0:c01",
            "s00",
            "s0:c5.c3",
            "s0:c1,,c2",
            "s0:c1-s0",
            "s0-",
            "x",
        ] {
            assert!(text.parse::<Range>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(low in level(), high in level()) {
            prop_assert_eq!(low.to_string().parse::<Level>().unwrap(), low);
            if let Ok(range) = Range::new(low, high) {
                prop_assert_eq!(range.to_string().parse::<Range>().unwrap(), range);
            }
        }

        #[test]
        fn dominance_is_a_partial_order(a in level(), b in level(), c in level()) {
            prop_assert!(a.dominates(&a));
            if a.dominates(&b) && b.dominates(&a) { prop_assert_eq!(a, b); }
            if a.dominates(&b) && b.dominates(&c) { prop_assert!(a.dominates(&c)); }
        }

        #[test]
        fn different_pairs_never_dominate(a in 0u16..1024, b in 0u16..1024, c in 0u16..1024, d in 0u16..1024) {
            let (Ok(one), Ok(two)) = (CategoryPair::new(a, b), CategoryPair::new(c, d)) else { return Ok(()) };
            prop_assert_eq!(Range::of(one).dominates(&Range::of(two)), one == two);
            prop_assert_eq!(Range::of(one).pair(), Some(one));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,40}") {
            let _ = text.parse::<Range>();
        }
    }
}
