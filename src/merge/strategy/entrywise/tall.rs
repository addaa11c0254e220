//! Consensus merging by TALL masks (arXiv 2405.07813): the sum τ = Σ wᵢ Δᵢ, without the entries that matter to fewer than k
//! models. One matters to model i where |wᵢ Δᵢ| > λₜ |τ − wᵢ Δᵢ|.
//!
//! Names are those of the authors' code (`prun_thre_k`, `tall_mask_lambda`), which chooses λₜ per model from 0.2 to 0.6 on
//! validation data; without any it is one number here. Otherwise than there: a layer that fewer than k models have would
//! lose everything, so that there all that have it are enough.

use std::ops::Range;

use super::super::{Entrywise, Kind, Parameter, Row, Sheets};
use super::tiles::{Tiles, zero};
use super::{LAMBDA, SPACE, entries, row};
use crate::error::Result;

pub(in super::super) const ROW: Row = row(
    "consensus",
    "Consensus (TALL masks)",
    "arXiv 2405.07813",
    "the weighted sum without the entries that matter to fewer than prun_thre_k models",
    &[
        Parameter {
            name: "prun_thre_k",
            kind: Kind::Count(0, u64::MAX),
            default: "2",
            help: "how many models an entry must matter to: 0 keeps all, 1 drops what matters to none, 2 also what matters \
                   to one",
        },
        Parameter {
            name: "tall_mask_lambda",
            kind: Kind::Number(0.0, f64::MAX),
            default: "0.4",
            help: "an entry matters to a model that is larger there than this times all others together",
        },
        LAMBDA,
        SPACE,
    ],
    |settings| {
        let tall = Tall {
            least: settings.count("prun_thre_k"),
            share: settings.number("tall_mask_lambda"),
            lambda: settings.number("lambda"),
        };
        entries(tall, settings)
    },
);

struct Tall {
    least: u64,
    share: f64,
    lambda: f64,
}

impl Entrywise for Tall {
    fn merge(
        &self,
        models: &dyn Sheets,
        weights: &[f64],
        _: u64,
        take: &mut dyn FnMut(Range<usize>, &[f64]),
    ) -> Result<()> {
        let least = self.least.min(weights.len() as u64) as f64;
        let (mut sums, mut votes) = (Vec::new(), Vec::new());
        Tiles::new(models).for_each(|rows, models| {
            zero([&mut sums, &mut votes], models[0].len());
            for (tile, w) in models.iter().zip(weights) {
                sums.iter_mut().zip(tile).for_each(|(sum, x)| *sum += w * x);
            }
            for (tile, w) in models.iter().zip(weights) {
                for ((vote, sum), x) in votes.iter_mut().zip(&sums).zip(tile) {
                    let own = w * x;
                    *vote += if own.abs() > self.share * (sum - own).abs() { 1.0 } else { 0.0 };
                }
            }
            for (sum, vote) in sums.iter_mut().zip(&votes) {
                *sum = if *vote >= least { self.lambda * *sum } else { 0.0 };
            }
            take(rows, &sums);
        });
        Ok(())
    }
}
