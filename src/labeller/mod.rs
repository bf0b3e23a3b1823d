//! The privileged process: it applies plans and keeps what they hold.
//!
//! ```text
//!  frames --connection--> server --admit--> apply --launcher--> device model, supervisor, passt
//!                            |                |
//!                  lease <---+    journal <---+--> undo <-- recover (at the next start)
//! ```
//!
//! Owns labels, leases, locks, journals and the processes of every domain. It never parses XML, XDR, TLS, image
//! headers (a confined child of its reads that of a volume which it makes larger) or profile text, and trusts nothing that it is asked: `admit` holds every plan against the
//! root-owned configuration, `places` every path, `lease` everything that somebody may hold already.
#![forbid(unsafe_code)]

mod admit;
mod apply;
pub mod cgroup;
mod connection;
mod converse;
mod domain;
mod dump;
mod fault;
mod fdstore;
mod guard;
mod journal;
mod launcher;
mod lease;
mod memory;
mod own;
mod passt;
mod pin;
mod places;
mod plug;
mod probe;
mod profile;
mod pump;
mod quota;
mod real;
mod recover;
mod remember;
mod room;
pub mod root;
mod run;
mod save;
mod saved;
mod serve;
mod server;
mod session;
pub mod spawn;
mod start;
mod storage;
mod store;
mod swtpm;
mod tune;
mod undo;
mod virtiofsd;

pub use guard::guarded;
pub use run::{LabellerError, Options, run};
pub use session::{SessionError, enter as enter_session};
pub use store::Store;

/// Holds whatever a client says against the labeller's limits; for fuzzers and the replay of their corpus. What is
/// admitted runs as nobody but those whom the configuration names.
pub fn fuzz_request(data: &[u8]) {
    use crate::privsep::op::Op;
    use crate::privsep::request::Request;

    let mut framed = data.to_vec();
    while let Ok(Some(_)) = crate::privsep::wire::decode::<Request>(&mut framed) {}
    let settings = crate::settings::Settings::default();
    let Ok(Request::Start { plan, passwords }) = serde_json::from_slice(data) else { return };
    let _ = admit::passwords(&passwords);
    for selinux in [false, true] {
        if let Err(not) = admit::check(&plan, &settings, selinux) {
            assert!(!not.refusal.rule.is_empty());
            continue;
        }
        for op in &plan.ops {
            let Op::Spawn(spawn) = op else { continue };
            let (runs, watches) = (spawn.confinement.uid, spawn.supervisor.uid);
            assert!(settings.uids.domains.contains(runs) && settings.uids.supervisors.contains(watches));
            assert!(runs != 0 && watches != 0 && spawn.confinement.gid == runs);
            assert!(!spawn.confinement.seccomp.0.is_empty() && !spawn.supervisor.seccomp.0.is_empty());
        }
    }
}
