//! lycomerge merges LoKr, LoHa, LoRA and other adapters of image models by what they do to the weights.

mod compute;
pub mod delta;
pub mod error;
pub mod file;
pub mod tensor;

pub use error::{Error, ErrorKind, Result};
