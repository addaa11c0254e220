//! Which device the arithmetic is to happen on, and when a GPU pays.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// Where entries are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// On the processor.
    #[default]
    Cpu,
    /// On NVIDIA's GPU of this number, or not at all.
    Cuda(usize),
    /// On the first GPU where there is one and it pays, else on the processor.
    Auto,
}

impl FromStr for Device {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let device = match text {
            "cpu" => Some(Self::Cpu),
            "cuda" => Some(Self::Cuda(0)),
            "auto" => Some(Self::Auto),
            _ => text.strip_prefix("cuda:").and_then(|number| number.parse().ok()).map(Self::Cuda),
        };
        device.ok_or_else(|| Error::option(format!("'{text}' is not one of cpu, cuda, cuda:N, auto")))
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
            Self::Auto => f.write_str("auto"),
        }
    }
}

/// What is to be done, for [`pays`].
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Work {
    /// Products and sums for the entries of ΔW.
    pub(crate) operations: f64,
    /// Bytes of the checkpoint that change; they go to the GPU and come back.
    pub(crate) bytes: f64,
    /// Entries of all models that are chosen from and merged one by one.
    pub(crate) entries: f64,
}

/// Whether `auto` takes the GPU: where a GPU that is slower than all that CUDA 12 runs on, behind half of a PCIe 3 bus,
/// would still take less than half of the time of cores that are faster than most. That is on the safe side: an H200 took
/// .7 to .9 of the time of two cores for baking one adapter into an SDXL, and gained nothing on sixteen
/// (docs/performance.md). What is stored afterwards, on cores either way, is not in it.
pub(crate) fn pays(work: Work, threads: usize) -> bool {
    /// Operations in float32 that a core does in a second at best.
    const CORE: f64 = 1e11;
    /// Bytes that a core reads, changes, measures and writes in a second at best.
    const CORE_BYTES: f64 = 1e9;
    /// Entries of a model that a core makes a choice of and adds up in a second at best.
    const CORE_ENTRIES: f64 = 1e8;
    /// The same of the GPU at worst, one way.
    const GPU: f64 = 1e12;
    const BUS_BYTES: f64 = 6e9;
    /// With the way of what is merged over the bus.
    const GPU_ENTRIES: f64 = 1e9;
    /// A context, and the kernels made for the GPU from PTX.
    const START: f64 = 3.0;
    let threads = threads.max(1) as f64;
    let cpu = work.operations / CORE + work.bytes / CORE_BYTES + work.entries / CORE_ENTRIES;
    let gpu = work.operations / GPU + 2.0 * work.bytes / BUS_BYTES + work.entries / GPU_ENTRIES;
    2.0 * (START + gpu) < cpu / threads
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_as_they_are_shown() {
        for device in [Device::Cpu, Device::Auto, Device::Cuda(0), Device::Cuda(7)] {
            assert_eq!(device.to_string().parse::<Device>().unwrap(), device);
        }
        assert_eq!("cuda".parse::<Device>().unwrap(), Device::Cuda(0));
        for text in ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "CUDA"] {
            let error = text.parse::<Device>().unwrap_err();
            assert!(error.message().contains("cuda:N"), "{error}");
        }
    }

    #[test]
    fn a_gpu_pays_for_much_work_on_few_cores_and_never_for_little() {
        let small = Work { operations: 1e9, bytes: 1e7, entries: 1e7 };
        let bake = Work { operations: 5e12, bytes: 5e9, entries: 0.0 };
        let merge = Work { operations: 2e11, bytes: 0.0, entries: 1e10 };
        assert!(!pays(small, 1));
        assert!([bake, merge].into_iter().all(|large| pays(large, 2) && !pays(large, 64)));
    }
}
