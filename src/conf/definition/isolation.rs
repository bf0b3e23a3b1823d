//! What must never be dropped silently: names whose loss leaves a domain isolated less than its definition asks.

/// Elements and attributes, and what is lost with them. Compared without case, `-` and `_`.
const GUARDS: &[(&str, &str)] = &[
    ("accessmode", "the guest could set owners and modes on the host"),
    ("baselabel", "the domain would run with another label"),
    ("blkiotune", "the guest could take all of the host's disk time"),
    ("cachetune", "the guest would share its processor cache"),
    ("capabilities", "the device model would keep what it was to lose"),
    ("cputune", "the guest could take all of the host's processors"),
    ("dumpCore", "the guest's memory would stand in core dumps"),
    ("encryption", "the image would be written in clear"),
    ("filterref", "the guest's traffic would not be filtered"),
    ("imagelabel", "the images would have another label"),
    ("iommu", "devices could reach all of the guest's memory"),
    ("iotune", "the guest could take all of the host's disk time"),
    ("isolated", "the guest would reach its neighbours on the bridge"),
    ("label", "the resource would have another label"),
    ("launchSecurity", "the host could read the guest's memory"),
    ("listen", "the display could be reached from elsewhere"),
    ("memtune", "the guest could take all of the host's memory"),
    ("nosharepages", "other guests could learn of this guest's memory"),
    ("passwd", "the display would need no password"),
    ("passwdValidTo", "the display's password would be good for ever"),
    ("readonly", "the guest could write what it may only read"),
    ("relabel", "files would be labelled that were to stay as they are"),
    ("resource", "the domain would stand in another cgroup"),
    ("sandbox", "the file system's helper would see the host's tree"),
    ("seclabel", "the domain would run with another label"),
    ("secure", "the firmware could be changed by the guest"),
    ("sgio", "the guest could send any command to the disk"),
    ("shareable", "two domains could spoil each other's image"),
    ("smm", "the guest could change its own firmware's variables"),
    ("stateless", "the firmware would keep state that it was not to keep"),
    ("tls", "the connection would not be encrypted"),
    ("transient", "the guest's changes would stay in the image"),
    ("trustGuestRxFilters", "the guest would decide what its card hears"),
    ("vlan", "the guest would stand in another network"),
    ("writeFiltering", "the guest could write all of the device's configuration"),
];

/// Elements in which everything counts.
const GUARDED: &[&str] = &["seclabel", "launchSecurity", "iommu", "filterref", "sandbox"];

/// What would be lost if `name` in an element of that name were dropped, or nothing.
///
/// A name that differs from a guard by one letter, by case or by a hyphen counts as the guard itself: whoever wrote
/// `<read-only/>` meant it.
pub(super) fn loss(parent: &str, name: &str) -> Option<&'static str> {
    let inside = GUARDED.iter().find(|guarded| **guarded == parent);
    let wanted = inside.map_or_else(|| plain(name), |guarded| plain(guarded));
    GUARDS.iter().find(|(guard, _)| near(&plain(guard), &wanted)).map(|(_, loss)| *loss)
}

fn plain(name: &str) -> String {
    name.chars().filter(|c| !matches!(c, '-' | '_')).flat_map(char::to_lowercase).collect()
}

/// Short words are too close to one another for a slip to be told from another word.
fn near(guard: &str, name: &str) -> bool {
    guard == name || (guard.len() >= 5 && name.len() <= 64 && strsim::damerau_levenshtein(guard, name) == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_count_as_what_was_meant() {
        for name in ["readonly", "readOnly", "read-only", "raedonly", "readonyl", "READONLY"] {
            assert!(loss("disk", name).is_some(), "{name}");
        }
        assert!(loss("seclabel", "whatever").is_some());
        assert!(loss("disk", "flavour").is_none());
        assert!(loss("disk", "tsl").is_none());
    }
}
