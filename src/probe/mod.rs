//! probe.
#![forbid(unsafe_code)]
