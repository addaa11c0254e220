//! What several test programs share.
#![allow(dead_code, reason = "every program uses its own part")]

pub(crate) mod broken;
pub(crate) mod files;
pub(crate) mod terms;
pub(crate) mod tools;
