//! Size and error before the heavy work, from the spectra of a sample of layers.

use std::collections::BTreeMap;

use super::plan::{Site, Target};
use super::{Context, Merge, Watch, engine, plan};
use crate::error::Result;
use crate::fit::{Bound, Curve, FitOptions, Format, budget};
use crate::merge::{Quality, Space};

/// How many layers are looked at.
const SAMPLE: usize = 24;

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
        let sites = plan::sites(&self.inputs)?;
        let context = self.context(&run, &sites)?;
        run.stage("surveying");
        let (chosen, total) = sample(sites);
        let bound = self.plain_bound();
        let survey = |tolerance: f64, context: &Context<'_>| {
            let bound = Bound { tolerance, values_only: true, rank_only: false, ..bound };
            sampled_curves(&run, context, &chosen, bound)
        };
        let overhead = self.overhead(chosen.iter().map(|(site, count)| (site, *count))) as u64;
        let own = survey(if self.size_limit().is_some() { 1.0 } else { bound.tolerance }, &context)?;
        let bound = match self.size_limit() {
            None => bound,
            Some(limit) => at_size(&own, limit.saturating_sub(overhead), bound)?,
        };
        let main = self.cost(&own, bound, overhead, "");
        let sampled = (chosen.len(), total);
        let mut forecast = Forecast {
            bytes: main.bytes,
            error: main.error,
            sampled,
            input_bytes: self.inputs.iter().map(|input| input.adapter.file().byte_len()).sum(),
            alternatives: Vec::new(),
        };
        if self.options.space == Space::Delta && (forecast.is_huge() || forecast.error > budget::EXACT) {
            let fit =
                |format, match_norm| FitOptions { format, match_norm, factor: None, ..context.fit.clone() };
            let with = |fit| Context {
                fit,
                strategy: (strategy_row(self).make)(&self.options),
                shares: context.shares.clone(),
                key_shares: BTreeMap::new(),
                ..context
            };
            let free = Bound { rank: None, ..bound };
            let lora = survey_with(&run, &with(fit(Format::Lora, false)), &chosen, free)?;
            let at = |tolerance| Bound { tolerance, ..free };
            forecast.alternatives.push(self.cost(
                &lora,
                at(budget::EXACT),
                overhead,
                "--format lora --tolerance 0.01",
            ));
            if self.options.quality != Some(Quality::Good) {
                let auto = survey_with(&run, &with(fit(Format::Auto, false)), &chosen, free)?;
                forecast.alternatives.push(self.cost(&auto, at(0.2), overhead, "--quality good"));
                let largest = self.inputs.iter().map(|i| i.adapter.file().byte_len()).max().unwrap_or(0);
                if self.options.quality != Some(Quality::Compact)
                    && let Ok(compact) = at_size(&auto, largest.saturating_sub(overhead), free)
                {
                    forecast.alternatives.push(self.cost(&auto, compact, overhead, "--quality compact"));
                }
            }
        }
        Ok(forecast)
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

fn strategy_row(merge: &Merge) -> &'static super::strategy::Row {
    super::strategy::by_name(&merge.options.strategy).expect("the context was made with it")
}

fn survey_with(
    run: &engine::Run<'_>,
    context: &Context<'_>,
    sites: &[(Site<'_>, usize)],
    bound: Bound,
) -> Result<Vec<Sample>> {
    let bound = Bound { tolerance: 1.0, values_only: true, rank_only: false, ..bound };
    sampled_curves(run, context, sites, bound)
}

fn sampled_curves(
    run: &engine::Run<'_>,
    context: &Context<'_>,
    sites: &[(Site<'_>, usize)],
    bound: Bound,
) -> Result<Vec<Sample>> {
    let (only, counts): (Vec<&Site<'_>>, Vec<usize>) =
        sites.iter().map(|(site, count)| (site, *count)).unzip();
    let of_site = |site: &Site<'_>| {
        let of_target = |target: &Target<'_>| context.curves(target, bound);
        site.targets.iter().map(of_target).collect::<Result<Vec<_>>>()
    };
    let found = run.map(&only, of_site)?;
    let sample = |(targets, count): (Vec<(Vec<Curve>, f64)>, usize)| {
        targets.into_iter().map(move |(curves, norm)| Sample { curves, norm, count })
    };
    Ok(found.into_iter().zip(counts).flat_map(sample).collect())
}

fn at_size(samples: &[Sample], bytes: u64, bound: Bound) -> Result<Bound> {
    let expanded: Vec<Vec<Curve>> =
        samples.iter().flat_map(|sample| std::iter::repeat_n(sample.curves.clone(), sample.count)).collect();
    let tolerance = budget::tolerance_for_size(&expanded, bytes as usize / bound.dtype.size(), bound)?;
    Ok(Bound { tolerance, ..bound })
}

/// Sites that stand for all: of every shape and set of families about as many as its share asks for, each with
/// how many it stands for. The number of all sites comes back with them.
fn sample(sites: Vec<Site<'_>>) -> (Vec<(Site<'_>, usize)>, usize) {
    let total = sites.len();
    let kind = |site: &Site<'_>| {
        let of_target = |t: &Target<'_>| {
            (
                t.shape.rows,
                t.shape.cols,
                t.sources.iter().map(|(i, l)| (*i, l.family, l.rank)).collect::<Vec<_>>(),
            )
        };
        site.targets.iter().map(of_target).collect::<Vec<_>>()
    };
    let mut groups: BTreeMap<_, Vec<Site<'_>>> = BTreeMap::new();
    for site in sites {
        groups.entry(kind(&site)).or_default().push(site);
    }
    let mut chosen = Vec::new();
    for group in groups.into_values() {
        let count = group.len();
        let take = if total <= SAMPLE { count } else { (count * SAMPLE).div_ceil(total).min(count) };
        let step = count / take;
        for (k, site) in group.into_iter().step_by(step).take(take).enumerate() {
            // The counts of a group add up to it.
            chosen.push((site, count * (k + 1) / take - count * k / take));
        }
    }
    (chosen, total)
}
