//! Where the arithmetic runs: the linear algebra (faer), vector instructions (pulp), and how many layers are worked on
//! at once; and NVIDIA's GPUs, where one is asked for.

pub(crate) mod cuda;
pub(crate) mod device;
pub(crate) mod gate;
pub(crate) mod linalg;
pub(crate) mod round;
pub(crate) mod simd;
