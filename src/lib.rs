//! lycomerge merges LoKr, LoHa, LoRA and other adapters of image models by what they do to the weights.

pub mod adapter;
mod compute;
pub mod delta;
pub mod error;
pub mod file;
pub mod fit;
pub mod tensor;

pub use error::{Error, ErrorKind, Result};
