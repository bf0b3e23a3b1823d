//! Words that every other module shares: identities, category pairs, files by name, and refusals. Imports nothing.
#![forbid(unsafe_code)]

mod category;
mod files;
mod id;
mod mix;
mod refusal;

pub use category::{CATEGORY_COUNT, CategoryError, CategoryPair, crossings, level_text};
pub use files::Files;
pub use id::{DomainName, DomainRef, DomainUuid, NameError, Slot};
pub use mix::mix;
pub use refusal::{Layer, Refusal};
