//! What an object's label was before anybody set one, written on the object itself in libvirt's form, so that
//! libvirt and svirt on one host give it back together: the last of them restores.
//!
//! Pure: what is read and what is to be written are values. libvirt counts each of its users; svirt is one user,
//! however many of its domains there are, and a mark of its own says whether it is counted. The mark is set
//! after the count and removed before it, so that whatever is interrupted counts svirt once too often and never
//! once too little: a label may stay, libvirt's memory is never lost.

/// How far two readings of the boot time of one boot may be apart, in seconds: the clock is set meanwhile.
const SAME_BOOT: u64 = 60;

/// The attributes of an object as they are written there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Attributes {
    /// `trusted.libvirt.security.selinux`: the context that was there first.
    pub(super) label: Option<String>,
    /// `trusted.libvirt.security.ref_selinux`: how many users there are, in decimal.
    pub(super) count: Option<String>,
    /// `trusted.libvirt.security.timestamp_selinux`: when the host booted, in seconds of Unix time.
    pub(super) boot: Option<String>,
    /// `trusted.svirt.security.selinux`: `1` where svirt is one of the users.
    pub(super) mark: Option<String>,
}

/// What the attributes say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Memory {
    /// Nobody has set a label since the host booted.
    Nothing,
    /// Users of this boot.
    Users {
        /// What the label was before the first one; absent where the object had none.
        label: Option<String>,
        /// How many, never 0.
        count: u32,
        /// Whether svirt is among them.
        ours: bool,
    },
}

/// What giving back leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Back {
    /// Others use the object under this label still.
    Keep,
    /// svirt was the last one: this is what the label was, as far as the object itself tells.
    Restore(Option<Option<String>>),
}

