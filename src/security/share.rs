//! Images that several domains write, directories that guests mount, and memory that they share: each has a category pair
//! of its own, which only the domains that declare it have besides their own.
//!
//! libvirt gives such an image no categories, so that every guest of the host may write to it. Here a domain runs
//! under its own pair and those of its shares. It then dominates every pair that these categories make, so all of
//! them are kept from others; `base::crossings` says which they are, and the lease table holds them.

use super::LabelError;
use super::mcs::{Taken, allocate};
use super::range::CategoryRange;
use crate::base::mix;
use crate::base::{CategoryPair, crossings};
use crate::privsep::request::Survey;
use crate::privsep::share::ShareIdentity;

/// How often a pair is drawn again whose crossings are taken.
const DRAWS: u64 = 256;

/// An image, a directory or memory that the domain shares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shared {
    /// Which.
    pub identity: ShareIdentity,
    /// The pair that the definition names for it.
    pub named: Option<CategoryPair>,
    /// Whether a helper alone uses it, and the device model has no part in its pair.
    pub helper: bool,
}

/// The pairs of one start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pairs {
    /// The domain's own.
    pub own: CategoryPair,
    /// Those of its shares.
    pub shares: Vec<(ShareIdentity, CategoryPair)>,
    /// The shares that only a helper uses.
    pub helpers: Vec<ShareIdentity>,
}

impl Pairs {
    /// Those that the device model runs under, the domain's own first.
    #[must_use]
    pub fn model(&self) -> Vec<CategoryPair> {
        let shares = self.shares.iter().filter(|(identity, _)| !self.helpers.contains(identity));
        std::iter::once(self.own).chain(shares.map(|(_, pair)| *pair)).collect()
    }

    /// Those of a helper that serves one share, which also reaches what the device model makes.
    #[must_use]
    pub fn server(&self, share: &ShareIdentity) -> Vec<CategoryPair> {
        let own = self.shares.iter().filter(|(identity, _)| identity == share).map(|(_, pair)| *pair);
        self.model().into_iter().chain(own).collect()
    }

    /// All, the domain's own first.
    #[must_use]
    pub fn all(&self) -> Vec<CategoryPair> {
        std::iter::once(self.own).chain(self.shares.iter().map(|(_, pair)| *pair)).collect()
    }
}

/// Draws what is not given: `own` is a static label's pair, a running domain's share keeps the pair that it has.
pub fn draw(
    own: Option<CategoryPair>,
    shared: &[Shared],
    survey: &Survey,
    seed: u64,
) -> Result<Pairs, LabelError> {
    let labels = survey.pairs.iter().chain(survey.shares.iter().map(|(_, pair)| pair)).copied();
    let labels = Taken::of(CategoryRange::ALL, labels);
    let mut taken = labels.clone();
    for pair in &survey.crossings {
        taken.insert(*pair);
    }
    let given = |identity| survey.shares.iter().find(|(shared, _)| shared == identity).map(|(_, pair)| *pair);
    for image in shared {
        let clash = match (image.named, given(&image.identity)) {
            (Some(named), Some(given)) if named != given => Some(given),
            (Some(named), None) if taken.contains(named) => Some(named),
            _ => None,
        };
        if let Some(pair) = clash {
            return Err(LabelError::PairTaken(pair));
        }
    }
    if let Some(pair) = own.filter(|pair| taken.contains(*pair)) {
        return Err(LabelError::PairTaken(pair));
    }
    for attempt in 0..DRAWS {
        let mut free = taken.clone();
        let mut salt = attempt << 8;
        let mut next = |free: &mut Taken| {
            // The first draw is the seed's own, as for a domain without shares.
            let seed = if salt == 0 { seed } else { mix(seed, salt) };
            salt += 1;
            let pair = allocate(free, seed).ok_or(LabelError::NoPair)?;
            free.insert(pair);
            Ok::<_, LabelError>(pair)
        };
        let own = match own {
            Some(pair) => pair,
            None => next(&mut free)?,
        };
        free.insert(own);
        let mut shares: Vec<(ShareIdentity, CategoryPair)> = Vec::new();
        for image in shared {
            if shares.iter().any(|(identity, _)| *identity == image.identity) {
                continue;
            }
            let pair = match image.named.or_else(|| given(&image.identity)) {
                Some(pair) => pair,
                None => next(&mut free)?,
            };
            shares.push((image.identity.clone(), pair));
        }
        let pairs = Pairs { own, shares, helpers: helpers(shared) };
        let all = pairs.all();
        let distinct = all.iter().enumerate().all(|(at, pair)| !all.iter().skip(at + 1).any(|p| p == pair));
        if distinct && is_apart(&all) && !crossings(&all).iter().any(|pair| labels.contains(*pair)) {
            return Ok(pairs);
        }
    }
    Err(LabelError::NoPair)
}

/// Whether no pair is one that the others make together: a device model would reach by that what only a helper serves.
fn is_apart(all: &[CategoryPair]) -> bool {
    let made = |pair: &CategoryPair| {
        let others: Vec<CategoryPair> = all.iter().filter(|other| *other != pair).copied().collect();
        crossings(&others).contains(pair)
    };
    !all.iter().any(made)
}

