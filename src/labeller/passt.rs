//! How passt is started: one channel to QEMU, no ports open on the host, no way to the host's own services unless
//! the configuration gives it. passt itself then moves into an empty root under a filter of its own.

/// The descriptor of the channel in passt.
pub(super) const CHANNEL: i32 = 3;

/// passt's arguments.
pub(super) fn argv(host_loopback: bool) -> Vec<String> {
    let mut argv: Vec<String> = ["passt", "--foreground", "--quiet", "--fd"].map(ToOwned::to_owned).into();
    argv.push(CHANNEL.to_string());
    // No port of the host leads into the guest; later versions of passt may have other defaults.
    argv.extend(["--tcp-ports", "none", "--udp-ports", "none"].map(ToOwned::to_owned));
    if !host_loopback {
        // By default passt makes the gateway's address lead to the host's loopback, where services trust
        // whoever reaches them.
        argv.push("--no-map-gw".to_owned());
    }
    argv
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_own_services_are_out_of_reach_by_default() {
        assert!(argv(false).contains(&"--no-map-gw".to_owned()));
        assert!(!argv(true).contains(&"--no-map-gw".to_owned()));
    }
}
