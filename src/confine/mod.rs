//! From a definition to what holds its device model: fragments, Landlock, root, limits. Pure.
#![forbid(unsafe_code)]

mod landlock;
mod limits;
mod plan;
mod select;

pub use plan::{Request, plan, supervisor_filter};
pub use select::select;
