//! The merged deltas themselves, entry by entry: for hosts that add them to a model and store nothing.

use super::plan::{Site, Target};
use super::{Context, Merge, Watch, engine};
use crate::adapter::{LayerId, WeightShape};
use crate::delta::dense::Rows;
use crate::delta::joint::Joint;
use crate::error::Result;
use crate::tensor::{Dtype, Real, encode};

/// What the inputs together do to one parameter of the model.
#[derive(Clone, Debug)]
pub struct MergedDelta {
    /// The parameter.
    pub id: LayerId,
    /// Its shape.
    pub shape: WeightShape,
    /// The type of the entries: what the option `dtype` says.
    pub dtype: Dtype,
    /// The entries, little-endian, row-major.
    pub data: Vec<u8>,
}

impl Merge {
    /// Merges and hands the deltas to `take`, parameter by parameter in the order of their names, on the calling thread.
    /// Nothing is fitted: they are as exact as their dtype. Options about what to store count for nothing.
    ///
    /// # Errors
    /// Whatever is wrong with inputs or options, and what `take` says.
    pub fn deltas(&self, watch: Watch<'_>, mut take: impl FnMut(MergedDelta) -> Result<()>) -> Result<()> {
        let mut run = engine::Run::new(self.options.threads, self.options.memory, watch)?;
        let sites = self.sites()?;
        let context = Context { is_dense: true, ..self.context(&run, &sites)? };
        let context = self.with_gpu(context, &sites, &run)?;
        run.stage("merging");
        run.for_each(
            &sites,
            |site: &Site<'_>| {
                site.targets.iter().map(|target| context.entries(target)).collect::<Result<Vec<_>>>()
            },
            |_, deltas| deltas.into_iter().try_for_each(&mut take),
        )
    }
}

impl Context<'_> {
    fn entries(&self, target: &Target<'_>) -> Result<MergedDelta> {
        match self.options.dtype {
            Dtype::F32 | Dtype::F64 => self.entries_in::<f64>(target),
            _ => self.entries_in::<f32>(target),
        }
    }

    /// In float64 where the terms cancel.
    fn entries_in<T: Real>(&self, target: &Target<'_>) -> Result<MergedDelta> {
        let delta = self.merged::<T>(target)?.delta;
        if Joint::new(&delta).cancels() {
            return self.entries_in::<f64>(target);
        }
        delta.check_formable()?;
        let (dtype, mut data, mut encoded) = (self.options.dtype, Vec::new(), Ok(()));
        Rows::new(&delta).for_each_tile(|tile| {
            if encoded.is_ok() {
                encoded = encode(tile, dtype, &mut data);
            }
        });
        encoded?;
        Ok(MergedDelta { id: target.id.clone(), shape: target.shape.clone(), dtype, data })
    }
}
