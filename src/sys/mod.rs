//! Every kernel call and every unsafe line.

pub mod file;
pub mod listen;
pub mod lock;
pub mod memfd;
pub mod packet;
pub mod path;
pub mod pidfd;
pub mod pty;
pub mod tap;
pub mod xattr;
