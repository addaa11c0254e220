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

const NEEDS_BASE: &str = "its effect depends on the base model's weight, which an adapter file doesn't hold";
const CONTAINER: &str =
    "this key layout isn't read yet; convert the file to the kohya layout (lora_up, lora_down, alpha)";

// The order matters: the first row with a mark names the module.
static ROWS: [Refused; 11] = [
    Refused {
        name: "DoRA",
        marks: &[".dora_scale", ".lora_magnitude_vector", ".lora_magnitude_vector.weight"],
        others: &[],
        why: NEEDS_BASE,
    },
    Refused {
        name: "diag-OFT or BOFT",
        marks: &[".oft_blocks", ".oft_diag", ".rescale"],
        others: &[],
        why: NEEDS_BASE,
    },
    Refused { name: "PEFT OFT", marks: &[".oft_R.weight", ".oft_R", ".oft_r"], others: &[], why: NEEDS_BASE },
    Refused { name: "PEFT BOFT", marks: &[".boft_R", ".boft_s"], others: &[], why: NEEDS_BASE },
    Refused { name: "(IA)³", marks: &[".on_input", ".ia3_l"], others: &[".weight"], why: NEEDS_BASE },
    Refused {
        name: "GLoRA",
        marks: &[".a1.weight", ".a2.weight", ".b1.weight", ".b2.weight", ".bm.weight"],
        others: &[],
        why: NEEDS_BASE,
    },
    Refused {
        name: "T-LoRA",
        marks: &[".lambda_layer", ".q_layer.weight", ".p_layer.weight"],
        others: &[],
        why: NEEDS_BASE,
    },
    Refused {
        name: "set_weight",
        marks: &[".set_weight"],
        others: &[],
        why: "it replaces the base model's weight instead of changing it",
    },
    Refused {
        name: "reshape_weight",
        marks: &[".reshape_weight"],
        others: &[],
        why: "it changes the shape of the base model's weight",
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
    match tensors.get(".weight") {
        Some(name) => Err(Error::format(format!(
            "the tensor '{name}' belongs to no adapter family; is this a checkpoint?"
        ))),
        None => Ok(()),
    }
}
