//! The AppArmor profile of a device model: a fixed template, what a plan may add to it, and its text.
//!
//! No path of a definition is in it. Images, taps and sockets are descriptors that the labeller opened, and the
//! kernel takes what an unconfined process opened as given; so the profile need not name a file that may be
//! written, and no name of a file or a domain can add a rule. Whoever makes a plan chooses from a closed list.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::base::DomainUuid;

/// The template.
const TEMPLATE: &str = include_str!("../../labels/apparmor/device-model.toml");

/// What one domain's profile says beyond the template.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProfileRule {
    /// Connections of a VNC or SPICE server are handed in; they are the supervisor's sockets.
    HandedInTcp,
    /// It opens `/dev/kvm`.
    Kvm,
}

impl ProfileRule {
    /// What it admits, in a few words.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::HandedInTcp => "TCP handed in",
            Self::Kvm => "/dev/kvm",
        }
    }

    fn texts(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::HandedInTcp => &[
                ("network inet stream,", "display connections that the supervisor accepts and hands in"),
                ("network inet6 stream,", "the same"),
            ],
            Self::Kvm => &[("/dev/kvm rw,", "hardware virtualisation")],
        }
    }
}

/// One rule of the template.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TemplateRule {
    /// The rule as AppArmor reads it.
    pub text: String,
    /// Why it is there.
    pub reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Template {
    rule: Vec<TemplateRule>,
}

/// The shipped template; an error is a defect that a test keeps from happening.
pub fn template() -> Result<Vec<TemplateRule>, toml::de::Error> {
    toml::from_str::<Template>(TEMPLATE).map(|template| template.rule)
}

/// The name of a domain's profile. It holds the uuid and nothing that a definition could choose.
#[must_use]
pub fn profile_name(uuid: DomainUuid) -> String {
    format!("svirt-{uuid}")
}

/// The text of a domain's profile.
pub fn render(uuid: DomainUuid, rules: &[ProfileRule]) -> Result<String, toml::de::Error> {
    let name = profile_name(uuid);
    // Descriptors from outside of its mount namespace have names that lead nowhere there.
    let mut text = format!("# {name}, made by svirt.\nprofile {name} flags=(attach_disconnected) {{\n");
    let mut put = |rule: &str, reason: &str| {
        // Writing to a String cannot fail.
        let _infallible = writeln!(text, "  # {reason}\n  {rule}");
    };
    for rule in template()? {
        put(&rule.text, &rule.reason);
    }
    for (rule, reason) in rules.iter().flat_map(|rule| rule.texts()) {
        put(rule, reason);
    }
    text.push_str("}\n");
    Ok(text)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_of_the_template_has_a_reason_and_is_one_rule() {
        let rules = template().unwrap();
        assert!(rules.len() > 10);
        for rule in rules {
            assert!(!rule.reason.is_empty() && !rule.reason.contains('\n'), "{rule:?}");
            assert!(rule.text.ends_with(',') && !rule.text.contains(['\n', '#']), "{rule:?}");
            // Nothing is executed, and only /dev/null may be written.
            let access = rule.text.trim_end_matches(',').rsplit(' ').next().unwrap();
            let file = rule.text.starts_with('/');
            assert!(!file || !access.contains(['x', 'a', 'l']), "{rule:?}");
            assert!(!file || !access.contains('w') || rule.text.starts_with("/dev/null "), "{rule:?}");
        }
    }
}
