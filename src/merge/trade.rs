//! The trade of a merge: how large a file is in every format, and how far from the true merge, before any is written.
//!
//! The spectra of a sample of layers say it for all ranks at once, by the same means as the forecast of one merge.

use serde::Serialize;

use super::forecast::Alternative;
use super::plan::{Site, Target};
use super::sampling::{Cost, Samples, sample};
use super::{Input, MatchNorm, Merge, Options, Space, Watch, engine};
use crate::adapter::Family;
use crate::delta::MOST_FORMED;
use crate::error::{Error, Result};
use crate::fit::{Bound, Format};
use crate::tensor::Dtype;

/// How many layers are looked at; in LoHa, which has to be fitted to tell, at least a few, and as many more as have so many
/// entries together.
const SAMPLE: usize = 128;
const SLOW_SAMPLE: usize = 6;
const SLOW_ENTRIES: usize = 1 << 24;

/// The errors per layer that `auto` is planned for, besides its default.
const TOLERANCES: [f64; 9] = [0.003, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7];

/// The dtypes that hosts read everywhere.
const DTYPES: [Dtype; 3] = [Dtype::F16, Dtype::BF16, Dtype::F32];

/// What a merge can be stored as.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// The inputs in their order.
    pub inputs: Vec<PlannedInput>,
    /// ‖true‖ over the whole file.
    pub norm: f64,
    /// Layers of the output.
    pub layers: usize,
    /// How many of them were looked at.
    pub sampled: usize,
    /// The named qualities.
    pub qualities: Vec<Alternative>,
    /// Size against error of every format that suits the inputs, in the merge's dtype first.
    pub curves: Vec<TradeCurve>,
}

/// An input of a plan.
#[derive(Clone, Debug, Serialize)]
pub struct PlannedInput {
    /// Its file's name.
    pub name: String,
    /// Its size.
    pub bytes: u64,
}

/// One format in one dtype.
#[derive(Clone, Debug, Serialize)]
pub struct TradeCurve {
    /// The format.
    pub format: &'static str,
    /// The element type of the output, as options spell it.
    pub dtype: String,
    /// From the smallest file to the largest.
    pub points: Vec<TradePoint>,
}

/// One way to store the merge.
#[derive(Clone, Debug, Serialize)]
pub struct TradePoint {
    /// The options that ask for it.
    pub options: String,
    /// The rank that they ask for, or the largest that they come to; none where layers have no rank.
    pub rank: Option<usize>,
    /// The output's size.
    pub bytes: u64,
    /// The file-wide relative error.
    pub error: f64,
}

impl Plan {
    /// All of it.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}

impl Merge {
    /// Size and error of the merge in every format, rank and dtype. What the options say about the stored form counts for
    /// nothing, but for the dtype and LoKr's factor.
    ///
    /// # Errors
    /// Whatever is wrong with inputs or options.
    pub fn plan(&self, watch: Watch<'_>) -> Result<Plan> {
        if self.options.space == Space::Factor {
            return Err(Error::option(
                "there is nothing to plan in space factor: tensors are stored as they come out",
            ));
        }
        let merge = Self { options: unlimited(&self.options), ..self.clone() };
        let mut run = engine::Run::new(merge.options.threads, merge.options.memory, watch)?;
        let sites = merge.sites()?;
        let context = merge.context(&run, &sites)?;
        merge.check_known(&sites)?;
        run.stage("surveying");
        let (slow, quick): (Vec<_>, Vec<_>) =
            merge.sensible_formats(&sites).into_iter().partition(|format| *format == Format::Loha);
        let sampled = |sites, formats: &[Format], most| -> Result<_> {
            let (chosen, layers) = sample(sites, most);
            let found = merge.sampled(&run, &context, &chosen, (&context.fit, formats), merge.any_bound())?;
            Ok((found, chosen.len(), layers))
        };
        let targets = sites.iter().flat_map(|site| &site.targets);
        let entries: usize = targets.map(|target| target.shape.rows * target.shape.cols).sum();
        let few = (SLOW_ENTRIES * sites.len() / entries.max(1)).clamp(SLOW_SAMPLE, SAMPLE);
        let (mut all, looked_at, layers) = sampled(sites, &quick, SAMPLE)?;
        if !slow.is_empty() {
            all.extend(sampled(merge.sites()?, &slow, few)?.0);
        }
        let formats: Vec<Format> = quick.into_iter().chain(slow).collect();
        let auto = &all[0];
        let dtypes = std::iter::once(merge.options.dtype)
            .chain(DTYPES.into_iter().filter(|dtype| *dtype != merge.options.dtype));
        let curve = |dtype: Dtype| {
            let merge = &merge;
            formats.iter().zip(&all).map(move |(format, samples)| merge.trade_curve(*format, samples, dtype))
        };
        let inputs = merge.inputs.iter();
        Ok(Plan {
            inputs: inputs.map(PlannedInput::of).collect(),
            norm: auto.norm(),
            layers,
            sampled: looked_at,
            qualities: merge.qualities(auto),
            curves: dtypes.flat_map(curve).collect(),
        })
    }

