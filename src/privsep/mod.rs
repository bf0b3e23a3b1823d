//! What crosses the line between the unprivileged part and the labeller: a closed list of operations,
//! the plan that orders them, and the frames that carry it. Pure: no I/O.
#![forbid(unsafe_code)]

pub mod apparmor;
pub mod ask;
pub mod confinement;
pub mod contents;
pub mod dump;
pub mod helper;
pub mod nvram;
pub mod op;
pub mod order;
pub mod password;
pub mod placement;
pub mod plug;
pub mod request;
pub mod save;
pub mod share;
pub mod storage;
pub mod supervisor;
pub mod throttle;
pub mod tuning;
pub mod wire;
