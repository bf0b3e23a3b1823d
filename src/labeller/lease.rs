//! The table of what running domains hold: uids, category pairs, and files and devices by device and inode.
//!
//! Pure. It refuses what is in use, whoever asks, and names the holder; it knows nothing of files or processes.

use std::collections::BTreeMap;

use crate::base::{CategoryPair, DomainName, DomainRef, DomainUuid, Layer, Refusal, crossings};
use crate::privsep::op::{Access, Sharing, UidRole};
use crate::privsep::share::ShareIdentity;

/// Device and inode, or for a block device its own number and 0.
pub(super) type ObjectId = (u64, u64);

/// How a domain holds an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hold {
    /// Whether it writes.
    pub(super) access: Access,
    /// Whom it tolerates.
    pub(super) sharing: Sharing,
}

impl Hold {
    /// Whether the holder puts up with another one.
    fn tolerates(self, other: Self) -> bool {
        match self.sharing {
            Sharing::Exclusive => false,
            Sharing::Readers => other.access == Access::ReadOnly,
            Sharing::Writers => true,
        }
    }
}

/// What a label on a shared object must be put back to, and what it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
struct LabelLease {
    /// The label found by the first domain that set one.
    before: Option<String>,
    /// The label that every holder asked for.
    wanted: String,
    /// Who needs it.
    holders: Vec<DomainUuid>,
}

/// Everything that is leased.
#[derive(Debug, Default)]
pub(super) struct Leases {
    names: BTreeMap<DomainUuid, DomainName>,
    uids: BTreeMap<u32, (UidRole, DomainUuid)>,
    pairs: BTreeMap<CategoryPair, DomainUuid>,
    shares: BTreeMap<CategoryPair, (ShareIdentity, Vec<DomainUuid>)>,
    crossings: BTreeMap<CategoryPair, Vec<DomainUuid>>,
    objects: BTreeMap<ObjectId, Vec<(DomainUuid, Hold)>>,
    labels: BTreeMap<ObjectId, LabelLease>,
}

impl Leases {
    /// How many domains hold something.
    pub(super) fn domains(&self) -> usize {
        self.names.len()
    }

    /// Takes the name and uuid themselves.
    pub(super) fn domain(&mut self, domain: &DomainRef) -> Result<(), Refusal> {
        let same = |(uuid, name): (&DomainUuid, &DomainName)| *uuid == domain.uuid || *name == domain.name;
        if let Some((uuid, name)) = self.names.iter().find(|entry| same(*entry)) {
            return Err(Refusal::new(
                Layer::Lease,
                "start domain",
                &*domain.name.to_string(),
                format!("the domain {name} ({uuid}) runs already"),
                "stop it first, or give this one another name and uuid",
            )
            .held_by(*uuid));
        }
        self.names.insert(domain.uuid, domain.name.clone());
        Ok(())
    }

    /// Takes a uid.
    pub(super) fn uid(&mut self, domain: DomainUuid, role: UidRole, uid: u32) -> Result<(), Refusal> {
        if let Some((_, holder)) = self.uids.get(&uid) {
            return Err(self.in_use("lease uid", uid.to_string(), *holder));
        }
        self.uids.insert(uid, (role, domain));
        Ok(())
    }

    /// Takes a category pair.
    pub(super) fn pair(&mut self, domain: DomainUuid, pair: CategoryPair) -> Result<(), Refusal> {
        if let Some(holder) = self.holder_of(pair) {
            return Err(self.in_use("lease the categories", pair.to_string(), holder));
        }
        self.pairs.insert(pair, domain);
        Ok(())
    }

    /// Whoever has a pair in any way that keeps others from having it as their own.
    fn holder_of(&self, pair: CategoryPair) -> Option<DomainUuid> {
        let first = |holders: &Vec<DomainUuid>| holders.first().copied();
        self.pairs
            .get(&pair)
            .copied()
            .or_else(|| self.shares.get(&pair).and_then(|(_, holders)| first(holders)))
            .or_else(|| self.crossings.get(&pair).and_then(first))
    }

