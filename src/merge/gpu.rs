//! What of a merge a GPU does: it makes a checkpoint's weights, and merges layers entry by entry.

use faer::Mat;

use super::engine::Run;
use super::options::Device;
use super::plan::{Site, Target};
use super::strategy::{MergeSpace, OnGpu, Rule};
use super::{Context, Merge};
use crate::compute::cuda::{Entries, Fault, Gpu};
use crate::compute::device::{Work, pays};
use crate::compute::linalg::set_rows;
use crate::delta::dense::Rows;
use crate::error::Result;
use crate::tensor::Real;

/// What the user is told of what there was no room for.
pub(super) const SHORT: &str = "the GPU's memory is too small for it, so that the CPU did it";

impl Merge {
    /// The GPU that the option says, or that pays for so much work.
    pub(super) fn gpu(&self, work: Work, threads: usize) -> Result<Option<Gpu>> {
        match self.options.device {
            Device::Cpu => Ok(None),
            Device::Cuda(number) => Gpu::open(number, threads).map(Some),
            // Whatever is wrong with a GPU that nobody asked for, the CPU can do it.
            Device::Auto if pays(work, threads) => Ok(Gpu::open(0, threads).ok()),
            Device::Auto => Ok(None),
        }
    }

    /// The context of a merge without a checkpoint, with a GPU if it merges on one.
    pub(super) fn with_gpu<'a>(
        &self,
        context: Context<'a>,
        sites: &[Site<'_>],
        run: &Run<'_>,
    ) -> Result<Context<'a>> {
        if !context.merges_on_gpu() {
            return Ok(context);
        }
        let targets = sites.iter().flat_map(|site| &site.targets);
        Ok(Context { gpu: self.gpu(work(targets, true), run.threads())?, ..context })
    }
}

impl Context<'_> {
    /// Whether a GPU merges matrices by the rule.
    pub(super) fn merges_on_gpu(&self) -> bool {
        match &self.rule {
            Rule::Entries(rule, space) => {
                space.unwrap_or(self.usual_space()) == MergeSpace::Full && rule.on_gpu().is_some()
            }
            _ => false,
        }
    }

    /// Where entries are merged if nothing is said.
    pub(super) fn usual_space(&self) -> MergeSpace {
        if self.is_dense { MergeSpace::Full } else { MergeSpace::Core }
    }

    /// What there is to say where a GPU was asked for and there was nothing for it to do.
    pub(super) fn idle_gpu(&self) -> Option<String> {
        let asked = matches!(self.options.device, Device::Cuda(_)) && self.gpu.is_none();
        asked.then(|| {
            format!(
                "device {}: the CPU did this; a GPU bakes, and merges with merge_space=full by ties, dare_*, \
                 breadcrumbs*, magnitude_prune and the _svd forms of these",
                self.options.device
            )
        })
    }
}

/// What device was used, as reports have it.
pub(super) fn name(gpu: Option<&Gpu>) -> String {
    gpu.map_or_else(|| Device::Cpu.to_string(), Gpu::name)
}

/// What the targets' merges are, roughly: a product of rank r has r numbers for every row and column, and takes 2r operations
/// an entry. For a Kronecker product that is too few, which is on the safe side.
pub(super) fn work<'a>(targets: impl Iterator<Item = &'a Target<'a>>, merges_entries: bool) -> Work {
    let mut work = Work::default();
    for target in targets {
        let (rows, cols) = (target.shape.rows as f64, target.shape.cols as f64);
        let layers = target.sources.iter().flat_map(|source| source.layers());
        let numbers: f64 = layers.map(|layer| layer.expanded() as f64).sum();
        work.operations += 2.0 * numbers * rows * cols / (rows + cols);
        work.entries += if merges_entries { rows * cols * target.sources.len() as f64 } else { 0.0 };
    }
    work
}

/// The merged entries of a layer. None: there is no room for them on the GPU.
pub(super) fn merged<T: Real>(
    gpu: &Gpu,
    models: &[Rows<'_, T>],
    shape: (usize, usize),
    weights: &[f64],
    rule: &OnGpu,
    seed: u64,
) -> Result<Option<Mat<T>>> {
    let made = || {
        let terms: Vec<_> = models.iter().map(Rows::terms).collect();
        let mut entries = Entries::new(gpu, &terms, shape)?;
        rule.merge(&mut entries, weights, seed)?;
        let mut merged = Mat::zeros(shape.0, shape.1);
        entries.read(|rows, numbers| set_rows(&mut merged, rows, numbers))?;
        Ok(merged)
    };
    match made() {
        Ok(merged) => Ok(Some(merged)),
        Err(Fault::Memory) => Ok(None),
        Err(Fault::Driver(error)) => Err(gpu.error(error)),
    }
}
