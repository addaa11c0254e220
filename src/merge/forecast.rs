//! Size and error before the heavy work, from the spectra of a sample of layers.

use super::plan::{Site, Target};
use super::{Context, Merge, Watch, engine};
use crate::error::Result;
use crate::file::FileKind;
use crate::fit::{Bound, Curve, FitOptions, Format, Purpose, budget};
use crate::merge::{Options, Quality, Space};

/// How many layers are looked at for the forecast, and for what could have been done instead.
const SAMPLE: usize = 24;
const SMALL_SAMPLE: usize = 6;

/// What a merge will come to.
#[derive(Clone, Debug)]
pub struct Forecast {
    /// The output's size.
    pub bytes: u64,
    /// The file-wide relative error.
    pub error: f64,
    /// Layers looked at, of how many.
    pub sampled: (usize, usize),
    /// All inputs together, in bytes.
    pub input_bytes: u64,
    /// Other ways to store the same merge.
    pub alternatives: Vec<Alternative>,
}

/// Another way to store the merge.
#[derive(Clone, Debug)]
pub struct Alternative {
    /// The options that ask for it.
    pub options: &'static str,
    /// Its size.
    pub bytes: u64,
    /// Its file-wide relative error.
    pub error: f64,
    /// The largest rank in it.
    pub rank: usize,
}

/// A layer that was looked at, and how many it stands for.
struct Sample {
    curves: Vec<Curve>,
    norm: f64,
    count: usize,
}

impl Forecast {
    /// Whether a user should think twice: over 1 GiB and over ten times the inputs.
    pub fn is_huge(&self) -> bool {
        self.bytes > 1 << 30 && self.bytes > 10 * self.input_bytes
    }
}

impl Merge {
    /// Size and error to come.
    ///
    /// # Errors
    /// Whatever is wrong with inputs or options.
    pub fn forecast(&self, watch: Watch<'_>) -> Result<Forecast> {
        let mut run = engine::Run::new(self.options.threads, self.options.memory, watch)?;
        let sites = self.sites()?;
        let context = self.context(&run, &sites)?;
        if self.options.keep {
            let bytes = self.inputs.iter().map(|input| input.adapter.file().byte_len()).sum();
            let sampled = (sites.len(), sites.len());
            return Ok(Forecast { bytes, error: 0.0, sampled, input_bytes: bytes, alternatives: Vec::new() });
        }
        run.stage("surveying");
        let (chosen, total) = sample(sites, SAMPLE);
        let bound = self.plain_bound();
        let overhead = self.estimated_overhead(&chosen);
        let tolerance = if self.size_limit().is_some() { 1.0 } else { bound.tolerance };
        let surveyed = Bound { tolerance, purpose: Purpose::Estimate, ..bound };
        let own = sampled_curves(&run, &context.fit, &context, &chosen, surveyed)?;
        let bound = match self.size_limit() {
            None => bound,
            Some(limit) => at_size(&own, limit.saturating_sub(overhead), bound)?,
        };
        let main = self.cost(&own, bound, overhead, "");
        let sampled = (own.len(), total);
        let mut forecast = Forecast {
            bytes: main.bytes,
            error: main.error,
            sampled,
            input_bytes: self.inputs.iter().map(|input| input.adapter.file().byte_len()).sum(),
            alternatives: Vec::new(),
        };
        if self.options.space == Space::Delta && forecast.is_huge() {
            forecast.alternatives = self.other_ways(&run, &context, &chosen, overhead)?;
        }
        Ok(forecast)
    }

    /// Other ways to store the same merge, with the size and error that each would come to.
    ///
    /// # Errors
    /// Whatever is wrong with inputs or options.
    pub fn alternatives(&self, watch: Watch<'_>) -> Result<Vec<Alternative>> {
        let mut run = engine::Run::new(self.options.threads, self.options.memory, watch)?;
        let sites = self.sites()?;
        let context = self.context(&run, &sites)?;
        run.stage("surveying");
        let (chosen, _) = sample(sites, SMALL_SAMPLE);
        let overhead = self.estimated_overhead(&chosen);
        self.other_ways(&run, &context, &chosen, overhead)
    }

