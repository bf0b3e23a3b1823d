//! QMP codec.
#![forbid(unsafe_code)]
