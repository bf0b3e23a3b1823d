//! Giving up root for good, before anything is parsed that somebody else wrote.

use crate::base::{Layer, Refusal};
use crate::filter::own;
use crate::settings::Settings;
use crate::sys::{cred, landlock, seccomp};

/// Whether this process may talk to the labeller at all.
#[must_use]
pub(super) fn is_root() -> bool {
    cred::effective_uid() == 0
}

/// Becomes the front end's user: no group, no capability, no file, no TCP port, nothing that exec gives back,
/// no process of its own (`labels/seccomp/svirt-frontend.toml`).
///
/// The connections and files that are open stay usable; sockets are still reached by path, because Landlock does
/// not (up to ABI 7) cover unix sockets in the file system.
pub(super) fn drop_all(settings: &Settings) -> Result<(), Refusal> {
    let refused = |operation: &str, error: std::io::Error| {
        Refusal::new(
            Layer::Capability,
            operation,
            "of svirt itself",
            error.to_string(),
            "svirt parses nothing with privilege; run it where it may give its own up",
        )
    };
    let uid = settings.uids.frontend;
    cred::drop_bounding().map_err(|error| refused("empty the bounding set", error))?;
    cred::set_ids(uid, uid, &[]).map_err(|error| refused("change the user", error))?;
    cred::clear_capabilities().map_err(|error| refused("empty the capability sets", error))?;
    cred::set_no_new_privs().map_err(|error| refused("set no_new_privs", error))?;
    landlock::restrict_to_nothing().map_err(|error| refused("restrict the file accesses", error))?;
    let filter = own::frontend().map_err(|error| refused("make the filter", std::io::Error::other(error)))?;
    let program: Vec<_> = filter.0.iter().map(|i| (i.0, i.1, i.2, i.3)).collect();
    seccomp::load(&program).map_err(|error| refused("load the filter", error))
}
