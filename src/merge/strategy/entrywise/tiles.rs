//! The models of a layer tile by tile: the same tiles in every pass, so that an entry is the same number each time.

use std::ops::Range;

use super::super::Sheets;

/// Entries in a tile: all models' tiles stay in a core's own cache, and a tile is high enough to be made fast.
const TILE: usize = 1 << 15;

/// The rows of all models, some at a time.
pub(super) struct Tiles<'a> {
    models: &'a dyn Sheets,
    rows: usize,
    cols: usize,
}

impl<'a> Tiles<'a> {
    pub(super) fn new(models: &'a dyn Sheets) -> Self {
        let (rows, cols) = models.shape();
        Self { models, rows, cols }
    }

    /// How many models.
    pub(super) fn count(&self) -> usize {
        self.models.count()
    }

    /// Entries of one model.
    pub(super) fn entries(&self) -> usize {
        self.rows * self.cols
    }

    /// What ranks within a row look at: a vector is one row.
    pub(super) fn row_length(&self) -> usize {
        if self.cols == 1 { self.rows } else { self.cols }
    }

    /// Calls `take` with every tile from the top: its rows, and for each model its entries, row-major.
    pub(super) fn for_each(&self, mut take: impl FnMut(Range<usize>, &mut [Vec<f64>])) {
        if self.entries() == 0 {
            return;
        }
        let height = if self.cols == 1 { self.rows } else { (TILE / self.cols).clamp(1, self.rows) };
        let mut tiles = vec![Vec::new(); self.count()];
        for top in (0..self.rows).step_by(height) {
            let rows = top..self.rows.min(top + height);
            for (model, tile) in tiles.iter_mut().enumerate() {
                tile.resize(rows.len() * self.cols, 0.0);
                self.models.read(model, rows.clone(), tile);
            }
            take(rows, &mut tiles);
        }
    }
}

/// Makes them so many zeros.
pub(super) fn zero<const N: usize>(all: [&mut Vec<f64>; N], length: usize) {
    for numbers in all {
        numbers.clear();
        numbers.resize(length, 0.0);
    }
}
