//! Size and error before the heavy work, from the spectra of a sample of layers.

use serde::Serialize;

use super::plan::Site;
use super::sampling::{Cost, Samples, sample};
use super::{Context, Merge, Watch, engine};
use crate::error::Result;
use crate::fit::{Bound, FitOptions, Format, Purpose};
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

/// A way to store a merge in the smallest forms.
#[derive(Clone, Debug, Serialize)]
pub struct Alternative {
    /// The quality's name.
    pub quality: &'static str,
    /// The options that ask for it.
    pub options: String,
    /// Its size.
    pub bytes: u64,
    /// Its file-wide relative error.
    pub error: f64,
    /// The largest rank in it.
    pub rank: usize,
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
        let tolerance = if self.size_limit().is_some() { 1.0 } else { bound.tolerance };
        let surveyed = Bound { tolerance, purpose: Purpose::Estimate, ..bound };
        let how = (&context.fit, &[self.options.format][..]);
        let own = &self.sampled(&run, &context, &chosen, how, surveyed)?[0];
        let bound = self.size_limit().map_or(Ok(bound), |limit| own.at_size(limit, bound))?;
        let Cost { bytes, error, .. } = own.cost(bound, context.fit.match_norm);
        let mut forecast = Forecast {
            bytes,
            error,
            sampled: (chosen.len(), total),
            input_bytes: self.inputs.iter().map(|input| input.adapter.file().byte_len()).sum(),
            alternatives: Vec::new(),
        };
        if self.options.space == Space::Delta && forecast.is_huge() {
            forecast.alternatives = self.other_ways(&run, &context, &chosen)?;
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
        self.other_ways(&run, &context, &chosen)
    }

    fn other_ways(
        &self,
        run: &engine::Run<'_>,
        context: &Context<'_>,
        sites: &[(Site<'_>, usize)],
    ) -> Result<Vec<Alternative>> {
        let fit = FitOptions { format: Format::Auto, match_norm: false, factor: None, ..context.fit.clone() };
        let how = (&fit, &[Format::Auto][..]);
        let samples = &self.sampled(run, context, sites, how, self.any_bound())?[0];
        let Options { format, tolerance, max_size, rank, conv_rank, quality, .. } = self.options;
        let limited = tolerance.is_some() || max_size.is_some() || rank.or(conv_rank).is_some();
        let taken = (format == Format::Auto && !limited).then(|| quality.unwrap_or(Quality::Exact).name());
        let ways = self.qualities(samples).into_iter().filter(|way| Some(way.quality) != taken);
        Ok(match format {
            Format::Auto => ways.collect(),
            _ => ways.map(Alternative::in_any_format).collect(),
        })
    }

    /// What curves of every size are asked for under.
    pub(super) fn any_bound(&self) -> Bound {
        Bound { purpose: Purpose::Estimate, ..Bound::new(1.0, None, self.options.dtype) }
    }

    /// What each named quality comes to, of layers in the format `auto`.
    pub(super) fn qualities(&self, samples: &Samples) -> Vec<Alternative> {
        let largest = self.inputs.iter().map(|i| i.adapter.file().byte_len()).max().unwrap_or(0);
        let way = |quality: Quality| {
            let bound = match quality.tolerance() {
                Some(tolerance) => Bound { tolerance, ..self.any_bound() },
                None => samples.at_size(largest, self.any_bound()).ok()?,
            };
            let Cost { bytes, error, rank } = samples.cost(bound, quality == Quality::Compact);
            let quality = quality.name();
            Some(Alternative { quality, options: format!("--quality {quality}"), bytes, error, rank })
        };
        Quality::ALL.into_iter().filter_map(way).collect()
    }
}

impl Alternative {
    /// The same where the options so far name a format.
    fn in_any_format(self) -> Self {
        let options = match self.quality == Quality::Exact.name() {
            true => "--format auto".to_owned(),
            false => format!("--format auto {}", self.options),
        };
        Self { options, ..self }
    }
}
