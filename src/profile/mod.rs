//! Which filter fragments a device model gets, and the filter that they make together. Pure.
//!
//! The fragments are the reviewed files of `labels/seccomp`; [`Selection`] says which of them apply, [`compose`]
//! joins them: what one of them allows is allowed, and the ceiling is checked over all.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::filter::own::{ceiling, ceiling_calls};
use crate::filter::{CeilingError, CompileError, Filter, Fragment, FragmentError, compile};
use crate::privsep::confinement::SeccompProgram;

/// A fragment that ships with svirt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// KVM.
    AccelKvm,
    /// TCG.
    AccelTcg,
    /// Every device model.
    Base,
    /// Images on block devices.
    DiskBlock,
    /// Any image.
    DiskFile,
    /// `io='io_uring'`.
    DiskIoUring,
    /// `io='native'`.
    DiskNativeAio,
    /// Between loading the filter and QEMU's first instruction.
    Launcher,
    /// `<memoryBacking>`.
    Memory,
    /// A tap device.
    NetTap,
    /// Directories over 9p.
    NineP,
    /// Connected sockets, the monitor among them.
    Socket,
    /// A TPM, virtiofs, a SPICE server or a QXL video device.
    Socketpair,
    /// A SPICE server.
    Spice,
    /// `<vsock>`.
    Vsock,
}

/// A set of fragments.
pub type Selection = BTreeSet<Part>;

/// Why fragments make no filter.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// A rule allows what the ceiling never allows.
    #[error(transparent)]
    Ceiling(#[from] CeilingError),
    /// The program is too long.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// A file under `labels/seccomp` is wrong.
    #[error(transparent)]
    Fragment(#[from] FragmentError),
}

impl Part {
    /// Every fragment.
    pub const ALL: [Self; 15] = [
        Self::AccelKvm,
        Self::AccelTcg,
        Self::Base,
        Self::DiskBlock,
        Self::DiskFile,
        Self::DiskIoUring,
        Self::DiskNativeAio,
        Self::Launcher,
        Self::Memory,
        Self::NetTap,
        Self::NineP,
        Self::Socket,
        Self::Socketpair,
        Self::Spice,
        Self::Vsock,
    ];

    /// The fragment's text, as reviewed.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::AccelKvm => include_str!("../../labels/seccomp/accel-kvm.toml"),
            Self::AccelTcg => include_str!("../../labels/seccomp/accel-tcg.toml"),
            Self::Base => include_str!("../../labels/seccomp/base.toml"),
            Self::DiskBlock => include_str!("../../labels/seccomp/disk-block.toml"),
            Self::DiskFile => include_str!("../../labels/seccomp/disk-file.toml"),
            Self::DiskIoUring => include_str!("../../labels/seccomp/disk-io-uring.toml"),
            Self::DiskNativeAio => include_str!("../../labels/seccomp/disk-native-aio.toml"),
            Self::Launcher => include_str!("../../labels/seccomp/launcher.toml"),
            Self::Memory => include_str!("../../labels/seccomp/memory.toml"),
            Self::NetTap => include_str!("../../labels/seccomp/net-tap.toml"),
            Self::NineP => include_str!("../../labels/seccomp/ninep.toml"),
            Self::Socket => include_str!("../../labels/seccomp/socket.toml"),
            Self::Socketpair => include_str!("../../labels/seccomp/socketpair.toml"),
            Self::Spice => include_str!("../../labels/seccomp/spice.toml"),
            Self::Vsock => include_str!("../../labels/seccomp/vsock.toml"),
        }
    }

    /// The fragment's rules; its text is read once.
    fn fragment(self) -> Result<&'static Fragment, FragmentError> {
        macro_rules! read {
            ($($part:ident),*) => {
                match self {
                    $(Self::$part => {
                        static READ: OnceLock<Fragment> = OnceLock::new();
                        Fragment::once(&READ, self.text())
                    })*
                }
            };
        }
        read!(
            AccelKvm,
            AccelTcg,
            Base,
            DiskBlock,
            DiskFile,
            DiskIoUring,
            DiskNativeAio,
            Launcher,
            Memory,
            NetTap,
            NineP,
            Socket,
            Socketpair,
            Spice,
            Vsock
        )
    }
}

/// Joins fragments under the ceiling.
pub fn compose(selection: &Selection) -> Result<Filter, ProfileError> {
    let ceiling = ceiling()?;
    let mut filter = Filter::default();
    for part in selection {
        part.fragment()?.add_to(&mut filter);
    }
    filter.check_ceiling(&ceiling_calls(ceiling))?;
    ceiling.add_to(&mut filter);
    filter.normalise();
    Ok(filter)
}

