//! Weighing rules on every row, or every column, of ΔW by itself: a Gram matrix and one coefficient per model for each.
//!
//! The Gram matrices come from entries, a tile at a time. What comes of them scales the rows (or columns) of each model's
//! factors, so a merge of low rank stays one.

use std::cell::OnceCell;

use faer::Mat;

use super::Context;
use super::plan::{Merged, Target};
use super::strategy::{Facts, Lines, Weigh};
use crate::compute::linalg::row_blocks;
use crate::delta::dense::Rows;
use crate::delta::{Delta, Factor, Term};
use crate::error::Result;
use crate::tensor::Real;

impl Context<'_> {
    /// The merged delta by a rule on lines.
    pub(super) fn by_lines<T: Real>(
        &self,
        target: &Target<'_>,
        rule: &dyn Weigh,
        lines: Lines,
    ) -> Result<Merged<T>> {
        let read = |source| target.read_by_weight::<T>(self.inputs, source);
        let deltas: Vec<Delta<T>> = target.sources.iter().map(read).collect::<Result<_>>()?;
        let (weights, present) = target.weights(self.inputs, true);
        let (rows, cols) = (target.shape.rows, target.shape.cols);
        // A vector is one line, whichever way it lies.
        let lines = match (rows, cols) {
            (_, 1) => Lines::Columns,
            (1, _) => Lines::Rows,
            _ => lines,
        };
        let grams = Grams::of(&deltas, lines);
        let of_line = |line| {
            let facts = Facts {
                weights: &weights,
                present: &present,
                entries: if lines == Lines::Rows { cols } else { rows },
                shares: &[],
                make_gram: &|| grams.of_line(line),
                gram: OnceCell::new(),
                // What is true of one line says little of the layer.
                warn: &|_| {},
            };
            target.coefficients(rule, &facts)
        };
        let coefficients: Vec<Vec<f64>> = (0..grams.lines).map(of_line).collect::<Result<_>>()?;
        let mut delta = Delta::zero(rows, cols);
        for (k, model) in deltas.iter().enumerate() {
            let of_model: Vec<f64> = coefficients.iter().map(|all| all[k]).collect();
            delta.add_scaled(1.0, &scaled(model, &of_model, lines)?);
        }
        let weights = present.iter().map(|index| weights[*index]).collect();
        Ok(Merged { delta, inherited: None, coefficients: weights, scaled: 1.0, space: None, matched: None })
    }
}

/// The delta with every line multiplied by its own factor.
fn scaled<T: Real>(delta: &Delta<T>, factors: &[f64], lines: Lines) -> Result<Delta<T>> {
    let scale = |matrix: &mut Mat<T>| {
        for j in 0..matrix.ncols() {
            for i in 0..matrix.nrows() {
                let factor = factors[if lines == Lines::Rows { i } else { j }];
                matrix[(i, j)] *= T::from_f64(factor);
            }
        }
    };
    let factor = if delta.is_dense() {
        delta.check_formable()?;
        let mut full = delta.to_full();
        scale(&mut full);
        Factor::Full(full)
    } else {
        let (mut left, mut right) = delta.to_product();
        scale(if lines == Lines::Rows { &mut left } else { &mut right });
        Factor::Product { left, right }
    };
    Ok(Delta::of(1.0, Term::Plain(factor)))
}

/// The Gram matrices of all lines.
struct Grams {
    lines: usize,
    count: usize,
    sums: Vec<f64>,
}

impl Grams {
    fn of<T: Real>(deltas: &[Delta<T>], lines: Lines) -> Self {
        let (rows, cols, count) = (deltas[0].rows(), deltas[0].cols(), deltas.len());
        let number = if lines == Lines::Rows { rows } else { cols };
        let mut grams = Self { lines: number, count, sums: vec![0.0; number * count * count] };
        let models: Vec<_> = deltas.iter().map(Rows::new).collect();
        for range in row_blocks(rows, cols) {
            let tile = |model: &Rows<'_, T>| {
                let mut tile = vec![T::from_f64(0.0); range.len() * cols];
                model.add(range.clone(), &mut tile);
                tile
            };
            let tiles: Vec<Vec<T>> = models.iter().map(tile).collect();
            let mut entries = vec![0.0; count];
            for at in 0..range.len() * cols {
                entries.iter_mut().zip(&tiles).for_each(|(x, tile)| *x = tile[at].to_f64());
                grams.add(if lines == Lines::Rows { range.start + at / cols } else { at % cols }, &entries);
            }
        }
        grams
    }

    fn add(&mut self, line: usize, entries: &[f64]) {
        let n = self.count;
        let sums = &mut self.sums[line * n * n..(line + 1) * n * n];
        for (row, x) in sums.chunks_exact_mut(n).zip(entries) {
            row.iter_mut().zip(entries).for_each(|(sum, y)| *sum += x * y);
        }
    }

    fn of_line(&self, line: usize) -> Mat<f64> {
        let n = self.count;
        Mat::from_fn(n, n, |i, j| self.sums[line * n * n + i * n + j])
    }
}