    /// What the file takes besides the factors, if it is safetensors; one of another kind takes little more.
    fn estimated_overhead(&self, chosen: &[(Site<'_>, usize)]) -> u64 {
        self.overhead(chosen.iter().map(|(site, count)| (site, *count)), FileKind::SafeTensors) as u64
    }

    fn other_ways(
        &self,
        run: &engine::Run<'_>,
        context: &Context<'_>,
        sites: &[(Site<'_>, usize)],
        overhead: u64,
    ) -> Result<Vec<Alternative>> {
        let fit = FitOptions { format: Format::Auto, match_norm: false, factor: None, ..context.fit.clone() };
        let loose = Bound { purpose: Purpose::Estimate, ..Bound::new(1.0, None, self.options.dtype) };
        let samples = sampled_curves(run, &fit, context, sites, loose)?;
        let at = |tolerance| Bound { tolerance, ..loose };
        let largest = self.inputs.iter().map(|i| i.adapter.file().byte_len()).max().unwrap_or(0);
        let bounds = [
            (Quality::Exact, Some(at(budget::EXACT))),
            (Quality::Good, Some(at(0.2))),
            (Quality::Compact, at_size(&samples, largest.saturating_sub(overhead), loose).ok()),
        ];
        let auto = self.options.format == Format::Auto;
        let Options { tolerance, max_size, rank, conv_rank, .. } = self.options;
        let limited = tolerance.is_some() || max_size.is_some() || rank.or(conv_rank).is_some();
        let mut ways = Vec::new();
        for (quality, bound) in bounds {
            let taken = auto && !limited && self.options.quality.unwrap_or(Quality::Exact) == quality;
            if let Some(bound) = bound.filter(|_| !taken) {
                let options = match (quality, auto) {
                    (Quality::Exact, true) => "--quality exact",
                    (Quality::Exact, false) => "--format auto",
                    (Quality::Good, true) => "--quality good",
                    (Quality::Good, false) => "--format auto --quality good",
                    (Quality::Compact, true) => "--quality compact",
                    (Quality::Compact, false) => "--format auto --quality compact",
                };
                ways.push(self.cost(&samples, bound, overhead, options));
            }
        }
        Ok(ways)
    }

    fn cost(&self, samples: &[Sample], bound: Bound, overhead: u64, options: &'static str) -> Alternative {
        let (mut numbers, mut lost, mut norm, mut rank) = (0, 0.0, 0.0, 0);
        for sample in samples {
            let point = budget::choose(&sample.curves, bound).point;
            numbers += point.numbers * sample.count;
            rank = rank.max(point.rank);
            let square = sample.norm.powi(2) * sample.count as f64;
            norm += square;
            lost += square * (point.error.powi(2) + (0.6 * bound.dtype.unit_roundoff()).powi(2));
        }
        let error = if norm > 0.0 { (lost / norm).sqrt() } else { 0.0 };
        Alternative { options, bytes: (numbers * bound.dtype.size()) as u64 + overhead, error, rank }
    }
}

fn sampled_curves(
    run: &engine::Run<'_>,
    fit: &FitOptions,
    context: &Context<'_>,
    sites: &[(Site<'_>, usize)],
    bound: Bound,
) -> Result<Vec<Sample>> {
    let (only, counts): (Vec<&Site<'_>>, Vec<usize>) =
        sites.iter().map(|(site, count)| (site, *count)).unzip();
    let of_site = |site: &&Site<'_>| {
        let of_target = |target: &Target<'_>| context.curves::<f32>(target, fit, bound);
        site.targets
            .iter()
            .filter(|target| !context.is_own(target))
            .map(of_target)
            .collect::<Result<Vec<_>>>()
    };
    let found = run.map(&only, of_site)?;
    let sample = |(targets, count): (Vec<(Vec<Curve>, f64)>, usize)| {
        targets.into_iter().map(move |(curves, norm)| Sample { curves, norm, count })
    };
    Ok(found.into_iter().zip(counts).flat_map(sample).collect())
}

fn at_size(samples: &[Sample], bytes: u64, bound: Bound) -> Result<Bound> {
    let layers = samples.iter().map(|sample| (&sample.curves[..], sample.count));
    let tolerance = budget::tolerance_for_size(layers, bytes as usize / bound.dtype.size(), bound)?;
    Ok(Bound { tolerance, ..bound })
}

/// Sites that stand for all, evenly from the smallest to the largest, each with how many it stands for; and the
/// number of all.
fn sample(mut sites: Vec<Site<'_>>, most: usize) -> (Vec<(Site<'_>, usize)>, usize) {
    let total = sites.len();
    let take = total.min(most);
    let entries = |site: &Site<'_>| site.targets.iter().map(|t| t.shape.rows * t.shape.cols).sum::<usize>();
    sites.sort_by_cached_key(|site| (entries(site), site.module.clone()));
    let mut chosen = Vec::with_capacity(take);
    for (index, site) in sites.into_iter().enumerate() {
        // The k-th of `take` equal parts of the order, by the site in its middle.
        let k = chosen.len();
        let (start, end) = (k * total / take, (k + 1) * total / take);
        if index == usize::midpoint(start, end) {
            chosen.push((site, end - start));
        }
    }
    (chosen, total)
}
