//! One of NVIDIA's GPUs: found out about in words, and then given tiles of a checkpoint's tensors to add deltas to.
//!
//! The driver is loaded when a GPU is asked for. Work happens in the GPU's primary context, which a process shares with
//! torch. Every worker has a [`Lane`]: a stream with its own memory there and pinned memory here, so that one worker's
//! copies overlap another's kernels. The kernels are PTX that `.ci/ptx` makes from `kernels/*.cu`, whose heads say what
//! each computes, and how exactly.
#![allow(unsafe_code, reason = "the driver is a C library, and kernels are given addresses")]

mod memory;
mod terms;

use std::ffi::c_void;
use std::ptr::from_ref;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::sys::{self, CUdevice_attribute, CUresult};
use cudarc::driver::{CudaContext, CudaFunction, CudaModule, CudaStream, DriverError, result};
use cudarc::nvrtc::Ptx;

use crate::error::{Error, ErrorKind, Result};
use crate::tensor::{Dtype, Real};

use memory::{Memory, Pinned};
pub(crate) use terms::{FactorRef, Loaded, TermRef};

/// Threads of a block, and the columns that a block of `materialise` makes.
const THREADS: usize = 256;
const EDGE: usize = 128;

/// Blocks that write partial sums, at most.
const MOST_PARTIAL: usize = 2048;

/// The oldest driver that loads the PTX, and the oldest GPU that it is for.
const LEAST_DRIVER: i32 = 12000;
const LEAST_COMPUTE: (i32, i32) = (7, 5);

/// What of the driver is called here. A library without it is no driver.
const NEEDED: [&str; 29] = [
    "cuInit",
    "cuDriverGetVersion",
    "cuDeviceGet",
    "cuDeviceGetCount",
    "cuDeviceGetName",
    "cuDeviceGetAttribute",
    "cuDevicePrimaryCtxRetain",
    "cuDevicePrimaryCtxRelease_v2",
    "cuCtxGetCurrent",
    "cuCtxSetCurrent",
    "cuCtxSynchronize",
    "cuMemGetInfo_v2",
    "cuMemAlloc_v2",
    "cuMemFree_v2",
    "cuMemHostAlloc",
    "cuMemFreeHost",
    "cuMemcpyHtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemsetD8Async",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuModuleGetFunction",
    "cuLaunchKernel",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamSynchronize",
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventSynchronize",
];

/// Why something was not done.
pub(crate) enum Fault {
    /// There is not enough memory on the GPU.
    Memory,
    /// Whatever else the driver says.
    Driver(DriverError),
}

impl From<DriverError> for Fault {
    fn from(error: DriverError) -> Self {
        if error.0 == CUresult::CUDA_ERROR_OUT_OF_MEMORY { Self::Memory } else { Self::Driver(error) }
    }
}

/// `NAME: what it means`, as the driver has it.
fn says(error: DriverError) -> String {
    let text = |found: std::result::Result<&std::ffi::CStr, DriverError>| {
        found.map_or_else(|_| String::new(), |text| text.to_string_lossy().into_owned())
    };
    match (text(error.error_name()), text(error.error_string())) {
        (name, _) if name.is_empty() => format!("error {}", error.0 as u32),
        (name, meaning) => format!("{name}: {meaning}"),
    }
}

/// A GPU, its kernels, and what of its memory may be used.
pub(crate) struct Gpu {
    context: Arc<CudaContext>,
    name: String,
    materialise: [CudaFunction; 4],
    bake: Vec<(Dtype, bool, CudaFunction)>,
    /// Those that no worker has at the moment.
    lanes: Mutex<Vec<Lane>>,
    /// Bytes for each lane.
    budget: usize,
}

/// What one worker has on the GPU: what is done for it happens in one order.
pub(crate) struct Lane {
    stream: Arc<CudaStream>,
    weights: Memory,
    delta: Memory,
    stored: Memory,
    told: Memory,
    up: Pinned,
    down: Pinned,
}

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

