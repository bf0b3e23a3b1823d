//! What the kernel says of a domain's processes now, held against the plan that started them.
//!
//! [`read`] collects (the only part with I/O), [`facts`] is what it collects, [`compare`] names every difference
//! between facts and plan. Nothing here changes a process, except that reading its filters
//! stops one thread for a moment.
#![forbid(unsafe_code)]

pub mod compare;
pub mod facts;
pub mod read;
pub mod render;
