//! One of NVIDIA's GPUs: found out about in words, and then given tiles of a checkpoint's tensors to add deltas to
//! ([`bake`]), or the models of a layer to merge entry by entry ([`entries`]).
//!
//! The driver is loaded when a GPU is asked for. Work happens in the GPU's primary context, which a process shares with
//! torch. Every worker has a [`Lane`]: a stream with its own memory there and pinned memory here, so that one worker's
//! copies overlap another's kernels. The kernels are PTX that `.ci/ptx` makes from `kernels/*.cu`, whose heads say what
//! each computes, and how exactly.
#![allow(unsafe_code, reason = "the driver is a C library, and kernels are given addresses")]

mod bake;
mod entries;
mod memory;
mod terms;

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::ops::{Deref, DerefMut};
use std::ptr::from_ref;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::sys::{self, CUdevice_attribute, CUresult};
use cudarc::driver::{CudaContext, CudaFunction, CudaModule, CudaStream, DriverError, result};
use cudarc::nvrtc::Ptx;

use crate::error::{Error, ErrorKind, Result};
use crate::tensor::Real;

pub(crate) use bake::{Baked, Piece, Tile, bakes};
pub(crate) use entries::{Ballot, Elect, Entries, Voter};
use memory::{Memory, Pinned};
pub(crate) use terms::{FactorRef, Loaded, TermRef};

/// Threads of a block.
const THREADS: usize = 256;

/// Blocks that write partial sums, at most.
const MOST_PARTIAL: usize = 2048;

/// Bytes that what kernels read 16 bytes of at once begins at a multiple of.
const ALIGNED: usize = 16;

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

/// A file of kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kernels {
    Materialise,
    Bake,
    Select,
    Reduce,
    Elect,
}

impl Kernels {
    fn ptx(self) -> &'static str {
        match self {
            Self::Materialise => include_str!("kernels/materialise.ptx"),
            Self::Bake => include_str!("kernels/bake.ptx"),
            Self::Select => include_str!("kernels/select.ptx"),
            Self::Reduce => include_str!("kernels/reduce.ptx"),
            Self::Elect => include_str!("kernels/elect.ptx"),
        }
    }
}

/// A GPU, its kernels, and what of its memory may be used.
pub(crate) struct Gpu {
    context: Arc<CudaContext>,
    name: String,
    /// Those that were needed: making one for the GPU from PTX takes a while.
    modules: Mutex<BTreeMap<Kernels, Arc<CudaModule>>>,
    /// Those that no worker has at the moment.
    lanes: Mutex<Vec<Resources>>,
    /// Bytes for each lane.
    budget: usize,
}

/// What one worker has on the GPU: what is done for it happens in one order. It goes back when that is done.
pub(crate) struct Lane<'g> {
    gpu: &'g Gpu,
    /// Until it goes back.
    own: Option<Resources>,
}

/// What a lane is made of; memory grows as it is needed, and is used again.
pub(crate) struct Resources {
    stream: Arc<CudaStream>,
    /// The terms of deltas.
    terms: Memory,
    weights: Memory,
    delta: Memory,
    stored: Memory,
    /// What kernels tell, and what they are told beside entries.
    told: Memory,
    up: Pinned,
    down: Pinned,
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
        let (free, _) = context.mem_get_info()?;
        Ok(Self {
            name: context.name()?,
            modules: Mutex::default(),
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

    /// A lane that no other worker has.
    pub(crate) fn lane(&self) -> std::result::Result<Lane<'_>, Fault> {
        let free = self.lanes.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let own = match free {
            Some(own) => own,
            None => {
                let memory = || Memory::new(&self.context);
                Resources {
                    stream: self.context.new_stream()?,
                    terms: memory(),
                    weights: memory(),
                    delta: memory(),
                    stored: memory(),
                    told: memory(),
                    up: Pinned::new(&self.context),
                    down: Pinned::new(&self.context),
                }
            }
        };
        Ok(Lane { gpu: self, own: Some(own) })
    }

    /// A kernel by its name.
    fn kernel(&self, kernels: Kernels, name: &str) -> std::result::Result<CudaFunction, DriverError> {
        let mut modules = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        let module = match modules.get(&kernels) {
            Some(module) => module,
            None => {
                let made = self.context.load_module(Ptx::from_src(kernels.ptx()))?;
                modules.entry(kernels).or_insert(made)
            }
        };
        module.load_function(name)
    }
}

impl Deref for Lane<'_> {
    type Target = Resources;

    fn deref(&self) -> &Resources {
        self.own.as_ref().expect(HELD)
    }
}

impl DerefMut for Lane<'_> {
    fn deref_mut(&mut self) -> &mut Resources {
        self.own.as_mut().expect(HELD)
    }
}

impl Drop for Lane<'_> {
    fn drop(&mut self) {
        // What was begun may still be using the memory; what it says is not worse than what is known.
        let _ = self.stream.synchronize();
        let mut free = self.gpu.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        free.extend(self.own.take());
    }
}

/// Why a lane has its resources.
const HELD: &str = "they go back at the end";

/// Rows of one launch, at most: blocks are counted in 16 bits.
pub(crate) const MOST_ROWS: usize = 1 << 20;

/// How many blocks take so many numbers, 16 bytes of T at once for every thread.
fn blocks<T>(count: usize) -> usize {
    count.div_ceil(THREADS * (16 / size_of::<T>())).clamp(1, MOST_PARTIAL)
}

/// Whether T is f64, and not f32.
fn is_wide<T: Real>() -> bool {
    T::ROUNDOFF < f64::from(f32::EPSILON) / 4.0
}

/// The name of the kernel that does it in T.
fn kernel_of<T: Real>(name: &str) -> String {
    format!("{name}_{}", if is_wide::<T>() { "f64" } else { "f32" })
}

/// How long so many numbers are, up to where the next ones may begin.
fn aligned<T>(count: usize) -> usize {
    (count * size_of::<T>()).next_multiple_of(ALIGNED)
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