    /// Takes part in the pair of what several domains use.
    ///
    /// A domain that has two pairs dominates every pair of their categories, so from then on nobody may have
    /// one of those: neither for itself nor for anything shared.
    pub(super) fn share(
        &mut self,
        domain: DomainUuid,
        id: &ShareIdentity,
        pair: CategoryPair,
    ) -> Result<(), Refusal> {
        let operation = "share the categories";
        let other_pair = self.shares.iter().find(|(other, (shared, _))| shared == id && **other != pair);
        if let Some((_, (_, holders))) = other_pair {
            return Err(self.in_use(operation, pair.to_string(), holders.first().copied().unwrap_or(domain)));
        }
        if self.shares.get(&pair).is_none_or(|(shared, _)| shared != id)
            && let Some(holder) = self.holder_of(pair)
        {
            return Err(self.in_use(operation, pair.to_string(), holder));
        }
        let own = self.pairs.iter().filter(|(_, holder)| **holder == domain).map(|(pair, _)| *pair);
        let shared = self.shares.iter().filter(|(_, (_, holders))| holders.contains(&domain));
        let all: Vec<CategoryPair> = own.chain(shared.map(|(pair, _)| *pair)).chain([pair]).collect();
        let crossings = crossings(&all);
        let label_of = |pair: &CategoryPair| {
            let shared = self.shares.get(pair).and_then(|(_, holders)| holders.first().copied());
            self.pairs.get(pair).copied().or(shared)
        };
        if let Some((pair, holder)) = crossings.iter().find_map(|pair| Some((pair, label_of(pair)?))) {
            return Err(self.in_use(operation, pair.to_string(), holder));
        }
        self.shares.entry(pair).or_insert_with(|| (id.clone(), Vec::new())).1.push(domain);
        for crossing in crossings {
            let holders = self.crossings.entry(crossing).or_default();
            if !holders.contains(&domain) {
                holders.push(domain);
            }
        }
        Ok(())
    }

    /// Takes an object; `path` is for the message alone.
    pub(super) fn object(
        &mut self,
        domain: DomainUuid,
        id: ObjectId,
        hold: Hold,
        path: &str,
    ) -> Result<(), Refusal> {
        let held = self.objects.get(&id).map(Vec::as_slice).unwrap_or_default();
        let clash = held.iter().find(|(_, other)| !hold.tolerates(*other) || !other.tolerates(hold));
        if let Some((holder, other)) = clash {
            let how = match (other.access, other.sharing) {
                (Access::ReadWrite, Sharing::Exclusive) => "for itself, writing",
                (Access::ReadOnly, Sharing::Exclusive) => "for itself, reading",
                (Access::ReadWrite, _) => "writing",
                (Access::ReadOnly, _) => "reading",
            };
            let mut refusal = self.in_use("use the image", path.to_owned(), *holder);
            refusal.rule = format!("{}, {how}", refusal.rule);
            "stop that domain, or declare the disk <shareable/> or <readonly/> in both definitions"
                .clone_into(&mut refusal.remedy);
            return Err(refusal);
        }
        self.objects.entry(id).or_default().push((domain, hold));
        Ok(())
    }

    /// Takes part in a label. `before` counts only for the first domain. Returns what it was before all of them.
    pub(super) fn label(
        &mut self,
        domain: DomainUuid,
        id: ObjectId,
        before: Option<String>,
        wanted: &str,
        path: &str,
    ) -> Result<Option<String>, Refusal> {
        if let Some(lease) = self.labels.get_mut(&id) {
            if lease.wanted == wanted {
                lease.holders.push(domain);
                return Ok(lease.before.clone());
            }
            let other = lease.wanted.clone();
            let holder = lease.holders.first().copied().unwrap_or(domain);
            let mut refusal = self.in_use("label", path.to_owned(), holder);
            refusal.rule = format!("{} with the label {other}, not {wanted}", refusal.rule);
            return Err(refusal);
        }
        let lease = LabelLease { before: before.clone(), wanted: wanted.to_owned(), holders: vec![domain] };
        self.labels.insert(id, lease);
        Ok(before)
    }

    /// Gives a label back; true if no domain needs it any longer, so that it must be restored.
    pub(super) fn release_label(&mut self, domain: DomainUuid, id: ObjectId) -> bool {
        let Some(lease) = self.labels.get_mut(&id) else { return true };
        if let Some(at) = lease.holders.iter().position(|holder| *holder == domain) {
            lease.holders.swap_remove(at);
        }
        let free = lease.holders.is_empty();
        if free {
            self.labels.remove(&id);
        }
        free
    }

    /// The objects that a domain holds besides these; one that it holds twice is there twice.
    pub(super) fn since(&self, domain: DomainUuid, before: &[ObjectId]) -> Vec<ObjectId> {
        let all =
            self.objects.iter().flat_map(|(id, held)| held.iter().map(move |(holder, _)| (*id, *holder)));
        let mut held: Vec<ObjectId> = all.filter(|(_, holder)| *holder == domain).map(|(id, _)| id).collect();
        for id in before {
            if let Some(at) = held.iter().position(|other| other == id) {
                held.swap_remove(at);
            }
        }
        held
    }

