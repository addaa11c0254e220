//! Families and containers that are known by name but not merged: they are refused with the reason, never
//! skipped and never taken for something else.

use std::collections::BTreeMap;

use crate::error::{Error, Result};

struct Refused {
    name: &'static str,
    /// Suffixes of which one is enough to know it.
    marks: &'static [&'static str],
    others: &'static [&'static str],
    why: &'static str,
}

const CONTAINER: &str =
    "this key layout isn't read yet; convert the file to the kohya layout (lora_up, lora_down, alpha)";

// The order matters: the first row with a mark names the module.
static ROWS: [Refused; 4] = [
    Refused {
        name: "an OFT of PEFT before 0.16",
        marks: &[".oft_r"],
        others: &[],
        why: "its parameters mean something else than those of later versions; train it with a later one",
    },
    Refused {
        name: "a GLoRA with a core",
        marks: &[".bm.weight"],
        others: &[],
        why: "no trainer has written one yet, so nobody knows what it does",
    },
    Refused { name: "AdaLoRA", marks: &[".lora_E"], others: &[], why: CONTAINER },
    Refused { name: "VeRA", marks: &[".vera_lambda_b", ".vera_lambda_d"], others: &[], why: CONTAINER },
];

pub(super) fn suffixes() -> impl Iterator<Item = &'static str> {
    ROWS.iter().flat_map(|row| row.marks.iter().chain(row.others)).copied()
}

/// Refuses a module with the mark of a family that isn't merged.
pub(super) fn check(module: &str, tensors: &BTreeMap<&'static str, String>) -> Result<()> {
    let found =
        ROWS.iter().find_map(|row| Some((row, row.marks.iter().find(|mark| tensors.contains_key(*mark))?)));
    if let Some((row, mark)) = found {
        return Err(Error::unsupported(format!(
            "is {} (it has '{module}{mark}'), and {}",
            row.name, row.why
        )));
    }
    match tensors.get(".weight").filter(|_| !tensors.contains_key(".on_input")) {
        Some(name) => Err(Error::format(format!(
            "the tensor '{name}' belongs to no adapter family; is this a checkpoint?"
        ))),
        None => Ok(()),
    }
}
