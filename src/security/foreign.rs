//! What each model would do with what a device uses that this version does not run. No start asks.

use super::LabelError;
use super::dac::no_owner;
use super::decide::{Action, Decision};
use super::resource::Foreign;
use super::selinux::Labels;
use crate::conf::domain::BeyondWay;
use crate::settings::Selinux;

const MISPLACED: &str =
    "it lies in none of the places of images.relabelable, and of images.readable only what is read";
const NOTHING: &str = "it needs nothing of the host";

/// SELinux.
pub(super) fn selinux(
    labels: &Labels,
    foreign: &Foreign,
    line: u32,
    types: &Selinux,
) -> Result<Decision, LabelError> {
    if foreign.is_misplaced() {
        return Ok(Decision::nothing(Action::Refused, MISPLACED));
    }
    let reason = match foreign.way {
        BeyondWay::Descriptor | BeyondWay::File => return labels.image(&foreign.image, line, types),
        BeyondWay::Node => {
            let mut decision = labels.image(&foreign.image, line, types)?;
            if decision.action == Action::Set {
                // There is nothing to remember of what is made for this domain.
                decision.remember = false;
                decision.reason = format!("{}; a node of its own root, which goes with it", decision.reason);
            }
            return Ok(decision);
        }
        BeyondWay::Refused(reason) => return Ok(Decision::nothing(Action::Refused, reason)),
        BeyondWay::Connected => "the server has a label of its own; the labeller connects to it",
        BeyondWay::Handed => {
            "every domain may have one; the policy lets device models use what the labeller opened"
        }
        BeyondWay::Public => {
            "every domain that names it may open it, and a domain's own label would shut the others out"
        }
        BeyondWay::Network => "no file of the host; what may be reached is the network's to say",
        BeyondWay::Nothing => NOTHING,
        BeyondWay::Supervisor => "the supervisor has it; the device model has one connected socket",
    };
    Ok(Decision::nothing(Action::Never, reason))
}

/// AppArmor.
pub(super) fn apparmor(foreign: &Foreign) -> Decision {
    let nothing = Decision::nothing;
    let node = |reason| Decision::given(Action::Rule, "/svirt/dev/* rw,", reason);
    match foreign.way {
        _ if foreign.is_misplaced() => nothing(Action::Refused, MISPLACED),
        BeyondWay::Node => node("a node of its own root, made for the one device"),
        BeyondWay::Public => node("a node of its own root; every domain that names the device has one"),
        BeyondWay::File if foreign.image.writable => Decision::given(
            Action::Rule,
            "/svirt/file/* rw,",
            "mounted there, alone, from a descriptor of the labeller's",
        ),
        BeyondWay::File => Decision::given(
            Action::Rule,
            "/svirt/* r,",
            "mounted there, alone and read-only, from a descriptor of the labeller's",
        ),
        BeyondWay::Descriptor | BeyondWay::Handed => {
            nothing(Action::Handed, "opened by the labeller; no rule of the profile names it")
        }
        BeyondWay::Connected | BeyondWay::Network => {
            nothing(Action::Handed, "the profile admits sockets that are connected already")
        }
        BeyondWay::Nothing => nothing(Action::Never, NOTHING),
        BeyondWay::Supervisor => {
            nothing(Action::Never, "the supervisor has it; no rule of the device model's profile names it")
        }
        BeyondWay::Refused(reason) => nothing(Action::Refused, reason),
    }
}

/// Owners.
pub(super) fn dac(foreign: &Foreign, line: u32) -> Result<Decision, LabelError> {
    no_owner(&foreign.image, line)?;
    let nothing = |action, reason: &str| Ok(Decision::nothing(action, reason));
    match foreign.way {
        _ if foreign.is_misplaced() => nothing(Action::Refused, MISPLACED),
        BeyondWay::Descriptor | BeyondWay::Handed => {
            nothing(Action::Handed, "opened by the labeller, whoever owns it")
        }
        BeyondWay::File => nothing(
            Action::Handed,
            "mounted alone with its owner shown as the device model; none on the disk changes",
        ),
        BeyondWay::Node | BeyondWay::Public => nothing(
            Action::Handed,
            "a node of its own root belongs to the device model; the host's keeps its owner",
        ),
        BeyondWay::Connected => nothing(Action::Handed, "connected by the labeller, whoever may connect"),
        BeyondWay::Network => nothing(Action::Never, "no file of the host"),
        BeyondWay::Nothing => nothing(Action::Never, NOTHING),
        BeyondWay::Supervisor => nothing(Action::Never, "handed to the supervisor open; its owner stays"),
        BeyondWay::Refused(reason) => nothing(Action::Refused, reason),
    }
}
