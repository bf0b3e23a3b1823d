//! security.
#![forbid(unsafe_code)]