/// The program of joined fragments; the same selection gives the same program, which is made once.
pub fn program(selection: &Selection) -> Result<SeccompProgram, ProfileError> {
    // At most one for each set of fragments, 2 KB each; few sets are ever asked for.
    static MADE: Mutex<BTreeMap<Selection, SeccompProgram>> = Mutex::new(BTreeMap::new());
    let made = || MADE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(program) = made().get(selection) {
        return Ok(program.clone());
    }
    let program = compile(&compose(selection)?)?;
    made().insert(selection.clone(), program.clone());
    Ok(program)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::filter::own::ceiling;
    use crate::filter::{Action, judge};

    #[test]
    fn every_file_parses_and_is_named_after_itself() {
        let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("labels/seccomp");
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let fragment = Fragment::parse(&std::fs::read_to_string(&path).unwrap()).unwrap();
            assert_eq!(Some(fragment.name.as_str()), path.file_stem().and_then(|stem| stem.to_str()));
            assert!(!fragment.summary.is_empty() && !fragment.rules.is_empty(), "{}", fragment.name);
            let part = Part::ALL.iter().any(|part| Fragment::parse(part.text()).unwrap() == fragment);
            let other = ["ceiling", "floor"].contains(&fragment.name.as_str());
            assert!(
                part || other || fragment.name.starts_with("svirt"),
                "{}: nothing selects it",
                fragment.name
            );
        }
    }

    #[test]
    fn all_fragments_together_stay_under_the_ceiling() {
        let whole = compose(&Part::ALL.into_iter().collect()).unwrap();
        for call in ceiling_calls(ceiling().unwrap()) {
            let action = whole.eval(crate::filter::ARCH_X86_64, call.id() as u32, &[0; 6]);
            assert!(!matches!(action, Action::Allow | Action::Launch), "{call}");
        }
    }

    #[test]
    fn every_fragment_but_the_launcher_adds_something() {
        let all: Selection = Part::ALL.into_iter().collect();
        let whole = compose(&all).unwrap();
        for part in Part::ALL.into_iter().filter(|part| *part != Part::Launcher) {
            let mut rest = all.clone();
            rest.remove(&part);
            assert_ne!(compose(&rest).unwrap(), whole, "{part:?} changes nothing");
        }
    }

    #[test]
    fn what_a_fragment_allows_passes_the_labellers_filter() {
        let whole: Selection = Part::ALL.into_iter().filter(|part| *part != Part::DiskIoUring).collect();
        for (io_uring, parts) in [(false, whole), (true, Part::ALL.into_iter().collect())] {
            let below = judge(&crate::filter::own::labeller(io_uring).unwrap()).unwrap();
            let above = judge(&program(&parts).unwrap()).unwrap();
            let needed = [&above.allowed, &above.allowed_conditionally, &above.launch];
            for call in needed.into_iter().flatten() {
                assert!(below.allowed.contains(call), "{call}");
            }
        }
    }

    #[test]
    fn a_program_that_was_made_before_is_the_same() {
        let parts: Selection = [Part::Base, Part::AccelTcg].into_iter().collect();
        let made = program(&parts).unwrap();
        assert_eq!(program(&parts).unwrap(), made);
        assert_eq!(compile(&compose(&parts).unwrap()).unwrap(), made);
    }

    #[test]
    fn a_sealed_device_model_makes_no_process_socket_or_code() {
        let kvm = [Part::Base, Part::AccelKvm, Part::DiskFile, Part::Launcher, Part::Socket];
        let judgement = judge(&program(&kvm.into_iter().collect()).unwrap()).unwrap();
        let found = |list: &[String], call: &str| list.iter().any(|name| name == call);
        for call in
            ["socket", "bind", "connect", "listen", "accept4", "fork", "vfork", "kill", "setuid", "unlink"]
        {
            assert!(found(judgement.errno.get(&1).unwrap(), call), "{call}");
        }
        assert!(found(judgement.errno.get(&38).unwrap(), "clone3"));
        assert!(found(judgement.errno.get(&38).unwrap(), "io_uring_setup"));
        assert!(found(&judgement.launch, "execve") && found(&judgement.kill, "ptrace"));
        assert!(judgement.i386_killed && judgement.x32_refused && judgement.newer_refused);
    }
}
