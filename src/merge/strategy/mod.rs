//! The table of strategies: how many deltas of one layer become one.
//!
//! A strategy sees no family. Most give one coefficient per model: from weights, from the inner products of the layer's
//! deltas, or from norms over the whole file ([`Weigh`]). Others look at single entries ([`Entrywise`]), or at the
//! models' matrices in the spaces that all of them share ([`Spectral`]). A new strategy is one file here and one row in
//! [`ALL`]; what people may set is data in its row.

mod entrywise;
mod geometric_median;
mod karcher;
mod layer_adaptive;
mod min_max_norm;
mod model_stock;
mod multislerp;
mod nuslerp;
mod parameter;
mod slerp;
mod smart_fusion;
mod spectral;
mod sphere;
mod weighted;

use std::cell::OnceCell;
use std::ops::Range;

use faer::Mat;

use crate::error::{Error, Result};

pub use super::spaces::MergeSpace;
pub use entrywise::OnGpu;

pub use parameter::{Given, Kind, Parameter, Settings};

/// What a strategy may know about a layer (in factor space: about a stored tensor).
pub struct Facts<'a> {
    /// The user's weights, one per model; with the block weights where the strategy [takes them](Weigh::takes_blocks).
    pub weights: &'a [f64],
    /// The models that have the layer, in ascending order.
    pub present: &'a [usize],
    /// Entries of one delta.
    pub entries: usize,
    /// ‖Δᵢ‖ / Σ_layers ‖Δᵢ‖ of every model, 0 where it lacks the layer; empty unless the strategy asked.
    pub shares: &'a [f64],
    /// Computes the Gram matrix of the present models' deltas.
    pub make_gram: &'a dyn Fn() -> Mat<f64>,
    /// Where the Gram matrix is kept.
    pub gram: OnceCell<Mat<f64>>,
    /// Takes what the user should know of the layer; the report says it once for all layers that it is true of.
    pub warn: &'a dyn Fn(&'static str),
}

impl Facts<'_> {
    /// The Gram matrix of the present models' deltas.
    pub fn gram(&self) -> &Mat<f64> {
        self.gram.get_or_init(self.make_gram)
    }

    /// The weights as shares of their sum, for a method that finds a point between the models; all zero where they are.
    ///
    /// # Errors
    /// A weight is negative: there is no point between with less than nothing of a model.
    fn portions(&self, method: &str) -> Result<Vec<f64>> {
        if let Some(weight) = self.weights.iter().find(|weight| **weight < 0.0) {
            return Err(Error::option(format!(
                "{method} takes weights of 0 or more, and one is {weight}; task_arithmetic takes any"
            )));
        }
        Ok(shares(self.weights))
    }

    /// The mean over the entries of the second moment, and of the variance (n − 1), across the models that have
    /// the layer.
    fn moments(&self) -> (f64, f64) {
        let (gram, n) = (self.gram(), self.present.len() as f64);
        let entries = self.entries as f64;
        let squares: f64 = (0..gram.nrows()).map(|i| gram[(i, i)]).sum();
        let all: f64 = (0..gram.ncols()).map(|j| (0..gram.nrows()).map(|i| gram[(i, j)]).sum::<f64>()).sum();
        let variance = if n > 1.0 { (squares - all / n).max(0.0) / (n - 1.0) } else { 0.0 };
        (squares / n / entries, variance / entries)
    }
}

/// Numbers of 0 or more over their sum; zeros if it is zero.
fn shares(numbers: &[f64]) -> Vec<f64> {
    let total: f64 = numbers.iter().sum();
    numbers.iter().map(|x| if total > 0.0 { x / total } else { 0.0 }).collect()
}

/// How the deltas of a layer become one.
pub enum Rule {
    /// By one coefficient per model.
    Weights(Box<dyn Weigh>),
    /// By one coefficient per model for every line of ΔW.
    Lines(Box<dyn Weigh>, Lines),
    /// Entry by entry, in a space that is chosen when it isn't said.
    Entries(Box<dyn Entrywise>, Option<MergeSpace>),
    /// By the models' matrices in their joint spaces.
    Spectral(Box<dyn Spectral>),
}

/// The lines of ΔW.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lines {
    /// Each output, over its inputs.
    Rows,
    /// Each input, over the outputs.
    Columns,
}

impl Rule {
    /// What weighs the deltas, if that is all.
    pub fn weighs(&self) -> Option<&dyn Weigh> {
        match self {
            Self::Weights(rule) => Some(&**rule),
            _ => None,
        }
    }
}

/// The entries of the models that have a layer, or of their matrices in a space.
pub trait Sheets: Sync {
    /// How many models.
    fn count(&self) -> usize;

    /// Rows and columns.
    fn shape(&self) -> (usize, usize);

    /// Writes rows of a model, row-major, over `tile` (`rows.len()` · columns numbers).
    fn read(&self, model: usize, rows: Range<usize>, tile: &mut [f64]);
}

