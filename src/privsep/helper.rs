//! What each kind of helper is held by, whatever its plan says: the labeller sets it, and an inspection compares it.

use super::confinement::{Rlimit, RlimitKind};

const fn limit(resource: RlimitKind, value: u64) -> Rlimit {
    Rlimit { resource, value: Some(value) }
}

/// Of passt: it keeps no core, locks no memory and has few threads.
pub const PASST_LIMITS: &[Rlimit] =
    &[limit(RlimitKind::Core, 0), limit(RlimitKind::Memlock, 0), limit(RlimitKind::Nproc, 16)];

/// The namespaces that passt makes for itself, its user namespace among them, and the pid namespace that it is started in.
pub const PASST_NAMESPACES: &[&str] = &["ipc", "mnt", "pid", "user", "uts"];

/// Of swtpm. A guest can make it write at most so many bytes; a full TPM 2.0 has about a tenth of it.
pub const SWTPM_LIMITS: &[Rlimit] =
    &[limit(RlimitKind::Core, 0), limit(RlimitKind::Fsize, 2 << 20), limit(RlimitKind::Nproc, 4)];

/// The namespaces that swtpm is started in.
pub const SWTPM_NAMESPACES: &[&str] = &["ipc", "net", "uts"];

/// Of virtiofsd, besides its descriptors: one for each file that the guest knows.
pub const VIRTIOFSD_LIMITS: &[Rlimit] =
    &[limit(RlimitKind::Core, 0), limit(RlimitKind::Memlock, 0), limit(RlimitKind::Nproc, 256)];

/// Of a supervisor.
pub const SUPERVISOR_LIMITS: &[Rlimit] = &[limit(RlimitKind::Core, 0)];
