//! Loops in the widest vector instructions that the machine has, found out at run time; the build itself stays
//! portable.

/// Work that [`wide`] can run. A short closure is some; a longer loop is a type of its own, whose `call` is inlined always.
pub(crate) use pulp::NullaryFnOnce as Wide;

/// What x86 processors have since 2013, conversions of 16-bit floats among it, which pulp's own levels leave out.
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code, reason = "pulp's macro: there is a token only where the processor was asked")]
mod x86 {
    pulp::simd_type! {
        pub(super) struct V3 {
            pub avx2: "avx2",
            pub bmi1: "bmi1",
            pub bmi2: "bmi2",
            pub f16c: "f16c",
            pub fma: "fma",
            pub lzcnt: "lzcnt",
            pub popcnt: "popcnt",
        }
    }
}

/// Runs `work` compiled for the machine's vector instructions. Only what is inlined into it gains.
#[inline]
pub(crate) fn wide<W: Wide>(work: W) -> W::Output {
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = x86::V3::try_new() {
        return simd.vectorize(work);
    }
    pulp::Arch::new().dispatch(work)
}