/// The shares that the device model itself does not use in any way.
fn helpers(shared: &[Shared]) -> Vec<ShareIdentity> {
    let model = |identity: &ShareIdentity| shared.iter().any(|one| one.identity == *identity && !one.helper);
    shared.iter().map(|one| &one.identity).filter(|identity| !model(identity)).cloned().collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::privsep::op::FileIdentity;

    /// One is memory, which goes by its name.
    fn image(inode: u64) -> ShareIdentity {
        match inode {
            3 => ShareIdentity::memory("m"),
            _ => FileIdentity { device: 1, inode }.into(),
        }
    }

    /// What the labeller would tell after these starts.
    fn started(survey: &mut Survey, pairs: &Pairs) {
        survey.pairs.push(pairs.own);
        for share in &pairs.shares {
            if !survey.shares.contains(share) {
                survey.shares.push(share.clone());
            }
        }
        survey.crossings.extend(crossings(&pairs.all()));
    }

    fn dominates(by: &Pairs, pair: CategoryPair) -> bool {
        let has = |category| by.all().iter().any(|p| p.low() == category || p.high() == category);
        has(pair.low()) && has(pair.high())
    }

    proptest! {
        #[test]
        fn only_those_that_share_an_image_reach_it(
            domains in prop::collection::vec(prop::collection::btree_map(0_u64..4, any::<bool>(), 0..3), 1..8),
            seed: u64,
        ) {
            let mut survey = Survey::default();
            let mut all = Vec::new();
            for shares in &domains {
                let shared: Vec<Shared> = shares
                    .iter()
                    .map(|(inode, helper)| Shared { identity: image(*inode), named: None, helper: *helper })
                    .collect();
                // The same seed for all: what is taken must decide, not luck.
                let pairs = draw(None, &shared, &survey, seed).unwrap();
                started(&mut survey, &pairs);
                all.push(pairs);
            }
            for (at, one) in all.iter().enumerate() {
                for (other_at, other) in all.iter().enumerate() {
                    prop_assert_eq!(dominates(one, other.own), at == other_at);
                    for (identity, pair) in &other.shares {
                        let shares = one.shares.iter().any(|(own, _)| own == identity);
                        prop_assert_eq!(dominates(one, *pair), shares);
                        let has = |pairs: Vec<CategoryPair>, category| {
                            pairs.iter().any(|p| p.low() == category || p.high() == category)
                        };
                        let reaches = |pairs: Vec<CategoryPair>| {
                            has(pairs.clone(), pair.low()) && has(pairs, pair.high())
                        };
                        // Only the helper of that very share has the pair of what is served.
                        prop_assert_eq!(reaches(one.model()), shares && !one.helpers.contains(identity));
                        for (served, _) in &one.shares {
                            let own = served == identity || !one.helpers.contains(identity);
                            prop_assert_eq!(reaches(one.server(served)), shares && own);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn no_pair_of_a_start_is_made_by_its_others() {
        let pair = |low, high| CategoryPair::new(low, high).unwrap();
        assert!(is_apart(&[pair(1, 2), pair(3, 4), pair(1, 5)]));
        assert!(!is_apart(&[pair(1, 2), pair(3, 4), pair(1, 3)]));
        // With this seed a share that only a helper uses was given what a domain's own pair and its image's make.
        let seed = 14_998_955_406_702_053_850;
        let mut survey = Survey::default();
        let share = |inode, helper| Shared { identity: image(inode), named: None, helper };
        let mut last = None;
        for shared in [vec![share(2, false)], vec![share(0, false)], vec![share(0, false), share(1, true)]] {
            let pairs = draw(None, &shared, &survey, seed).unwrap();
            started(&mut survey, &pairs);
            last = Some(pairs);
        }
        let last = last.unwrap();
        let served = last.shares.iter().find(|(identity, _)| *identity == image(1)).unwrap().1;
        let model = last.model();
        let has = |category| model.iter().any(|pair| pair.low() == category || pair.high() == category);
        assert!(!(has(served.low()) && has(served.high())), "{last:?}");
    }

    #[test]
    fn a_named_pair_must_be_the_shares_own_or_free() {
        let pair = |a, b| CategoryPair::new(a, b).unwrap();
        let survey = Survey {
            pairs: vec![pair(1, 2)],
            shares: vec![(image(7), pair(3, 4))],
            crossings: vec![pair(1, 3)],
            ..Survey::default()
        };
        let named = |inode, named| {
            draw(None, &[Shared { identity: image(inode), named: Some(named), helper: false }], &survey, 1)
        };
        assert_eq!(named(7, pair(3, 4)).unwrap().shares, [(image(7), pair(3, 4))]);
        assert_eq!(named(8, pair(5, 6)).unwrap().shares, [(image(8), pair(5, 6))]);
        for (inode, taken) in [(7, pair(5, 6)), (8, pair(3, 4)), (8, pair(1, 2)), (8, pair(1, 3))] {
            assert!(matches!(named(inode, taken), Err(LabelError::PairTaken(_))), "{inode} {taken}");
        }
        assert!(draw(Some(pair(1, 3)), &[], &survey, 1).is_err(), "a static label may be no crossing");
    }
}
