//! The table of strategies: how many deltas of one layer become one.
//!
//! A strategy gives one coefficient per model and sees no family and no entries: from weights, from the
//! inner products of the layer's deltas, or from norms over the whole file, which are gathered in a first pass
//! only where it asks for them. A new strategy is one file here and one row in [`ALL`].

mod layer_adaptive;
mod min_max_norm;
mod smart_fusion;
mod weighted;

use std::cell::OnceCell;

use faer::Mat;

use super::options::Options;
use crate::error::{Error, Result};

/// What a strategy may know about a layer (in factor space: about a stored tensor).
pub struct Facts<'a> {
    /// The user's weights, one per model.
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
}

impl Facts<'_> {
    /// The Gram matrix of the present models' deltas.
    pub fn gram(&self) -> &Mat<f64> {
        self.gram.get_or_init(self.make_gram)
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

/// How the deltas of a layer are weighed.
pub trait Strategy: Send + Sync {
    /// One coefficient per model; those of models that lack the layer are not used.
    fn coefficients(&self, facts: &Facts<'_>) -> Vec<f64>;

    /// The same for one stored tensor in factor space, as the older scripts did it.
    fn factor_coefficients(&self, facts: &Facts<'_>) -> Vec<f64> {
        self.coefficients(facts)
    }

    /// Whether the coefficients come from the inner products of the deltas, which must all be read for them.
    fn needs_gram(&self) -> bool {
        false
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
    /// Whether it needs every layer's norms before the first coefficient.
    pub whole_file: bool,
    /// The options that only some strategies read.
    pub options: &'static [&'static str],
    /// Makes it.
    pub make: fn(&Options) -> Box<dyn Strategy>,
}

/// Every strategy.
pub static ALL: [Row; 5] =
    [weighted::SUM, weighted::AVERAGE, layer_adaptive::ROW, smart_fusion::ROW, min_max_norm::ROW];

/// The row of a name.
///
/// # Errors
/// An unknown name; the message lists the known ones.
pub fn by_name(name: &str) -> Result<&'static Row> {
    ALL.iter().find(|row| row.name == name).ok_or_else(|| {
        let names: Vec<_> = ALL.iter().map(|row| row.name).collect();
        Error::option(format!("unknown strategy '{name}'; use one of {}", names.join(", ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn coefficients(
        name: &str,
        options: &Options,
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
        let facts = Facts { weights, present, entries, shares, make_gram: &gram, gram: OnceCell::new() };
        (by_name(name).unwrap().make)(options).coefficients(&facts)
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
        let got =
            coefficients("layer_adaptive", &Options::default(), &[0.5, -1.0, 2.0], &[0, 1, 2], &deltas, &[]);
        for (got, want) in got.iter().zip([0.5 * a, -a, 2.0 * a]) {
            assert!((got - want).abs() < 1e-12, "{got} {want}");
        }
        let alone = coefficients("layer_adaptive", &Options::default(), &[0.7, 1.0], &[0], &deltas[..2], &[]);
        assert_eq!(alone[0], 0.7);
    }

    #[test]
    fn smart_fusion_weighs_by_the_share_of_the_layer_and_counts_absent_models() {
        let deltas: [&[f64]; 3] = [&[1.0], &[1.0], &[1.0]];
        let got = coefficients(
            "smart_fusion",
            &Options::default(),
            &[1.0, 0.5, 2.0],
            &[0, 1],
            &deltas,
            &[0.2, 0.1, 0.0],
        );
        let b = [1.2, 0.55, 1.0];
        let sum: f64 = b.iter().sum();
        for (i, weight) in [1.0, 0.5].iter().enumerate() {
            assert!((got[i] - b[i] / sum * weight).abs() < 1e-12);
        }
        let cancelled =
            coefficients("smart_fusion", &Options::default(), &[1.0, -3.0], &[0, 1], &deltas, &[0.1, 0.1]);
        assert_eq!(cancelled, [1.0, -3.0]);
    }

    #[test]
    fn weighted_average_divides_only_when_asked() {
        let deltas: [&[f64]; 2] = [&[1.0], &[2.0]];
        let normalize = Options { normalize: true, ..Options::default() };
        assert_eq!(
            coefficients("weighted_average", &Options::default(), &[1.0, 3.0], &[0, 1], &deltas, &[]),
            [1.0, 3.0]
        );
        assert_eq!(
            coefficients("weighted_average", &normalize, &[1.0, 3.0], &[0, 1], &deltas, &[]),
            [0.25, 0.75]
        );
    }

    #[test]
    fn an_unknown_strategy_names_the_known_ones() {
        assert!(by_name("ties").err().unwrap().message().contains("smart_fusion"));
    }
}
