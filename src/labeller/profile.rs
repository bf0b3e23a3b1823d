//! AppArmor profiles: text from the template and a plan's rules, compiled by a confined `apparmor_parser`, given to the kernel.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use super::spawn::{Helper, helper};
use crate::base::{DomainUuid, Layer, Refusal};
use crate::privsep::apparmor::{self as rules, ProfilePart, ProfileRule, RenderError};
use crate::sys::landlock::Allow;
use crate::sys::namespace::Namespaces;
use crate::sys::{apparmor, memfd, process, scm};

/// The compiler.
const PARSER: &str = "/usr/sbin/apparmor_parser";
/// How long it may take to its exec.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long it may take for one profile: tens of milliseconds are usual, and nobody else is served meanwhile.
const COMPILED_BY: Duration = Duration::from_secs(20);
/// The most bytes of a compiled profile.
const COMPILED_MAX: usize = 4 << 20;
/// The most bytes of its complaints.
const WORDS_MAX: usize = 4096;

/// What a domain's profiles are made from.
pub(super) struct Wanted<'a> {
    /// Whose they are.
    pub(super) uuid: DomainUuid,
    /// What the device model's says beyond the template.
    pub(super) rules: &'a [ProfileRule],
    /// The processes beside it, and what each executes.
    pub(super) parts: &'a [(ProfilePart, Vec<String>)],
    /// The directory of TPMs' states.
    pub(super) states: &'a str,
}

impl Wanted<'_> {
    fn text(&self, userns: bool) -> Result<String, RenderError> {
        let mut text = rules::render(self.uuid, self.rules)?;
        for (part, programs) in self.parts {
            let part = rules::render_part(self.uuid, *part, self.rules, programs, self.states, userns)?;
            text.push_str(&part);
        }
        Ok(text)
    }
}

/// Compiles a domain's profiles as `uid`, all at once, and gives them to the kernel.
pub(super) fn load(wanted: &Wanted<'_>, uid: u32) -> Result<(), Refusal> {
    let uuid = wanted.uuid;
    let name = rules::profile_name(uuid);
    let refuse = |rule: String, remedy: &str| {
        let remedy = format!("{remedy}, or write <seclabel type='none' model='apparmor'/>");
        Err(Refusal::new(Layer::Apparmor, "load the profile", &*name, rule, remedy))
    };
    match apparmor::own() {
        Ok(own) if own == "unconfined" => {}
        // What a confined process has opened is held against the device model's profile, which names no image.
        Ok(own) => {
            let rule = format!("svirt-labeller itself runs under the profile {own}");
            return refuse(rule, "run the labeller unconfined");
        }
        Err(error) => return refuse(error.to_string(), "mount securityfs and /proc"),
    }
    match compiled(wanted, uid).and_then(|compiled| apparmor::load(&compiled)) {
        Ok(()) => Ok(()),
        Err(error) => {
            refuse(error.to_string(), "see that apparmor_parser is installed (Debian: apt install apparmor)")
        }
    }
}

/// Takes a domain's profiles out of the kernel, as many as there are.
pub(super) fn remove(uuid: DomainUuid) -> io::Result<()> {
    let parts = ProfilePart::ALL.into_iter().map(|part| apparmor::remove(&rules::part_name(uuid, part)));
    parts.fold(apparmor::remove(&rules::profile_name(uuid)), io::Result::and)
}

/// How the compiler calls a rule that it does not know.
const UNKNOWN_RULE: &str = "syntax error";

fn compiled(wanted: &Wanted<'_>, uid: u32) -> io::Result<Vec<u8>> {
    let with = |userns| wanted.text(userns).map_err(io::Error::other).and_then(|text| compile(&text, uid));
    match with(apparmor::mediates_userns()) {
        // A compiler older than the kernel: what it makes leaves new user namespaces unmediated.
        Err(error) if error.to_string().contains(UNKNOWN_RULE) => with(false).map_err(|_| error),
        other => other,
    }
}

fn compile(text: &str, uid: u32) -> io::Result<Vec<u8>> {
    let input = memfd::sealed("svirt-profile", text.as_bytes())?;
    let (reading, writing) = scm::pipe()?;
    let (heard, said) = scm::pipe()?;
    let argv: Vec<String> =
        [PARSER, "--skip-kernel-load", "--skip-cache", "--stdout", "--quiet"].map(str::to_owned).into();
    // The features of the running kernel decide what is compiled.
    let reach =
        [apparmor::ROOT, "/etc/apparmor", "/etc/apparmor.d", "/usr/share/apparmor-features"].map(Path::new);
    let list = Allow { read_dir: true, ..Allow::PROGRAM };
    let reach: Vec<(&Path, Allow)> =
        reach.into_iter().filter(|path| path.exists()).map(|path| (path, list)).collect();
    let child = helper(&Helper {
        program: Path::new(PARSER),
        argv: &argv,
        env: &[],
        uid,
        fds: &[(input.as_fd(), 0), (writing.as_fd(), 1), (said.as_fd(), 2)],
        reach: Some(&reach),
        rlimits: &[],
        namespaces: Namespaces::default(),
        selinux_exec: None,
        apparmor_exec: None,
        cgroup: None,
        seccomp: None,
        die_with_labeller: true,
        timeout: TIMEOUT,
    })
    .map_err(|error| io::Error::other(error.to_string()))?;
    drop((writing, said));
    let until = Instant::now() + COMPILED_BY;
    let compiled = process::read_to_end_by(reading.as_fd(), COMPILED_MAX, until);
    let words = process::read_to_end_by(heard.as_fd(), WORDS_MAX, until);
    // Whether it has ended or hangs.
    child.end()?;
    let late = |error: io::Error| match error.kind() {
        io::ErrorKind::TimedOut => {
            io::Error::other(format!("{PARSER} took more than {} s", COMPILED_BY.as_secs()))
        }
        _ => error,
    };
    let (compiled, words) = (compiled.map_err(late)?, words.map_err(late)?);
    if compiled.is_empty() {
        return Err(io::Error::other(format!("apparmor_parser: {}", String::from_utf8_lossy(&words).trim())));
    }
    Ok(compiled)
}
