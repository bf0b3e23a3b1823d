//! Every kernel call and every unsafe line.

pub mod attack;
pub mod cred;
pub mod enter;
pub mod file;
pub mod inherit;
pub mod kvm;
pub mod label;
pub mod landlock;
pub mod listen;
pub mod lock;
pub mod memfd;
pub mod mount;
pub mod namespace;
pub mod packet;
pub mod path;
pub mod pidfd;
pub mod process;
pub mod procfs;
pub mod ptrace;
pub mod pty;
pub mod rlimit;
pub mod scm;
pub mod seccomp;
pub mod selinux;
pub mod tap;
pub mod xattr;
