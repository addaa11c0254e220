//! The C ABI: what `include/lycomerge.h` declares, one file per type.
//!
//! Pointers and numbers come in, which may be anything; a status and handles go out. The one idea: an entry point
//! is a thin sentence of checked words. `guard` is the boundary that no panic passes, `handle` the only place
//! that turns a pointer into a reference, `text` the same for strings, and `sized` for structs that grow. An
//! entry point checks all that it was given, works, and writes its outputs last.
//!
//! The documentation of the items is the header's text, so it speaks C. A Rust program wants [`crate::Merge`].

#![allow(unsafe_code, reason = "C hands over pointers; each is checked where it comes in")]
#![allow(non_camel_case_types, reason = "these are the names that C sees")]
#![allow(clippy::missing_safety_doc, reason = "the docs become the header, whose introduction has the rules")]

mod guard;
mod handle;
mod pictures;
mod sized;
mod text;

// In the order of the header; the empty lines keep it.
pub mod version;

pub mod error;

pub mod log;

pub mod listing;

pub mod adapter;

pub mod tensor;

pub mod dlpack;

pub mod builder;

pub mod merge;

pub mod plan;

pub mod comparison;

pub mod delta;

pub mod bake;

pub mod report;
