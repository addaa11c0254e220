//! Tiles of a checkpoint's tensors with deltas added to them, as they are stored.

use cudarc::driver::DriverError;
use cudarc::driver::sys::CUresult;

use super::{Fault, Kernels, Lane, Loaded, argument, blocks, is_wide, kernel_of, launch};
use crate::tensor::{Dtype, Real};

/// A part of a checkpoint's tensor that deltas are to be added to.
#[derive(Clone, Copy)]
pub(crate) struct Tile<'a> {
    /// Entries of a row.
    pub(crate) cols: usize,
    /// What is stored there.
    pub(crate) weights: &'a [u8],
    /// As what.
    pub(crate) dtype: Dtype,
    /// What stored numbers are multiplied by.
    pub(crate) scale: f64,
    /// The stream of random numbers, where rounding is random.
    pub(crate) seed: Option<u64>,
    /// The first entry's index in the tensor.
    pub(crate) first: usize,
}

/// Rows of a delta, and the row of the tile that they begin at.
pub(crate) struct Piece<'a> {
    pub(crate) terms: &'a Loaded,
    pub(crate) from: usize,
    pub(crate) at: usize,
    pub(crate) rows: usize,
}

/// What a kernel makes of the sums of a tile, block by block.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct Sums {
    pub(crate) delta: f64,
    pub(crate) wrong: f64,
    pub(crate) along: f64,
}

/// As in `common.cuh`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Met {
    first_bad: u64,
    saturated: u64,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Rounding {
    seed: u64,
    first: u64,
    stochastic: u32,
}

/// What became of a tile.
pub(crate) enum Baked {
    /// The bytes were appended.
    Stored { sums: Sums, saturated: usize },
    /// A number has no bits in the dtype, and nothing was appended.
    Unfit,
}

/// Whether there is a kernel that bakes into `dtype`.
pub(crate) fn bakes<T: Real>(dtype: Dtype) -> bool {
    name::<T>(dtype).is_some()
}

/// The kernel that bakes into `dtype`.
fn name<T: Real>(dtype: Dtype) -> Option<&'static str> {
    match dtype {
        Dtype::F16 => Some("bake_f16"),
        Dtype::BF16 => Some("bake_bf16"),
        Dtype::F8E4M3 => Some("bake_e4m3"),
        Dtype::F8E5M2 => Some("bake_e5m2"),
        Dtype::F32 if is_wide::<T>() => Some("bake_f32"),
        Dtype::F64 if is_wide::<T>() => Some("bake_f64"),
        _ => None,
    }
}

impl Lane<'_> {
    /// Adds the pieces to the tile's weights, appends what is stored to `out`, and measures it. T is what is calculated in.
    pub(crate) fn bake<T: Real>(
        &mut self,
        tile: Tile<'_>,
        pieces: &[Piece<'_>],
        out: &mut Vec<u8>,
    ) -> Result<Baked, Fault> {
        let done = self.baked::<T>(tile, pieces, out);
        if done.is_err() {
            // What was begun may still be using the memory; what it says is not worse than what is known.
            let _ = self.stream.synchronize();
        }
        done
    }

    fn baked<T: Real>(
        &mut self,
        tile: Tile<'_>,
        pieces: &[Piece<'_>],
        out: &mut Vec<u8>,
    ) -> Result<Baked, Fault> {
        let name = name::<T>(tile.dtype).ok_or(DriverError(CUresult::CUDA_ERROR_NOT_SUPPORTED))?;
        let kernel = self.gpu.kernel(Kernels::Bake, &kernel_of::<T>(name))?;
        let (bytes, real) = (tile.weights.len(), size_of::<T>());
        let count = bytes / tile.dtype.size();
        let blocks = blocks::<T>(count);
        let partial = blocks * size_of::<Sums>();

        let gpu = self.gpu;
        let own = &mut **self;
        own.weights.reserve(bytes)?;
        own.stored.reserve(bytes)?;
        own.delta.reserve(count * real)?;
        own.told.reserve(size_of::<Met>() + partial)?;
        own.up.reserve(bytes)?;
        own.down.reserve(bytes + size_of::<Met>() + partial)?;

        let stream = &own.stream;
        own.up.bytes(bytes).copy_from_slice(tile.weights);
        own.weights.write(stream, 0, own.up.bytes(bytes))?;
        own.told.fill(stream, 0, 8, 0xff)?;
        own.told.fill(stream, 8, 8, 0)?;
        // Where no piece or more than one is, the delta is added to zeros.
        let is_whole = matches!(pieces, [piece] if piece.rows * tile.cols == count);
        if !is_whole {
            own.delta.fill(stream, 0, count * real, 0)?;
        }
        for piece in pieces {
            let to = own.delta.address() + (piece.at * tile.cols * real) as u64;
            let rows = piece.from..piece.from + piece.rows;
            piece.terms.materialise::<T>(gpu, stream, rows, tile.cols, !is_whole, to)?;
        }

        let (weights, delta, stored) = (own.weights.address(), own.delta.address(), own.stored.address());
        let (met, sums) = (own.told.address(), own.told.address() + size_of::<Met>() as u64);
        let rounding = Rounding {
            seed: tile.seed.unwrap_or(0),
            first: tile.first as u64,
            stochastic: u32::from(tile.seed.is_some()),
        };
        let (scale, inverse, count) = (tile.scale, 1.0 / tile.scale, count as u64);
        // SAFETY: the arguments are those of `bake_*`, in their order; the addresses are of memory that is as large as
        // the kernel takes it to be.
        unsafe {
            launch(
                stream,
                &kernel,
                (blocks as u32, 1, 1),
                &mut [
                    argument(&weights),
                    argument(&delta),
                    argument(&stored),
                    argument(&count),
                    argument(&scale),
                    argument(&inverse),
                    argument(&rounding),
                    argument(&sums),
                    argument(&met),
                ],
            )?;
        }
        own.stored.read(stream, 0, own.down.bytes(bytes))?;
        own.told.read(stream, 0, &mut own.down.bytes(bytes + size_of::<Met>() + partial)[bytes..])?;
        stream.synchronize()?;

        let all = own.down.bytes(bytes + size_of::<Met>() + partial);
        let (stored, told) = all.split_at(bytes);
        let numbers = told.as_chunks::<8>().0;
        let met =
            Met { first_bad: u64::from_ne_bytes(numbers[0]), saturated: u64::from_ne_bytes(numbers[1]) };
        if met.first_bad != u64::MAX {
            return Ok(Baked::Unfit);
        }
        let mut sums = Sums::default();
        for [delta, wrong, along] in numbers[2..].as_chunks().0 {
            sums.delta += f64::from_ne_bytes(*delta);
            sums.wrong += f64::from_ne_bytes(*wrong);
            sums.along += f64::from_ne_bytes(*along);
        }
        out.extend_from_slice(stored);
        Ok(Baked::Stored { sums, saturated: usize::try_from(met.saturated).unwrap_or(usize::MAX) })
    }
}
