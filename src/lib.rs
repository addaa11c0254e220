//! lycomerge merges LoKr, LoHa, LoRA and other adapters of image models by what they do to the weights, and says
//! how exact the stored result is.
//!
//! A merge flows one way:
//!
//! ```text
//! file ─→ adapter ─→ delta ─→ merge ─→ fit ─→ adapter ─→ file
//! bytes   layers     ΔW as     one ΔW   one     named      bytes
//! by name by family  terms     a layer  term    tensors
//! ```
//!
//! ```no_run
//! use std::{path::Path, sync::Arc};
//! use lycomerge::{Adapter, Merge};
//!
//! let mut merge = Merge::new();
//! merge.add(Arc::new(Adapter::open("a.safetensors")?), 0.6)?;
//! merge.add(Arc::new(Adapter::open("b.safetensors")?), 0.4)?;
//! merge.options.set("strategy", "smart_fusion")?;
//! let report = merge.run_to(Path::new("merged.safetensors"), &mut |_| true)?;
//! println!("stored to within {:.1e}", report.error);
//! # Ok::<(), lycomerge::Error>(())
//! ```

pub mod adapter;
pub mod capi;
mod compute;
pub mod delta;
pub mod error;
pub mod file;
pub mod fit;
pub mod merge;
pub mod model;
pub mod picture;
pub mod report;
pub mod survey;
pub mod tensor;

pub use adapter::Adapter;
pub use error::{Error, ErrorKind, Result};
pub use merge::{Comparison, Merge, Plan};
pub use report::Report;
pub use survey::Survey;
