//! Words that every other module shares: identities, category pairs and refusals. Imports nothing.
#![forbid(unsafe_code)]

mod category;
mod id;
mod mix;
mod refusal;

pub use category::{CATEGORY_COUNT, CategoryError, CategoryPair, crossings, level_text};
pub use id::{DomainName, DomainRef, DomainUuid, NameError, Slot};
pub use mix::mix;
pub use refusal::{Layer, Refusal};