    /// Gives a uid back that the domain has.
    pub(super) fn release_uid(&mut self, domain: DomainUuid, uid: u32) {
        if self.uids.get(&uid).is_some_and(|(_, holder)| *holder == domain) {
            self.uids.remove(&uid);
        }
    }

    /// Gives one object back.
    pub(super) fn release_object(&mut self, domain: DomainUuid, id: ObjectId) {
        let Some(held) = self.objects.get_mut(&id) else { return };
        if let Some(at) = held.iter().position(|(holder, _)| *holder == domain) {
            held.swap_remove(at);
        }
        if held.is_empty() {
            self.objects.remove(&id);
        }
    }

    /// Gives back everything that a domain holds.
    pub(super) fn release(&mut self, domain: DomainUuid) {
        self.names.remove(&domain);
        self.uids.retain(|_, (_, holder)| *holder != domain);
        self.pairs.retain(|_, holder| *holder != domain);
        self.shares.retain(|_, (_, holders)| {
            holders.retain(|holder| *holder != domain);
            !holders.is_empty()
        });
        self.crossings.retain(|_, holders| {
            holders.retain(|holder| *holder != domain);
            !holders.is_empty()
        });
        self.objects.retain(|_, held| {
            held.retain(|(holder, _)| *holder != domain);
            !held.is_empty()
        });
        self.labels.retain(|_, lease| {
            lease.holders.retain(|holder| *holder != domain);
            !lease.holders.is_empty()
        });
    }

    /// Leased uids.
    pub(super) fn uids(&self) -> Vec<(UidRole, u32)> {
        self.uids.iter().map(|(uid, (role, _))| (*role, *uid)).collect()
    }

    /// Whether a domain uses this object.
    pub(super) fn is_used(&self, id: ObjectId) -> bool {
        self.objects.contains_key(&id)
    }

    /// Whether another domain uses this object.
    pub(super) fn is_used_by_others(&self, domain: DomainUuid, id: ObjectId) -> bool {
        self.objects.get(&id).is_some_and(|held| held.iter().any(|(holder, _)| *holder != domain))
    }

    /// The refusal where a domain uses an object that is about to be changed or removed.
    pub(super) fn unused(&self, id: ObjectId, operation: &str, path: &str) -> Result<(), Refusal> {
        match self.objects.get(&id).and_then(|holders| holders.first()) {
            Some((holder, _)) => {
                let mut refusal = self.in_use(operation, path.to_owned(), *holder);
                "stop that domain first".clone_into(&mut refusal.remedy);
                Err(refusal)
            }
            None => Ok(()),
        }
    }

    /// Leased pairs.
    pub(super) fn pairs(&self) -> Vec<CategoryPair> {
        self.pairs.keys().copied().collect()
    }

    /// What several domains use, each with its pair.
    pub(super) fn shares(&self) -> Vec<(ShareIdentity, CategoryPair)> {
        self.shares.iter().map(|(pair, (id, _))| (id.clone(), *pair)).collect()
    }

    /// Pairs that nobody may have.
    pub(super) fn crossings(&self) -> Vec<CategoryPair> {
        self.crossings.keys().copied().collect()
    }