/// A rule on single entries, with what must be known of all entries first.
pub trait Entrywise: Send + Sync {
    /// # Errors
    /// Parameters that each are right and don't go together.
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// Merges tile by tile, from the top, and hands the merged rows to `take`. `seed` is the layer's own, for rules that
    /// throw dice: the same for any order of work.
    ///
    /// # Errors
    /// Weights that mean nothing to the method.
    fn merge(
        &self,
        models: &dyn Sheets,
        weights: &[f64],
        seed: u64,
        take: &mut dyn FnMut(Range<usize>, &[f64]),
    ) -> Result<()>;

    /// The rule as a GPU does it, if it has the kernels.
    fn on_gpu(&self) -> Option<OnGpu> {
        None
    }
}

/// A rule on the matrices of the models that have a layer, in spaces that all of them share: ΔWᵢ = L Mᵢ Rᵀ with
/// orthonormal columns in L and R.
pub trait Spectral: Send + Sync {
    /// The merged matrix in these spaces. `models` are the matrices times their weights, one or more, without those that
    /// weigh nothing; `extent` is the smaller one of ΔW's own sides.
    ///
    /// # Errors
    /// Numbers that are not finite.
    fn merge(&self, models: &[Mat<f64>], extent: usize) -> Result<Mat<f64>>;
}

