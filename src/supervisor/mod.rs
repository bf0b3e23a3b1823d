//! One per domain.
#![forbid(unsafe_code)]
