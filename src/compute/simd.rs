//! Loops in the widest vector instructions that the machine has, found out at run time; the build itself stays
//! portable.

/// Work that [`wide`] can run. A short closure is some; a longer loop is a type of its own, whose `call` is inlined always.
pub(crate) use pulp::NullaryFnOnce as Wide;

/// Runs `work` compiled for the machine's vector instructions. Only what is inlined into it gains.
#[inline]
pub(crate) fn wide<W: Wide>(work: W) -> W::Output {
    pulp::Arch::new().dispatch(work)
}
