//! The AppArmor profiles of a device model, its supervisor and its helpers: a fixed template each, what a plan may add
//! to the device model's, and their text.
//!
//! No path of a definition is in it. Images, taps and sockets are descriptors that the labeller opened, and the
//! kernel takes what an unconfined process opened as given; so the profile need not name a file that may be
//! written, and no name of a file or a domain can add a rule. Whoever makes a plan chooses from a closed list.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::base::DomainUuid;

/// The template.
const TEMPLATE: &str = include_str!("../../labels/apparmor/device-model.toml");

/// Memory of several guests, by its names in the root of a device model.
const SHMEM: &str = "/svirt/shmem[0-7] rw,";

/// What one domain's profile says beyond the template.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProfileRule {
    /// Connections of a VNC or SPICE server are handed in; they are the supervisor's sockets.
    HandedInTcp,
    /// It opens `/dev/kvm`.
    Kvm,
    /// It serves directories over 9p.
    Shares,
    /// Its guest shares memory with others.
    Shmem,
}

impl ProfileRule {
    /// What it admits, in a few words.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::HandedInTcp => "TCP handed in",
            Self::Kvm => "/dev/kvm",
            Self::Shares => "shared directories",
            Self::Shmem => "shared memory",
        }
    }

    fn texts(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::HandedInTcp => &[
                ("network inet stream,", "display connections that the supervisor accepts and hands in"),
                ("network inet6 stream,", "the same"),
            ],
            Self::Kvm => &[("/dev/kvm rw,", "hardware virtualisation")],
            Self::Shmem => &[(SHMEM, "memory of several guests; each is a mount of its own")],
            Self::Shares => &[
                (
                    "/svirt/fs/{,**} rwlk,",
                    "directories that the guest mounts over 9p; each is a mount of its own",
                ),
                ("/proc/** r,", "QEMU names what it has open in them through its own /proc/self/fd"),
            ],
        }
    }
}

/// A process beside the device model, with a profile of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProfilePart {
    /// The user network.
    Passt,
    /// The supervisor.
    Supervisor,
    /// The TPM emulator.
    Swtpm,
    /// The server of a shared directory.
    Virtiofsd,
}

impl ProfilePart {
    /// All.
    pub const ALL: [Self; 4] = [Self::Passt, Self::Supervisor, Self::Swtpm, Self::Virtiofsd];

    fn word(self) -> &'static str {
        match self {
            Self::Passt => "passt",
            Self::Supervisor => "supervisor",
            Self::Swtpm => "swtpm",
            Self::Virtiofsd => "virtiofsd",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Passt => include_str!("../../labels/apparmor/passt.toml"),
            Self::Supervisor => include_str!("../../labels/apparmor/supervisor.toml"),
            Self::Swtpm => include_str!("../../labels/apparmor/swtpm.toml"),
            Self::Virtiofsd => include_str!("../../labels/apparmor/virtiofsd.toml"),
        }
    }

    /// The shipped template.
    pub fn template(self) -> Result<Vec<TemplateRule>, toml::de::Error> {
        toml::from_str::<Template>(self.text()).map(|template| template.rule)
    }
}

/// Why a profile has no text.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// A path of the configuration would be a pattern, or more than one word.
    #[error("the path {0:?} of the configuration has other characters than letters, digits and / . _ - +")]
    Path(String),
    /// A shipped template is wrong.
    #[error(transparent)]
    Template(#[from] toml::de::Error),
}

/// The name of the profile of a process beside the device model.
#[must_use]
pub fn part_name(uuid: DomainUuid, part: ProfilePart) -> String {
    format!("{}-{}", profile_name(uuid), part.word())
}