    fn in_use(&self, operation: &str, object: String, holder: DomainUuid) -> Refusal {
        let name = self.names.get(&holder).map_or_else(|| holder.to_string(), ToString::to_string);
        Refusal::new(
            Layer::Lease,
            operation,
            object,
            format!("in use by domain {name}"),
            "stop that domain, or plan again so that free numbers are drawn",
        )
        .held_by(holder)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::privsep::op::FileIdentity;
    use proptest::prelude::*;

    fn uuid(n: u128) -> DomainUuid {
        DomainUuid(uuid::Uuid::from_u128(n))
    }

    fn domain(n: u128) -> DomainRef {
        DomainRef { name: DomainName::new(format!("vm{n}")).unwrap(), uuid: uuid(n) }
    }

    #[test]
    fn what_is_in_use_is_refused_by_its_holders_name() {
        let mut leases = Leases::default();
        leases.domain(&domain(1)).unwrap();
        leases.domain(&domain(2)).unwrap();
        assert!(leases.domain(&domain(1)).is_err());
        leases.uid(uuid(1), UidRole::Domain, 5).unwrap();
        let refusal = leases.uid(uuid(2), UidRole::Helper, 5).unwrap_err();
        assert_eq!((refusal.layer, refusal.rule.as_str()), (Layer::Lease, "in use by domain vm1"));
        assert_eq!(refusal.holder.as_deref(), Some(&uuid(1)));
        let hidden = refusal.without_holder();
        assert!(hidden.holder.is_none() && !hidden.to_string().contains("vm1"), "{hidden}");
        let pair = CategoryPair::new(1, 2).unwrap();
        leases.pair(uuid(1), pair).unwrap();
        assert!(leases.pair(uuid(2), pair).is_err());
        leases.release(uuid(1));
        leases.pair(uuid(2), pair).unwrap();
        leases.uid(uuid(2), UidRole::Helper, 5).unwrap();
        assert_eq!(leases.domains(), 1);
    }

    #[test]
    fn what_a_sharing_domain_dominates_is_nobodys() {
        let pair = |a, b| CategoryPair::new(a, b).unwrap();
        let image = |inode| ShareIdentity::Object(FileIdentity { device: 1, inode });
        let mut leases = Leases::default();
        leases.pair(uuid(1), pair(1, 2)).unwrap();
        leases.share(uuid(1), &image(7), pair(8, 9)).unwrap();
        leases.pair(uuid(2), pair(3, 4)).unwrap();
        leases.share(uuid(2), &image(7), pair(8, 9)).unwrap();
        assert_eq!(leases.shares(), [(image(7), pair(8, 9))]);
        for (a, b) in [(1, 2), (8, 9), (1, 8), (2, 9), (3, 8)] {
            assert!(leases.pair(uuid(3), pair(a, b)).is_err(), "{a} {b}");
            assert!(leases.share(uuid(3), &image(8), pair(a, b)).is_err(), "{a} {b}");
        }
        assert!(leases.share(uuid(3), &image(7), pair(10, 11)).is_err(), "one image, one pair");
        // A share whose crossing is somebody's own is refused, whoever came first.
        leases.pair(uuid(4), pair(5, 20)).unwrap();
        leases.pair(uuid(3), pair(5, 6)).unwrap();
        assert!(leases.share(uuid(3), &image(9), pair(20, 21)).is_err());
        leases.release(uuid(1));
        leases.pair(uuid(5), pair(1, 8)).unwrap();
        assert!(leases.pair(uuid(6), pair(3, 8)).is_err(), "domain 2 shares still");
        leases.release(uuid(2));
        assert!(leases.shares().is_empty() && leases.crossings().is_empty());
    }

    #[test]
    fn a_shared_label_is_restored_by_the_last() {
        let mut leases = Leases::default();
        let before = Some("x".to_owned());
        assert_eq!(leases.label(uuid(1), (1, 1), before.clone(), "c", "/i").unwrap(), before);
        assert_eq!(leases.label(uuid(2), (1, 1), Some("c".into()), "c", "/i").unwrap(), before);
        assert!(leases.label(uuid(3), (1, 1), Some("c".into()), "d", "/i").is_err());
        assert!(!leases.release_label(uuid(1), (1, 1)));
        assert!(leases.release_label(uuid(2), (1, 1)));
        assert!(leases.labels.is_empty());
    }

    fn hold() -> impl Strategy<Value = Hold> {
        let access = prop_oneof![Just(Access::ReadOnly), Just(Access::ReadWrite)];
        let sharing = prop_oneof![Just(Sharing::Exclusive), Just(Sharing::Readers), Just(Sharing::Writers)];
        (access, sharing).prop_map(|(access, sharing)| Hold { access, sharing })
    }

    proptest! {
        #[test]
        fn no_two_holders_ever_clash(asked in prop::collection::vec((0_u128..4, 0_u64..3, hold()), 0..40)) {
            let mut leases = Leases::default();
            for (who, object, hold) in asked {
                let before = leases.objects.clone();
                if leases.object(uuid(who), (1, object), hold, "/x").is_err() {
                    prop_assert_eq!(&before, &leases.objects);
                }
                for held in leases.objects.values() {
                    for (i, (_, one)) in held.iter().enumerate() {
                        for (_, other) in held.iter().skip(i + 1) {
                            prop_assert!(one.sharing != Sharing::Exclusive && other.sharing != Sharing::Exclusive);
                            let written = one.access == Access::ReadWrite && other.sharing == Sharing::Readers;
                            prop_assert!(!written);
                        }
                    }
                }
            }
        }

        #[test]
        fn release_gives_back_exactly_ones_own(asked in prop::collection::vec((0_u128..3, 0_u32..9), 0..30)) {
            let mut leases = Leases::default();
            let mut model = BTreeMap::new();
            for (who, uid) in asked {
                if leases.uid(uuid(who), UidRole::Domain, uid).is_ok() {
                    model.insert(uid, who);
                }
            }
            leases.release(uuid(1));
            model.retain(|_, who| *who != 1);
            prop_assert_eq!(leases.uids().len(), model.len());
        }
    }
}