/// How many GPUs there are.
///
/// # Errors
/// There is no driver, it is too old, or says that something is wrong.
fn count() -> Result<usize> {
    let no = |text: String| Error::unsupported(format!("{text}; use --device cpu, or auto"));
    // SAFETY: loading a library runs what it does when it is loaded; a driver does nothing that Rust must know of.
    if !unsafe { sys::is_culib_present() } {
        return Err(no("there is no NVIDIA driver here (libcuda can't be loaded)".to_owned()));
    }
    for name in NEEDED {
        // SAFETY: nothing is called through this type.
        if unsafe { sys::culib().get::<*const c_void>(name.as_bytes()) }.is_err() {
            return Err(no(format!("the NVIDIA driver here is too old, or no driver: it has no {name}")));
        }
    }
    result::init().map_err(|error| match error.0 {
        CUresult::CUDA_ERROR_NO_DEVICE => no("there is no NVIDIA GPU here that CUDA can use".to_owned()),
        CUresult::CUDA_ERROR_STUB_LIBRARY => {
            no("the libcuda here is the toolkit's stub, and there is no NVIDIA driver".to_owned())
        }
        _ => no(format!("the NVIDIA driver can't be used ({})", says(error))),
    })?;
    let mut version = 0;
    // SAFETY: it is given space for a number.
    let asked = unsafe { sys::cuDriverGetVersion(&raw mut version) }.result();
    if asked.is_ok() && version < LEAST_DRIVER {
        let (major, minor) = (version / 1000, version % 1000 / 10);
        return Err(no(format!(
            "the NVIDIA driver here is for CUDA {major}.{minor}, and 12.0 is needed (driver 525)"
        )));
    }
    match result::device::get_count() {
        Ok(0) => Err(no("there is no NVIDIA GPU here that CUDA can use".to_owned())),
        Ok(count) => Ok(usize::try_from(count).unwrap_or(0)),
        Err(error) => Err(no(format!("the NVIDIA driver doesn't count its GPUs ({})", says(error)))),
    }
}

/// Whether the GPU `ordinal` could be used.
///
/// # Errors
/// As [`Gpu::open`], as far as can be told without beginning to use it.
pub(crate) fn check(ordinal: usize) -> Result<()> {
    let count = count()?;
    if ordinal >= count {
        let there = if count == 1 {
            "only cuda:0 is there".to_owned()
        } else {
            format!("the last is cuda:{}", count - 1)
        };
        return Err(Error::option(format!("there is no cuda:{ordinal}; {there}")));
    }
    let part = |attribute| {
        let device = result::device::get(i32::try_from(ordinal).unwrap_or(i32::MAX))?;
        // SAFETY: the device is one of the driver's.
        unsafe { result::device::get_attribute(device, attribute) }
    };
    let compute = (
        part(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR),
        part(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR),
    );
    match compute {
        (Ok(major), Ok(minor)) if (major, minor) >= LEAST_COMPUTE => Ok(()),
        (Ok(major), Ok(minor)) => Err(Error::unsupported(format!(
            "cuda:{ordinal} has compute capability {major}.{minor}, and {}.{} is needed (Turing, of 2018, or later)",
            LEAST_COMPUTE.0, LEAST_COMPUTE.1
        ))),
        (Err(error), _) | (_, Err(error)) => Err(failed(ordinal, error)),
    }
}

fn failed(ordinal: usize, error: DriverError) -> Error {
    Error::new(ErrorKind::Unsupported, format!("cuda:{ordinal}: {}; --device cpu needs no GPU", says(error)))
}

impl Gpu {
    /// Begins to use the GPU `ordinal`, for so many workers.
    ///
    /// # Errors
    /// There is no driver or no such GPU, they are too old, or the driver says that something is wrong.
    pub(crate) fn open(ordinal: usize, workers: usize) -> Result<Self> {
        check(ordinal)?;
        Self::started(ordinal, workers).map_err(|error| failed(ordinal, error))
    }