/// The text of the profile of a process beside the device model, whose own profile has `rules`. `programs` are what it
/// executes, `states` the directory of TPMs' states; both are the labeller's configuration, and no text of a definition
/// comes here. `userns` says whether the kernel asks profiles for new user namespaces; compilers before AppArmor 4 know no such rule.
pub fn render_part(
    uuid: DomainUuid,
    part: ProfilePart,
    rules: &[ProfileRule],
    programs: &[String],
    states: &str,
    userns: bool,
) -> Result<String, RenderError> {
    let mut own = Vec::new();
    for program in programs {
        own.push((format!("{} mr,", literal(program)?), "its own program, mapped at exec"));
    }
    match part {
        ProfilePart::Passt => {
            let reason = "it would execute a build for newer CPUs, and does without: nothing here executes";
            own.extend(programs.iter().map(|program| (format!("deny {program}.avx2 x,"), reason)));
            if userns {
                own.push(("userns create,".to_owned(), "the namespaces in which it empties its own root"));
            }
        }
        ProfilePart::Supervisor => {
            own.push((format!("signal (send) peer={},", profile_name(uuid)), "it ends its device model"));
        }
        ProfilePart::Swtpm => {
            let states = literal(states.trim_end_matches('/'))?;
            let text = format!("\"{states}/{{{uuid}.tpm[12],#[0-9]*}}\" rwk,");
            own.push((
                text,
                "its state, opened anew by its descriptor; one that is new has no name but a number",
            ));
        }
        ProfilePart::Virtiofsd => {
            own.push(("/svirt/share/{,**} rwlk,".into(), "the one directory, a mount of its own"));
            // The device model opened it, and the kernel asks again whoever takes over what a confined process has opened.
            // A refusal would take the server's whole memory map away.
            if rules.contains(&ProfileRule::Shmem) {
                let reason =
                    "memory of the guest, which the device model hands over open; its root has no such file";
                own.push((SHMEM.into(), reason));
            }
        }
    }
    let name = part_name(uuid, part);
    let mut text =
        format!("# {name}, made by svirt.\nprofile {name} flags=(attach_disconnected,mediate_deleted) {{\n");
    let shipped = part.template()?;
    let rules = shipped.iter().map(|rule| (rule.text.as_str(), rule.reason.as_str()));
    for (rule, reason) in rules.chain(own.iter().map(|(rule, reason)| (rule.as_str(), *reason))) {
        // Writing to a String cannot fail.
        let _infallible = writeln!(text, "  # {reason}\n  {rule}");
    }
    text.push_str("}\n");
    Ok(text)
}

/// A path that is no pattern.
fn literal(path: &str) -> Result<&str, RenderError> {
    let plain = path.starts_with('/')
        && path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-+".contains(&byte));
    if plain { Ok(path) } else { Err(RenderError::Path(path.to_owned())) }
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

/// How what is degraded begins where no profile could be loaded.
pub const DEGRADED: &str = "AppArmor";

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
    let peer = part_name(uuid, ProfilePart::Supervisor);
    put(&format!("signal (receive) peer={peer},"), "its supervisor ends it");
    text.push_str("}\n");
    Ok(text)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn every_part_has_reasons_and_no_way_to_execute() {
        for part in ProfilePart::ALL {
            for rule in part.template().unwrap() {
                assert!(!rule.reason.is_empty() && !rule.reason.contains('\n'), "{rule:?}");
                assert!(rule.text.ends_with(',') && !rule.text.contains(['\n', '#']), "{rule:?}");
                let access = rule.text.trim_end_matches(',').rsplit(' ').next().unwrap();
                assert!(!rule.text.starts_with('/') || !access.contains(['x', 'a', 'l']), "{rule:?}");
            }
            for program in ["/usr/bin/{a,b}", "/usr/bin/a b", "/usr/bin/*", "relative", "/usr/bin/a\nb"] {
                assert!(
                    render_part(DomainUuid(uuid::Uuid::nil()), part, &[], &[program.to_owned()], "/s", true)
                        .is_err(),
                    "{program:?}"
                );
            }
        }
    }

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
