//! confine.
#![forbid(unsafe_code)]
