//! What several integration tests share.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::expect_used)]
#![allow(dead_code, missing_docs, unreachable_pub)]

pub mod plans;