    fn started(ordinal: usize, workers: usize) -> std::result::Result<Self, DriverError> {
        let context = CudaContext::new(ordinal)?;
        let load = |ptx: &str| context.load_module(Ptx::from_src(ptx));
        let materialise = load(include_str!("kernels/materialise.ptx"))?;
        let baking = load(include_str!("kernels/bake.ptx"))?;
        let bake = |(dtype, name): (Dtype, &str), module: &Arc<CudaModule>, wide: bool| {
            let real = if wide { "f64" } else { "f32" };
            Ok((dtype, wide, module.load_function(&format!("bake_{name}_{real}"))?))
        };
        const NARROW: [(Dtype, &str); 4] =
            [(Dtype::F16, "f16"), (Dtype::BF16, "bf16"), (Dtype::F8E4M3, "e4m3"), (Dtype::F8E5M2, "e5m2")];
        const WIDE: [(Dtype, &str); 2] = [(Dtype::F64, "f64"), (Dtype::F32, "f32")];
        let all =
            NARROW.iter().map(|row| (*row, false)).chain(NARROW.iter().chain(&WIDE).map(|row| (*row, true)));
        let (free, _) = context.mem_get_info()?;
        Ok(Self {
            name: context.name()?,
            materialise: [
                materialise.load_function("materialise_f32")?,
                materialise.load_function("materialise_f64")?,
                materialise.load_function("materialise_hadamard_f32")?,
                materialise.load_function("materialise_hadamard_f64")?,
            ],
            bake: all
                .map(|(row, wide)| bake(row, &baking, wide))
                .collect::<std::result::Result<_, DriverError>>()?,
            lanes: Mutex::default(),
            // Half stays for others, and for what the driver takes itself.
            budget: free / 2 / workers.max(1),
            context,
        })
    }

    /// `cuda:0 (NVIDIA …)`
    pub(crate) fn name(&self) -> String {
        format!("cuda:{} ({})", self.context.ordinal(), self.name)
    }

    /// Bytes on the GPU that one lane may take.
    pub(crate) fn budget(&self) -> usize {
        self.budget
    }

    /// What the user is told of an error of the driver's.
    pub(crate) fn error(&self, error: DriverError) -> Error {
        failed(self.context.ordinal(), error)
    }

    /// Whether there is a kernel that bakes into `dtype`.
    pub(crate) fn bakes<T: Real>(&self, dtype: Dtype) -> bool {
        self.baking::<T>(dtype).is_some()
    }

    fn baking<T: Real>(&self, dtype: Dtype) -> Option<&CudaFunction> {
        self.bake.iter().find(|row| (row.0, row.1) == (dtype, is_wide::<T>())).map(|row| &row.2)
    }

    /// A lane, which [`give_back`](Self::give_back) takes.
    pub(crate) fn lane(&self) -> std::result::Result<Lane, Fault> {
        let free = self.lanes.lock().unwrap_or_else(PoisonError::into_inner).pop();
        match free {
            Some(lane) => Ok(lane),
            None => {
                let memory = || Memory::new(&self.context);
                Ok(Lane {
                    stream: self.context.new_stream()?,
                    weights: memory(),
                    delta: memory(),
                    stored: memory(),
                    told: memory(),
                    up: Pinned::new(&self.context),
                    down: Pinned::new(&self.context),
                })
            }
        }
    }

