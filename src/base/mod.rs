//! Words that every other module shares: identities, category pairs, files by name, refusals, and secrets. Imports nothing.
#![forbid(unsafe_code)]

mod category;
mod files;
mod id;
mod mix;
mod refusal;
mod secret;

pub use category::{CATEGORY_COUNT, CategoryError, CategoryPair, crossings, level_text};
pub use files::Files;
pub use id::{DomainName, DomainRef, DomainUuid, NameError, Slot};
pub use mix::mix;
pub use refusal::{Layer, Refusal};
pub use secret::{Secret, in_clear};