    /// `auto` first, and what is of one of the inputs' families or holds everything.
    fn sensible_formats(&self, sites: &[Site<'_>]) -> Vec<Format> {
        let is_formable = |target: &Target<'_>| target.shape.rows * target.shape.cols <= MOST_FORMED;
        let formable = sites.iter().flat_map(|site| &site.targets).all(is_formable);
        let has = |family: Family| {
            let is = |input: &Input| input.adapter.layers().values().any(|layer| layer.family == family);
            self.inputs.iter().any(is)
        };
        let is_sensible = |format: &Format| match format {
            Format::Lokr => self.options.factor.is_some() || has(Family::Lokr),
            Format::Loha => has(Family::Loha) && formable,
            Format::Full => formable,
            Format::Auto | Format::Lora => true,
        };
        let formats = [Format::Auto, Format::Lora, Format::Lokr, Format::Loha, Format::Full];
        formats.into_iter().filter(is_sensible).collect()
    }

    fn trade_curve(&self, format: Format, samples: &Samples, dtype: Dtype) -> TradeCurve {
        let bound = Bound { dtype, ..self.any_bound() };
        let dtype_option = match dtype == self.options.dtype && dtype == Options::default().dtype {
            true => String::new(),
            false => format!(" --dtype {dtype}"),
        };
        let point = |samples: &Samples, options: &str, rank: Option<usize>, tolerance: f64| {
            let Cost { bytes, error, rank: found } = samples.cost(Bound { tolerance, ..bound }, false);
            let rank = rank.or((found > 0).then_some(found));
            let options = format!("--format {}{options}{dtype_option}", format.name());
            TradePoint { options, rank, bytes, error }
        };
        let at_rank =
            |rank: usize| point(&samples.at_rank(rank), &format!(" --rank {rank}"), Some(rank), 0.0);
        let whole = point(samples, "", None, 0.0);
        let most = whole.rank.unwrap_or(0);
        let ranks = ranks().take_while(|rank| *rank < most);
        let mut points: Vec<TradePoint> = match format {
            Format::Auto => TOLERANCES
                .iter()
                .map(|tolerance| point(samples, &format!(" --tolerance {tolerance}"), None, *tolerance))
                .collect(),
            Format::Lora | Format::Lokr => ranks.map(at_rank).chain([whole]).collect(),
            Format::Loha | Format::Full => vec![whole],
        };
        points.sort_by_key(|point| point.bytes);
        // Of what is stored in the same way, the one that asks for the least.
        points.dedup_by_key(|point| point.bytes);
        TradeCurve { format: format.name(), dtype: dtype.to_string(), points }
    }
}

/// The options without what limits the stored form.
fn unlimited(options: &Options) -> Options {
    let Options {
        strategy, settings, factor, match_norm, dtype, naming, skip_unknown, threads, memory, ..
    } = options.clone();
    // The fit's scaling is no part of what is merged.
    let match_norm = if match_norm == MatchNorm::Fit { MatchNorm::Off } else { match_norm };
    let merged = Options { strategy, settings, factor, match_norm, dtype, naming, ..Options::default() };
    Options { skip_unknown, threads, memory, ..merged }
}

/// Powers of two, and more of them the further apart they are: 1, 2, 4, 8, 16, 24, 32, 48, 64, 80, 96, 112, 128, ….
fn ranks() -> impl Iterator<Item = usize> {
    let powers = (0..usize::BITS - 1).map(|power| 1_usize << power);
    powers.flat_map(|rank| {
        let steps = match rank {
            0..16 => 1,
            16..64 => 2,
            _ => 4,
        };
        (0..steps).map(move |step| rank + rank / steps * step)
    })
}

impl PlannedInput {
    fn of(input: &Input) -> Self {
        Self { name: input.name(), bytes: input.adapter.file().byte_len() }
    }
}
