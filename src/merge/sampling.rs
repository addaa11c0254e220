//! The layers that stand for all where size and error are foretold, and what a file of them comes to.

use std::collections::BTreeMap;

use super::plan::{Site, Target};
use super::{Context, Merge, engine};
use crate::error::Result;
use crate::file::FileKind;
use crate::fit::{Bound, Curve, FitOptions, Format, budget};

/// A layer that was looked at, and how many it stands for.
struct Sample {
    curves: Vec<Curve>,
    norm: f64,
    count: usize,
}

/// The layers that were looked at, each with what it takes in one format.
pub(super) struct Samples {
    samples: Vec<Sample>,
    /// What the file takes besides the factors.
    overhead: u64,
}

/// What a file comes to.
pub(super) struct Cost {
    pub(super) bytes: u64,
    /// Of the whole file, relative.
    pub(super) error: f64,
    /// The largest in it.
    pub(super) rank: usize,
}

impl Samples {
    /// What a file takes that keeps to `bound`, each layer scaled to its true norm if it is to be.
    pub(super) fn cost(&self, bound: Bound, match_norm: bool) -> Cost {
        let (mut numbers, mut lost, mut norm, mut rank) = (0, 0.0, 0.0, 0);
        for sample in &self.samples {
            let point = budget::choose(&sample.curves, bound).point;
            numbers += point.numbers * sample.count;
            rank = rank.max(point.rank);
            let square = sample.norm.powi(2) * sample.count as f64;
            norm += square;
            // A projection that is √(1 − e²) long keeps that cosine however it is scaled.
            let cut = match match_norm {
                true => 2.0 - 2.0 * (1.0 - point.error.powi(2)).max(0.0).sqrt(),
                false => point.error.powi(2),
            };
            lost += square * (cut + (0.6 * bound.dtype.unit_roundoff()).powi(2));
        }
        let error = if norm > 0.0 { (lost / norm).sqrt() } else { 0.0 };
        Cost { bytes: (numbers * bound.dtype.size()) as u64 + self.overhead, error, rank }
    }

    /// The bound whose file has at most so many bytes.
    ///
    /// # Errors
    /// Nothing is that small.
    pub(super) fn at_size(&self, bytes: u64, bound: Bound) -> Result<Bound> {
        let numbers = bytes.saturating_sub(self.overhead) as usize / bound.dtype.size();
        let layers = self.samples.iter().map(|sample| (&sample.curves[..], sample.count));
        Ok(Bound { tolerance: budget::tolerance_for_size(layers, numbers, bound)?, ..bound })
    }

    /// The same under a rank that is asked for and nothing else.
    pub(super) fn at_rank(&self, rank: usize) -> Self {
        let limited = |sample: &Sample| Sample { curves: budget::at_rank(&sample.curves, rank), ..*sample };
        Self { samples: self.samples.iter().map(limited).collect(), overhead: self.overhead }
    }

    /// ‖true‖ of all layers, as far as those that were looked at tell.
    pub(super) fn norm(&self) -> f64 {
        self.samples.iter().map(|sample| sample.norm.powi(2) * sample.count as f64).sum::<f64>().sqrt()
    }
}

impl Merge {
    /// Looks at the `chosen` layers in each of the formats.
    pub(super) fn sampled(
        &self,
        run: &engine::Run<'_>,
        context: &Context<'_>,
        chosen: &[(Site<'_>, usize)],
        (fit, formats): (&FitOptions, &[Format]),
        bound: Bound,
    ) -> Result<Vec<Samples>> {
        // If it is safetensors; a file of another kind takes little more.
        let overhead =
            self.overhead(chosen.iter().map(|(site, count)| (site, *count)), FileKind::SafeTensors);
        let (only, counts): (Vec<&Site<'_>>, Vec<usize>) =
            chosen.iter().map(|(site, count)| (site, *count)).unzip();
        let of_target = |target: &Target<'_>| context.curves::<f32>(target, fit, formats, bound);
        let of_site = |site: &&Site<'_>| {
            let own = site.targets.iter().filter(|target| !context.is_own(target));
            own.map(of_target).collect::<Result<Vec<_>>>()
        };
        let mut all: Vec<Samples> =
            formats.iter().map(|_| Samples { samples: Vec::new(), overhead: overhead as u64 }).collect();
        for (targets, count) in run.map(&only, of_site)?.into_iter().zip(counts) {
            for (curves, norm) in targets {
                for (of_format, curves) in all.iter_mut().zip(curves) {
                    of_format.samples.push(Sample { curves, norm, count });
                }
            }
        }
        Ok(all)
    }
}

/// Sites that stand for all, evenly from the smallest to the largest, each with how many it stands for; and the
/// number of all.
pub(super) fn sample(mut sites: Vec<Site<'_>>, most: usize) -> (Vec<(Site<'_>, usize)>, usize) {
    let total = sites.len();
    let entries = |site: &Site<'_>| site.targets.iter().map(|t| t.shape.rows * t.shape.cols).sum::<usize>();
    sites.sort_by_cached_key(|site| (entries(site), site.module.clone()));
    let places: BTreeMap<usize, usize> = evenly(total, most).collect();
    let chosen = sites.into_iter().enumerate();
    let chosen = chosen.filter_map(|(index, site)| Some((site, *places.get(&index)?)));
    (chosen.collect(), total)
}

/// `most` of `total` things in a row, by the one in the middle of each equal part, with how many it stands for.
pub(super) fn evenly(total: usize, most: usize) -> impl Iterator<Item = (usize, usize)> {
    let take = total.min(most);
    (0..take).map(move |k| {
        let (start, end) = (k * total / take, (k + 1) * total / take);
        (usize::midpoint(start, end), end - start)
    })
}
