// What the kernels use of CUDA's header of this name, with the host's conversions.
#pragma once

#ifdef __CUDACC__
#include_next <cuda_fp16.h>
#else
#include "shim.hpp"

struct __half {
    unsigned short bits;
};
inline __half __ushort_as_half(unsigned short bits) { return {bits}; }
inline unsigned short __half_as_ushort(__half x) { return x.bits; }

inline float __half2float(__half x) {
    _Float16 half;
    memcpy(&half, &x, 2);
    return float(half);
}
inline __half __float2half_rn(float x) {
    const _Float16 half = _Float16(x);
    __half out;
    memcpy(&out, &half, 2);
    return out;
}
#endif