impl Attributes {
    /// What they say on a host that booted at `boot`. What does not fit together, or is of an earlier boot,
    /// is nothing: libvirt throws it away, too.
    pub(super) fn read(&self, boot: u64) -> Memory {
        let number = |text: &str| {
            let digits = !text.is_empty() && text.len() <= 20 && text.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| text.parse::<u64>().ok()).flatten()
        };
        let count = self.count.as_deref().and_then(number).and_then(|count| u32::try_from(count).ok());
        let then = self.boot.as_deref().and_then(number);
        match (count.filter(|count| *count > 0), then) {
            (Some(count), Some(then)) if then.abs_diff(boot) <= SAME_BOOT => Memory::Users {
                label: self.label.clone().filter(|label| !label.is_empty()),
                count,
                ours: self.mark.as_deref() == Some("1"),
            },
            _ => Memory::Nothing,
        }
    }

    /// With svirt as one more user, unless it is one already. `now` is the label before svirt sets its own.
    pub(super) fn take(&self, boot: u64, now: Option<&str>) -> Self {
        match self.read(boot) {
            Memory::Users { ours: true, .. } => self.clone(),
            Memory::Users { count, .. } => Self {
                count: Some(count.saturating_add(1).to_string()),
                mark: Some("1".into()),
                ..self.clone()
            },
            Memory::Nothing => Self {
                label: Some(now.unwrap_or_default().to_owned()),
                count: Some("1".into()),
                boot: Some(boot.to_string()),
                mark: Some("1".into()),
            },
        }
    }

    /// Without svirt. `alone` says that svirt wrote down to be the first user and never came to set its mark.
    pub(super) fn give_back(&self, boot: u64, alone: bool) -> (Self, Back) {
        match self.read(boot) {
            Memory::Nothing => (Self::default(), Back::Restore(None)),
            Memory::Users { count: 1, ours: true, label } => (Self::default(), Back::Restore(Some(label))),
            Memory::Users { count: 1, ours: false, label } if alone => {
                (Self::default(), Back::Restore(Some(label)))
            }
            Memory::Users { count, ours: true, .. } => {
                let count = Some(count.saturating_sub(1).to_string());
                (Self { count, mark: None, ..self.clone() }, Back::Keep)
            }
            Memory::Users { ours: false, .. } => (self.clone(), Back::Keep),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOOT: u64 = 1_760_000_000;

    /// An object, and libvirt's part of the rules as they stand in its manual and source.
    #[derive(Clone, Debug, Default)]
    struct Object {
        label: Option<String>,
        attributes: Attributes,
    }

    impl Object {
        fn libvirt_sets(&mut self, wanted: &str) -> bool {
            let attributes = &mut self.attributes;
            let count: u32 = attributes.count.as_ref().map_or(0, |text| text.parse().unwrap());
            if count > 0 && self.label.as_deref() != Some(wanted) {
                return false;
            }
            if count == 0 {
                attributes.label = Some(self.label.clone().unwrap_or_default());
                attributes.boot = Some(BOOT.to_string());
            }
            attributes.count = Some((count + 1).to_string());
            self.label = Some(wanted.into());
            true
        }

        fn libvirt_restores(&mut self) {
            let Some(count) = self.attributes.count.as_ref() else { return };
            let count: u32 = count.parse().unwrap();
            if count > 1 {
                self.attributes.count = Some((count - 1).to_string());
                return;
            }
            self.label = self.attributes.label.take();
            // It knows nothing of svirt's mark.
            (self.attributes.count, self.attributes.boot) = (None, None);
        }

        fn svirt_sets(&mut self, wanted: &str) -> bool {
            if let Memory::Users { .. } = self.attributes.read(BOOT)
                && self.label.as_deref() != Some(wanted)
            {
                return false;
            }
            self.attributes = self.attributes.take(BOOT, self.label.as_deref());
            self.label = Some(wanted.into());
            true
        }

        fn svirt_restores(&mut self) {
            let (attributes, back) = self.attributes.give_back(BOOT, false);
            self.attributes = attributes;
            if let Back::Restore(Some(label)) = back {
                self.label = label;
            }
        }
    }

    proptest! {
        #[test]
        fn the_last_user_brings_back_what_was_there_first(
            steps in prop::collection::vec((any::<bool>(), any::<bool>(), any::<bool>()), 0..40),
        ) {
            let mut object = Object { label: Some("a:b:first_t:s0".into()), ..Object::default() };
            // libvirt's users, and svirt's domains, whose lease table lets the first set and the last restore.
            let (mut theirs, mut ours) = (0_u32, 0_u32);
            for (set, by_libvirt, other) in steps {
                let wanted = if other { "a:b:other_t:s0" } else { "a:b:wanted_t:s0" };
                match (set, by_libvirt) {
                    (true, true) => theirs += u32::from(object.libvirt_sets(wanted)),
                    (true, false) if ours > 0 => ours += u32::from(object.label.as_deref() == Some(wanted)),
                    (true, false) => ours += u32::from(object.svirt_sets(wanted)),
                    (false, true) if theirs > 0 => {
                        object.libvirt_restores();
                        theirs -= 1;
                    }
                    (false, false) if ours > 0 => {
                        ours -= 1;
                        if ours == 0 {
                            object.svirt_restores();
                        }
                    }
                    _ => {}
                }
                let users = theirs + u32::from(ours > 0);
                let count = object.attributes.count.as_ref().map_or(0, |text| text.parse().unwrap());
                prop_assert_eq!(count, users);
                prop_assert_eq!(object.label.as_deref() == Some("a:b:first_t:s0"), users == 0);
            }
        }

        #[test]
        fn nothing_that_stands_there_panics(
            label in proptest::option::of("\\PC{0,20}"), count in proptest::option::of("\\PC{0,30}"),
            boot in proptest::option::of("[0-9+-]{0,30}"), mark in proptest::option::of("\\PC{0,3}"),
        ) {
            let attributes = Attributes { label, count, boot, mark };
            let taken = attributes.take(BOOT, Some("x"));
            let counted = matches!(taken.read(BOOT), Memory::Users { ours: true, .. });
            prop_assert!(counted);
            prop_assert_eq!(taken.take(BOOT, Some("y")), taken.clone(), "svirt is one user");
        }
    }

    fn users(count: &str, boot: u64) -> Attributes {
        Attributes {
            label: Some("l".into()),
            count: Some(count.into()),
            boot: Some(boot.to_string()),
            mark: None,
        }
    }

    #[test]
    fn another_boot_and_nonsense_are_nothing() {
        assert_eq!(users("2", BOOT - 3600).read(BOOT), Memory::Nothing);
        for count in ["0", "", "-1", "+1", "1x", "99999999999"] {
            assert_eq!(users(count, BOOT).read(BOOT), Memory::Nothing, "{count}");
        }
        assert_eq!(Attributes { boot: None, ..users("1", BOOT) }.read(BOOT), Memory::Nothing);
        let Memory::Users { count: 2, ours: false, .. } = users("2", BOOT + 1).read(BOOT) else { panic!() };
    }

    #[test]
    fn an_interruption_counts_once_too_often_and_never_too_little() {
        // The count was written and the mark was not: only who wrote down to be the first may take it back.
        assert_eq!(users("1", BOOT).give_back(BOOT, true).1, Back::Restore(Some(Some("l".into()))));
        assert_eq!(users("1", BOOT).give_back(BOOT, false).1, Back::Keep);
        assert_eq!(users("2", BOOT).give_back(BOOT, true), (users("2", BOOT), Back::Keep));
        // The mark was removed and the count was not: done again, libvirt's own user stays.
        let (left, back) = users("1", BOOT).give_back(BOOT, false);
        assert_eq!((left, back), (users("1", BOOT), Back::Keep));
    }

    #[test]
    fn what_is_written_is_libvirts_form() {
        let taken = Attributes::default().take(BOOT, Some("system_u:object_r:etc_t:s0"));
        assert_eq!(taken.label.as_deref(), Some("system_u:object_r:etc_t:s0"));
        assert_eq!((taken.count.as_deref(), taken.boot.as_deref()), (Some("1"), Some("1760000000")));
        assert_eq!(users("1", BOOT).take(BOOT, Some("x")).count.as_deref(), Some("2"));
        assert_eq!(users("1", BOOT).take(BOOT, Some("x")).label.as_deref(), Some("l"), "the first one stays");
    }
}
