//! A weighing rule on every row, or every column, of ΔW by itself: one Gram matrix and one coefficient per model for each.

use std::cell::OnceCell;
use std::ops::Range;

use faer::Mat;

use super::{Entrywise, Facts, Sheets, Weigh};
use crate::error::Result;

/// What is taken by itself.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Split {
    /// Each output, over its inputs.
    Rows,
    /// Each input, over the outputs.
    Columns,
}

/// A rule on lines.
pub(super) struct Lines {
    pub(super) rule: Box<dyn Weigh>,
    pub(super) split: Split,
    pub(super) counts_absent: bool,
}

/// Numbers of a model in a tile.
const TILE: usize = 1 << 15;

impl Entrywise for Lines {
    fn merge(
        &self,
        models: &dyn Sheets,
        weights: &[f64],
        _: u64,
        take: &mut dyn FnMut(Range<usize>, &[f64]),
    ) -> Result<()> {
        let (rows, cols) = models.shape();
        // A vector is one line, whichever way it lies.
        let split = match (rows, cols) {
            (_, 1) => Split::Columns,
            (1, _) => Split::Rows,
            _ => self.split,
        };
        if split == Split::Rows {
            return each_tile(models, |range, tiles| {
                let mut grams = Grams::new(range.len(), tiles.len());
                each_entry(tiles, cols, |row, _, entries| grams.add(row, entries));
                let coefficients = self.coefficients(&grams, weights, cols)?;
                let merged = combine(tiles, cols, |row, _| &coefficients[row]);
                take(range, &merged);
                Ok(())
            });
        }
        let mut grams = Grams::new(cols, models.count());
        each_tile(models, |_, tiles| {
            each_entry(tiles, cols, |_, column, entries| grams.add(column, entries));
            Ok(())
        })?;
        let coefficients = self.coefficients(&grams, weights, rows)?;
        each_tile(models, |range, tiles| {
            let merged = combine(tiles, cols, |_, column| &coefficients[column]);
            take(range, &merged);
            Ok(())
        })
    }

    fn counts_absent(&self) -> bool {
        self.counts_absent
    }
}

impl Lines {
    /// The coefficients of the models in every line.
    fn coefficients(&self, grams: &Grams, weights: &[f64], entries: usize) -> Result<Vec<Vec<f64>>> {
        let present: Vec<usize> = (0..weights.len()).collect();
        let of_line = |line| {
            let facts = Facts {
                weights,
                present: &present,
                entries,
                shares: &[],
                make_gram: &|| grams.of(line),
                gram: OnceCell::new(),
                // Lines differ, and what is true of one says little of the layer.
                warn: &|_| {},
            };
            self.rule.coefficients(&facts)
        };
        (0..grams.lines).map(of_line).collect()
    }
}

/// The Gram matrices of lines.
struct Grams {
    lines: usize,
    count: usize,
    sums: Vec<f64>,
}

impl Grams {
    fn new(lines: usize, count: usize) -> Self {
        Self { lines, count, sums: vec![0.0; lines * count * count] }
    }

    fn add(&mut self, line: usize, entries: &[f64]) {
        let n = self.count;
        let sums = &mut self.sums[line * n * n..(line + 1) * n * n];
        for (row, x) in sums.chunks_exact_mut(n).zip(entries) {
            row.iter_mut().zip(entries).for_each(|(sum, y)| *sum += x * y);
        }
    }

    fn of(&self, line: usize) -> Mat<f64> {
        let n = self.count;
        Mat::from_fn(n, n, |i, j| self.sums[line * n * n + i * n + j])
    }
}

/// Hands the same rows of all models over, tile by tile.
fn each_tile(
    models: &dyn Sheets,
    mut use_tiles: impl FnMut(Range<usize>, &[Vec<f64>]) -> Result<()>,
) -> Result<()> {
    let (rows, cols) = models.shape();
    let height = (TILE / cols.max(1)).clamp(1, rows.max(1));
    for top in (0..rows).step_by(height) {
        let range = top..rows.min(top + height);
        let tile = |model| {
            let mut tile = vec![0.0; range.len() * cols];
            models.read(model, range.clone(), &mut tile);
            tile
        };
        use_tiles(range.clone(), &(0..models.count()).map(tile).collect::<Vec<_>>())?;
    }
    Ok(())
}

/// Hands every entry's row and column, and what the models have there, over.
fn each_entry(tiles: &[Vec<f64>], cols: usize, mut take: impl FnMut(usize, usize, &[f64])) {
    let mut entries = vec![0.0; tiles.len()];
    for at in 0..tiles.first().map_or(0, Vec::len) {
        entries.iter_mut().zip(tiles).for_each(|(x, tile)| *x = tile[at]);
        take(at / cols, at % cols, &entries);
    }
}

/// Σ cᵢ xᵢ of every entry.
fn combine<'c>(tiles: &[Vec<f64>], cols: usize, of: impl Fn(usize, usize) -> &'c Vec<f64>) -> Vec<f64> {
    let entry = |at: usize| {
        let coefficients = of(at / cols, at % cols);
        tiles.iter().zip(coefficients).map(|(tile, c)| c * tile[at]).sum()
    };
    (0..tiles.first().map_or(0, Vec::len)).map(entry).collect()
}