/// How the deltas of a layer are weighed.
pub trait Weigh: Send + Sync {
    /// One coefficient per model; those of models that lack the layer are not used.
    ///
    /// # Errors
    /// Weights that mean nothing to the method, and deltas that it has no answer for.
    fn coefficients(&self, facts: &Facts<'_>) -> Result<Vec<f64>>;

    /// The same for one stored tensor in factor space, as the older scripts did it.
    ///
    /// # Errors
    /// As [`coefficients`](Self::coefficients).
    fn factor_coefficients(&self, facts: &Facts<'_>) -> Result<Vec<f64>> {
        self.coefficients(facts)
    }

    /// Whether the coefficients come from the inner products of the deltas, which must all be read for them.
    fn needs_gram(&self) -> bool {
        false
    }

    /// Whether a model's weight is multiplied with its block weight before the method sees it, so that a model whose
    /// block weight is 0 isn't there. Older strategies look at the model's weight alone, and the block weight is
    /// multiplied with what they come to.
    fn takes_blocks(&self) -> bool {
        true
    }

    /// The largest absolute entry that the merged delta is to be scaled to, if any.
    fn peak(&self) -> Option<f64> {
        None
    }
}

/// A strategy's row in the table.
pub struct Row {
    /// The name that options spell.
    pub name: &'static str,
    /// The name that people read.
    pub title: &'static str,
    /// What it does, in one line.
    pub help: &'static str,
    /// Where it comes from: arXiv's number, or whose it is.
    pub paper: &'static str,
    /// Whether it needs every layer's norms before the first coefficient.
    pub whole_file: bool,
    /// How many models it takes at least, and at most.
    pub inputs: (usize, usize),
    /// What can be set.
    pub parameters: &'static [Parameter],
    /// Makes it.
    pub make: fn(&Settings<'_>) -> Rule,
}

/// Any number of models, for [`Row::inputs`].
const ANY: (usize, usize) = (1, usize::MAX);

impl Row {
    /// The strategy with these parameters, for so many models.
    ///
    /// # Errors
    /// Parameters that it doesn't have or take, and fewer or more models than it is for.
    pub fn rule(&self, given: &Given, inputs: usize) -> Result<Rule> {
        let settings = Settings::new(self, given)?;
        let (least, most) = self.inputs;
        if inputs < least || inputs > most {
            let takes = if least == most { least.to_string() } else { format!("{least} or more") };
            return Err(Error::option(format!("{} takes {takes} models, and there are {inputs}", self.name)));
        }
        let rule = (self.make)(&settings);
        if let Rule::Entries(entrywise, _) = &rule {
            entrywise.check()?;
        }
        Ok(rule)
    }
}

/// Every strategy.
pub static ALL: &[&Row] = &[
    &weighted::SUM,
    &weighted::AVERAGE,
    &layer_adaptive::ROW,
    &smart_fusion::ROW,
    &min_max_norm::ROW,
    &weighted::LINEAR,
    &weighted::TASK_ARITHMETIC,
    &weighted::CAT,
    &weighted::SVD,
    &slerp::ROW,
    &nuslerp::ROW,
    &multislerp::ROW,
    &karcher::ROW,
    &geometric_median::ROW,
    &model_stock::ROW,
    &spectral::TSV,
    &spectral::ISO_C,
    &spectral::ISO_CTS,
    &spectral::SVC,
    &spectral::PICO,
    &spectral::WUDI,
    &spectral::SUBSPACE_BOOST,
    &spectral::CTM,
    &entrywise::TIES,
    &entrywise::DARE_LINEAR,
    &entrywise::DARE_TIES,
    &entrywise::DELLA,
    &entrywise::DELLA_LINEAR,
    &entrywise::BREADCRUMBS,
    &entrywise::BREADCRUMBS_TIES,
    &entrywise::MAGNITUDE_PRUNE,
    &entrywise::SCE,
    &entrywise::CONSENSUS,
    &entrywise::PCB,
    &entrywise::TIES_SVD,
    &entrywise::DARE_LINEAR_SVD,
    &entrywise::DARE_TIES_SVD,
    &entrywise::MAGNITUDE_PRUNE_SVD,
];

/// The row of a name.
///
/// # Errors
/// An unknown name; the message lists the known ones.
pub fn by_name(name: &str) -> Result<&'static Row> {
    ALL.iter().copied().find(|row| row.name == name).ok_or_else(|| {
        let names: Vec<_> = ALL.iter().map(|row| row.name).collect();
        Error::option(format!("unknown strategy '{name}'; use one of {}", names.join(", ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn coefficients(
        name: &str,
        options: &Given,
        weights: &[f64],
        present: &[usize],
        deltas: &[&[f64]],
        shares: &[f64],
    ) -> Vec<f64> {
        let gram = || {
            Mat::from_fn(present.len(), present.len(), |i, j| {
                deltas[present[i]].iter().zip(deltas[present[j]]).map(|(x, y)| x * y).sum()
            })
        };
        let entries = deltas[present[0]].len();
        let facts = Facts {
            weights,
            present,
            entries,
            shares,
            make_gram: &gram,
            gram: OnceCell::new(),
            warn: &|_| {},
        };
        match by_name(name).unwrap().rule(options, weights.len()).unwrap() {
            Rule::Weights(rule) => rule.coefficients(&facts).unwrap(),
            _ => panic!("{name} has no coefficients"),
        }
    }

    #[test]
    fn layer_adaptive_is_the_elementwise_variance_over_the_second_moment() {
        let deltas: [&[f64]; 3] = [&[1.0, -2.0, 0.5, 3.0], &[0.5, 1.0, 0.25, 2.0], &[-1.0, 0.0, 4.0, 1.0]];
        let mean = |f: &dyn Fn(usize) -> f64| (0..4).map(f).sum::<f64>() / 4.0;
        let at = |j: usize| deltas.map(|d| d[j]);
        let variance = mean(&|j| {
            let m = at(j).iter().sum::<f64>() / 3.0;
            at(j).iter().map(|x| (x - m).powi(2)).sum::<f64>() / 2.0
        });
        let second = mean(&|j| at(j).iter().map(|x| x * x).sum::<f64>() / 3.0);
        let a = 1.0 / (1.0 + variance / second);
        let got = coefficients("layer_adaptive", &Given::new(), &[0.5, -1.0, 2.0], &[0, 1, 2], &deltas, &[]);
        for (got, want) in got.iter().zip([0.5 * a, -a, 2.0 * a]) {
            assert!((got - want).abs() < 1e-12, "{got} {want}");
        }
        let alone = coefficients("layer_adaptive", &Given::new(), &[0.7, 1.0], &[0], &deltas[..2], &[]);
        assert_eq!(alone[0], 0.7);
    }

    #[test]
    fn smart_fusion_weighs_by_the_share_of_the_layer_and_counts_absent_models() {
        let deltas: [&[f64]; 3] = [&[1.0], &[1.0], &[1.0]];
        let got =
            coefficients("smart_fusion", &Given::new(), &[1.0, 0.5, 2.0], &[0, 1], &deltas, &[0.2, 0.1, 0.0]);
        let b = [1.2, 0.55, 1.0];
        let sum: f64 = b.iter().sum();
        for (i, weight) in [1.0, 0.5].iter().enumerate() {
            assert!((got[i] - b[i] / sum * weight).abs() < 1e-12);
        }
        let cancelled =
            coefficients("smart_fusion", &Given::new(), &[1.0, -3.0], &[0, 1], &deltas, &[0.1, 0.1]);
        assert_eq!(cancelled, [1.0, -3.0]);
    }

    #[test]
    fn weighted_average_divides_only_when_asked() {
        let deltas: [&[f64]; 2] = [&[1.0], &[2.0]];
        let normalize = Given::from([("normalize".to_owned(), "true".to_owned())]);
        assert_eq!(
            coefficients("weighted_average", &Given::new(), &[1.0, 3.0], &[0, 1], &deltas, &[]),
            [1.0, 3.0]
        );
        assert_eq!(
            coefficients("weighted_average", &normalize, &[1.0, 3.0], &[0, 1], &deltas, &[]),
            [0.25, 0.75]
        );
    }

    #[test]
    fn an_unknown_strategy_names_the_known_ones() {
        assert!(by_name("magic").err().unwrap().message().contains("smart_fusion"));
    }
}
