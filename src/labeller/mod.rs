//! The privileged process.
#![forbid(unsafe_code)]