    /// Another worker may have it.
    pub(crate) fn give_back(&self, lane: Lane) {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner).push(lane);
    }

    /// Copies the factors of a delta to the GPU.
    pub(crate) fn load<T: Real>(
        &self,
        lane: &Lane,
        terms: &[(f64, TermRef<'_, T>)],
    ) -> std::result::Result<Loaded, Fault> {
        Loaded::new(&self.context, &lane.stream, terms)
    }

    /// Adds the pieces to the tile's weights, appends what is stored to `out`, and measures it. T is what is calculated in.
    pub(crate) fn bake<T: Real>(
        &self,
        lane: &mut Lane,
        tile: Tile<'_>,
        pieces: &[Piece<'_>],
        out: &mut Vec<u8>,
    ) -> std::result::Result<Baked, Fault> {
        let done = self.baked::<T>(lane, tile, pieces, out);
        if done.is_err() {
            // What was begun may still be using the lane's memory; what it says is not worse than what is known.
            let _ = lane.stream.synchronize();
        }
        done
    }

    fn baked<T: Real>(
        &self,
        lane: &mut Lane,
        tile: Tile<'_>,
        pieces: &[Piece<'_>],
        out: &mut Vec<u8>,
    ) -> std::result::Result<Baked, Fault> {
        let bytes = tile.weights.len();
        let count = bytes / tile.dtype.size();
        let kernel = self.baking::<T>(tile.dtype).ok_or(DriverError(CUresult::CUDA_ERROR_NOT_SUPPORTED))?;
        let real = if is_wide::<T>() { 8 } else { 4 };
        let blocks = count.div_ceil(THREADS * (16 / real)).clamp(1, MOST_PARTIAL);
        let partial = blocks * size_of::<Sums>();

        lane.weights.reserve(bytes)?;
        lane.stored.reserve(bytes)?;
        lane.delta.reserve(count * real)?;
        lane.told.reserve(size_of::<Met>() + partial)?;
        lane.up.reserve(bytes)?;
        lane.down.reserve(bytes + size_of::<Met>() + partial)?;

        let stream = &lane.stream;
        lane.up.bytes(bytes).copy_from_slice(tile.weights);
        lane.weights.write(stream, lane.up.bytes(bytes))?;
        lane.told.fill(stream, 0, 8, 0xff)?;
        lane.told.fill(stream, 8, 8, 0)?;
        // Where no piece or more than one is, the delta is added to zeros.
        let is_whole = matches!(pieces, [piece] if piece.rows * tile.cols == count);
        if !is_whole {
            lane.delta.fill(stream, 0, count * real, 0)?;
        }
        for piece in pieces {
            let to = lane.delta.address() + (piece.at * tile.cols * real) as u64;
            self.materialise::<T>(stream, piece, tile.cols, !is_whole, to)?;
        }

        let (weights, delta, stored) = (lane.weights.address(), lane.delta.address(), lane.stored.address());
        let (met, sums) = (lane.told.address(), lane.told.address() + size_of::<Met>() as u64);
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
                kernel,
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
        lane.stored.read(stream, lane.down.bytes(bytes))?;
        lane.told.read(stream, &mut lane.down.bytes(bytes + size_of::<Met>() + partial)[bytes..])?;
        stream.synchronize()?;

        let all = lane.down.bytes(bytes + size_of::<Met>() + partial);
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

    /// Makes a piece's rows at the address `to`.
    fn materialise<T: Real>(
        &self,
        stream: &CudaStream,
        piece: &Piece<'_>,
        cols: usize,
        add: bool,
        to: u64,
    ) -> std::result::Result<(), DriverError> {
        let kernel =
            &self.materialise[usize::from(is_wide::<T>()) + 2 * usize::from(piece.terms.has_hadamard())];
        let (table, terms) = (piece.terms.table(), piece.terms.count());
        let (top, add) = (piece.from as u64, u32::from(add));
        // The rows that a block makes.
        let height = if is_wide::<T>() { 32 } else { 64 };
        let grid = (cols.div_ceil(EDGE) as u32, piece.rows.div_ceil(height) as u32, 1);
        let (rows, cols) = (piece.rows as u32, cols as u32);
        // SAFETY: the arguments are those of `materialise_*`, in their order; the table has so many terms, whose factors
        // have these rows and columns, and there is room for as many entries.
        unsafe {
            launch(
                stream,
                kernel,
                grid,
                &mut [
                    argument(&table),
                    argument(&terms),
                    argument(&top),
                    argument(&rows),
                    argument(&cols),
                    argument(&add),
                    argument(&to),
                ],
            )
        }
    }
}

/// Rows of one launch, at most: blocks are counted in 16 bits.
pub(crate) const MOST_ROWS: usize = 1 << 20;

/// Whether T is f64, and not f32.
fn is_wide<T: Real>() -> bool {
    T::ROUNDOFF < f64::from(f32::EPSILON) / 4.0
}

fn argument<T>(value: &T) -> *mut c_void {
    from_ref(value).cast_mut().cast()
}

/// Runs a kernel in blocks of [`THREADS`].
///
/// # Safety
/// The arguments are the kernel's own, and what they are addresses of is there until the stream has done it.
unsafe fn launch(
    stream: &CudaStream,
    kernel: &CudaFunction,
    grid: (u32, u32, u32),
    arguments: &mut [*mut c_void],
) -> std::result::Result<(), DriverError> {
    stream.context().bind_to_thread()?;
    // SAFETY: the caller's promise.
    unsafe {
        result::launch_kernel(
            kernel.cu_function(),
            grid,
            (THREADS as u32, 1, 1),
            0,
            stream.cu_stream(),
            arguments,
        )
    }
}
