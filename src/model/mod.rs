//! Models: the parameters that adapters change, by all the names that they go by, and checkpoints that hold them.
//!
//! A module's name goes in, in any of the spellings that trainers and hosts use; an [`Identity`] comes out, the same
//! for all spellings of one module. The one idea: names are parsed by a grammar and rewritten by rules into one
//! vocabulary, so that two files speak of the same layer exactly if their identities are equal, and a new architecture
//! whose files agree on a vocabulary needs no rule at all.

mod architecture;
mod block;
mod checkpoint;
mod dialect;
mod name;
mod nearest;
mod rules;
#[cfg(test)]
mod sdxl;
mod words;

pub use architecture::{Architecture, Sureness, architecture};
pub use block::Block;
pub use checkpoint::{Checkpoint, Parameter};
pub use dialect::{Dialect, Naming};
pub use name::{Component, Identity, Rows, identify, identify_shaped};
pub use nearest::{most_alike, nearest};
pub use rules::Vocabulary;
