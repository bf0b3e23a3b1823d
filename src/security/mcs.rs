//! Unique category pairs: a bitmap of all of them and a search that ends after one round.
//!
//! libvirt draws two random numbers until it finds a free pair, which never ends once all are taken, and does
//! not count the pairs of static labels. Here every pair has one bit, static labels included.

use super::range::CategoryRange;
use crate::base::CategoryPair;

/// Which pairs of a range of categories are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    range: CategoryRange,
    words: Vec<u64>,
    count: usize,
}

/// How many pairs `n` categories make.
const fn pairs_of(n: usize) -> usize {
    n * n.saturating_sub(1) / 2
}

/// The position of the pair `(low, high)`, `low < high`, counted from 0.
const fn index_of(low: usize, high: usize) -> usize {
    pairs_of(high) + low
}

/// The inverse of [`index_of`]: an integer square root, corrected by at most one step either way.
fn pair_at(index: usize) -> (usize, usize) {
    let mut high = usize::midpoint((8 * index + 1).isqrt(), 1);
    while pairs_of(high) > index {
        high -= 1;
    }
    while pairs_of(high + 1) <= index {
        high += 1;
    }
    (index - pairs_of(high), high)
}

impl Default for Taken {
    fn default() -> Self {
        Self::new(CategoryRange::ALL)
    }
}

impl Taken {
    /// Nothing taken of the pairs that `range` makes.
    #[must_use]
    pub fn new(range: CategoryRange) -> Self {
        Self { range, words: vec![0; pairs_of(range.len()).div_ceil(64)], count: 0 }
    }

    /// The pairs of `taken` that lie in `range`; no other can meet a pair drawn from it.
    pub fn of(range: CategoryRange, taken: impl IntoIterator<Item = CategoryPair>) -> Self {
        let mut all = Self::new(range);
        for pair in taken {
            all.insert(pair);
        }
        all
    }

    /// How many pairs the range makes: 523,776 for 1024 categories.
    #[must_use]
    pub fn capacity(&self) -> usize {
        pairs_of(self.range.len())
    }

    /// How many pairs are taken.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether no pair is taken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether a pair is taken; one outside the range is not.
    #[must_use]
    pub fn contains(&self, pair: CategoryPair) -> bool {
        self.place(pair).and_then(|(word, bit)| self.words.get(word).map(|w| w & bit != 0)).unwrap_or(false)
    }

    /// Takes a pair; false if it was taken before or lies outside the range.
    pub fn insert(&mut self, pair: CategoryPair) -> bool {
        let Some((word, bit)) = self.place(pair) else { return false };
        match self.words.get_mut(word) {
            Some(word) if *word & bit == 0 => {
                *word |= bit;
                self.count += 1;
                true
            }
            _ => false,
        }
    }

    /// Frees a pair; false if it was free or lies outside the range.
    pub fn remove(&mut self, pair: CategoryPair) -> bool {
        let Some((word, bit)) = self.place(pair) else { return false };
        match self.words.get_mut(word) {
            Some(word) if *word & bit != 0 => {
                *word &= !bit;
                self.count -= 1;
                true
            }
            _ => false,
        }
    }

    fn place(&self, pair: CategoryPair) -> Option<(usize, u64)> {
        let low = self.range.offset(pair.low())?;
        let high = self.range.offset(pair.high())?;
        let index = index_of(low, high);
        Some((index / 64, 1 << (index % 64)))
    }

    /// The first free position at or after `from`, once round the bitmap.
    fn free_from(&self, from: usize) -> Option<usize> {
        let capacity = self.capacity();
        let (first, bit) = (from / 64, from % 64);
        let masked = |at: usize, mask: u64| {
            let word = self.words.get(at)? | mask;
            let index = at * 64 + word.trailing_ones() as usize;
            (word != u64::MAX && index < capacity).then_some(index)
        };
        masked(first, (1u64 << bit) - 1)
            .or_else(|| (first + 1..self.words.len()).find_map(|at| masked(at, 0)))
            .or_else(|| (0..=first).find_map(|at| masked(at, 0)))
    }
}

/// Draws a free pair; `None` only where all are taken. The same seed and table give the same pair.
#[must_use]
pub fn allocate(taken: &Taken, seed: u64) -> Option<CategoryPair> {
    let capacity = taken.capacity();
    if taken.len() >= capacity {
        return None;
    }
    // A draw first: pairs of different hosts that share storage then differ by chance too.
    let start = usize::try_from(crate::base::mix(seed, 1) % capacity as u64).ok()?;
    let (low, high) = pair_at(taken.free_from(start)?);
    CategoryPair::new(taken.range.at(low)?, taken.range.at(high)?).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_index_is_one_pair() {
        for index in 0..pairs_of(1024) {
            let (low, high) = pair_at(index);
            assert!(low < high && high < 1024);
            assert_eq!(index_of(low, high), index);
        }
    }

    #[test]
    fn a_small_range_is_used_up_and_then_says_so() {
        let range = CategoryRange::new(100, 107).unwrap();
        let mut taken = Taken::new(range);
        for seed in 0..28 {
            let pair = allocate(&taken, seed).unwrap();
            assert!(taken.insert(pair), "{pair} came twice");
        }
        assert_eq!(allocate(&taken, 7), None);
    }

    #[test]
    fn pairs_outside_the_range_take_nothing() {
        let mut taken = Taken::new(CategoryRange::new(10, 20).unwrap());
        assert!(!taken.insert(CategoryPair::new(9, 15).unwrap()));
        assert!(taken.is_empty());
    }

    proptest! {
        #[test]
        fn live_pairs_are_unique_and_in_range(
            low in 0u16..1000,
            width in 7u16..40,
            seeds in proptest::collection::vec(any::<u64>(), 1..40),
        ) {
            let high = (low + width).min(1023);
            let mut taken = Taken::new(CategoryRange::new(low, high).unwrap());
            for seed in seeds {
                match allocate(&taken, seed) {
                    Some(pair) => {
                        prop_assert!(pair.low() >= low && pair.high() <= high);
                        prop_assert!(taken.insert(pair));
                    }
                    None => prop_assert_eq!(taken.len(), taken.capacity()),
                }
            }
        }

        #[test]
        fn a_release_frees_exactly_one(pairs in proptest::collection::btree_set((0u16..1024, 0u16..1024), 1..60), pick: usize) {
            let pairs: std::collections::BTreeSet<CategoryPair> =
                pairs.into_iter().filter_map(|(a, b)| CategoryPair::new(a, b).ok()).collect();
            prop_assume!(!pairs.is_empty());
            let mut taken = Taken::of(CategoryRange::ALL, pairs.iter().copied());
            let gone = *pairs.iter().nth(pick % pairs.len()).unwrap();
            prop_assert!(taken.remove(gone));
            prop_assert_eq!(taken.len(), pairs.len() - 1);
            for pair in &pairs {
                prop_assert_eq!(taken.contains(*pair), *pair != gone);
            }
        }

        #[test]
        fn the_last_free_pair_is_found(free in 0usize..523_776, seed: u64) {
            let mut taken = Taken::default();
            for word in &mut taken.words { *word = u64::MAX; }
            taken.count = taken.capacity();
            let (low, high) = pair_at(free);
            let pair = CategoryPair::new(u16::try_from(low).unwrap(), u16::try_from(high).unwrap()).unwrap();
            taken.remove(pair);
            prop_assert_eq!(allocate(&taken, seed), Some(pair));
        }
    }
}
