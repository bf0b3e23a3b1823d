//! The privileged process: it applies plans and keeps what they hold.
//!
//! ```text
//!  frames --connection--> server --admit--> apply --launcher--> device model, supervisor, passt
//!                            |                |
//!                  lease <---+    journal <---+--> undo <-- recover (at the next start)
//! ```
//!
//! Owns labels, leases, locks, journals and the processes of every domain. It never parses XML, XDR, TLS, image
//! headers or profile text, and trusts nothing that it is asked: `admit` holds every plan against the
//! root-owned configuration, `places` every path, `lease` everything that somebody may hold already.
#![forbid(unsafe_code)]

mod admit;
mod apply;
pub mod cgroup;
mod connection;
mod domain;
mod fault;
mod guard;
mod journal;
mod launcher;
mod lease;
mod memory;
mod own;
mod passt;
mod places;
mod probe;
mod profile;
mod real;
mod recover;
mod remember;
pub mod root;
mod run;
mod serve;
mod server;
mod session;
pub mod spawn;
mod start;
mod storage;
mod store;
mod swtpm;
mod undo;

pub use guard::guarded;
pub use run::{LabellerError, Options, run};
pub use session::{SessionError, enter as enter_session};
pub use store::Store;
