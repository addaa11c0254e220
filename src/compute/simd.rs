//! Loops in the widest vector instructions that the machine has, found out at run time; the build itself stays
//! portable.

/// Runs `work` compiled for the machine's vector instructions. Only what is inlined into it gains.
#[inline]
pub(crate) fn wide<R>(work: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(work)
}
