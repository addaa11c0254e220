//! Dtypes and borrowed tensors: what a file's bytes mean as numbers.
//!
//! A [`TensorView`] is a dtype, a shape and the little-endian bytes; it owns nothing. Arithmetic happens in
//! a [`Real`] (f32 or f64), and this module is the only place where stored numbers become reals and back.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;
use std::str::FromStr;

use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use half::{bf16, f16};

use crate::compute::simd::{Wide, wide};
use crate::error::{Error, Result};

/// The element type of a stored tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Dtype {
    F64,
    F32,
    F16,
    BF16,
    F8E4M3,
    F8E5M2,
    I64,
    I32,
    I16,
    I8,
    U64,
    U32,
    U16,
    U8,
    Bool,
}

/// One row of the table of dtypes.
struct Row {
    dtype: Dtype,
    /// The name in a safetensors header.
    name: &'static str,
    size: usize,
    /// Spellings that the `dtype` option takes; empty where it can't be written.
    spellings: &'static [&'static str],
}

const ROWS: [Row; 15] = [
    Row { dtype: Dtype::F64, name: "F64", size: 8, spellings: &["float64", "fp64", "f64", "double"] },
    Row { dtype: Dtype::F32, name: "F32", size: 4, spellings: &["float32", "float", "fp32", "f32"] },
    Row { dtype: Dtype::F16, name: "F16", size: 2, spellings: &["float16", "fp16", "f16", "half"] },
    Row { dtype: Dtype::BF16, name: "BF16", size: 2, spellings: &["bfloat16", "bfloat", "bf16"] },
    Row { dtype: Dtype::F8E4M3, name: "F8_E4M3", size: 1, spellings: &[] },
    Row { dtype: Dtype::F8E5M2, name: "F8_E5M2", size: 1, spellings: &[] },
    Row { dtype: Dtype::I64, name: "I64", size: 8, spellings: &[] },
    Row { dtype: Dtype::I32, name: "I32", size: 4, spellings: &[] },
    Row { dtype: Dtype::I16, name: "I16", size: 2, spellings: &[] },
    Row { dtype: Dtype::I8, name: "I8", size: 1, spellings: &[] },
    Row { dtype: Dtype::U64, name: "U64", size: 8, spellings: &[] },
    Row { dtype: Dtype::U32, name: "U32", size: 4, spellings: &[] },
    Row { dtype: Dtype::U16, name: "U16", size: 2, spellings: &[] },
    Row { dtype: Dtype::U8, name: "U8", size: 1, spellings: &[] },
    Row { dtype: Dtype::Bool, name: "BOOL", size: 1, spellings: &[] },
];

impl Dtype {
    fn row(self) -> &'static Row {
        ROWS.iter().find(|row| row.dtype == self).expect("every dtype has a row")
    }

    /// The name in a safetensors header, such as `F16`.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// The dtype of a safetensors header's name.
    pub fn from_name(name: &str) -> Option<Self> {
        ROWS.iter().find(|row| row.name == name).map(|row| row.dtype)
    }

    /// Bytes per element.
    pub fn size(self) -> usize {
        self.row().size
    }

    /// Whether elements are floating-point numbers.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F64 | Self::F32 | Self::F16 | Self::BF16 | Self::F8E4M3 | Self::F8E5M2)
    }

    /// Half the distance between neighbouring normal numbers, relative to them: the largest relative
    /// rounding error of a normal number.
    pub fn unit_roundoff(self) -> f64 {
        match self {
            Self::F64 => f64::EPSILON / 2.0,
            Self::F32 => f64::from(f32::EPSILON) / 2.0,
            Self::F16 => f64::from(f16::EPSILON) / 2.0,
            Self::BF16 => f64::from(bf16::EPSILON) / 2.0,
            Self::F8E4M3 => 1.0 / 16.0,
            Self::F8E5M2 => 1.0 / 8.0,
            _ => 0.0,
        }
    }

    /// The spellings that the `dtype` option takes, the first of each dtype being its usual one.
    pub fn spellings() -> impl Iterator<Item = &'static str> {
        ROWS.iter().flat_map(|row| row.spellings.iter().copied())
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.row().spellings.first().copied().unwrap_or(self.name()))
    }
}

impl FromStr for Dtype {
    type Err = Error;

    /// Parses a dtype that can be written: `float16`, `bfloat16`, `float`, ….
    fn from_str(s: &str) -> Result<Self> {
        let wanted = s.to_ascii_lowercase();
        ROWS.iter().find(|row| row.spellings.contains(&wanted.as_str())).map(|row| row.dtype).ok_or_else(
            || {
                let known: Vec<_> = Self::spellings().collect();
                Error::option(format!("unknown dtype '{s}'; use one of {}", known.join(", ")))
            },
        )
    }
}

/// A tensor of a file: little-endian, row-major, borrowed.
#[derive(Clone, Copy, Debug)]
pub struct TensorView<'a> {
    /// The element type.
    pub dtype: Dtype,
    /// The extents, outermost first; empty for a scalar.
    pub shape: &'a [usize],
    /// `dtype.size() · Π shape` bytes.
    pub data: &'a [u8],
}

impl TensorView<'_> {
    /// The number of elements.
    pub fn len(&self) -> usize {
        self.data.len() / self.dtype.size()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// The elements as reals, in row-major order.
    pub fn to_reals<T: Real>(&self) -> Vec<T> {
        let mut out = Vec::new();
        self.read_into(0..self.len(), &mut out);
        out
    }

    /// Puts a range of the elements, in row-major order, in the place of what is in `out`.
    pub(crate) fn read_into<T: Real>(&self, range: Range<usize>, out: &mut Vec<T>) {
        let data = &self.data[range.start * self.dtype.size()..range.end * self.dtype.size()];
        out.clear();
        out.reserve(range.len());
        match self.dtype {
            Dtype::F64 => map(data, out, |b| T::from_f64(f64::from_le_bytes(b))),
            Dtype::F32 => map(data, out, |b| T::from_f32(f32::from_le_bytes(b))),
            Dtype::F16 => wide(Decode { data, out, codec: PhantomData::<f16> }),
            Dtype::BF16 => wide(Decode { data, out, codec: PhantomData::<bf16> }),
            Dtype::F8E4M3 => map(data, out, |[b]| T::from_f32(f8_e4m3(b))),
            Dtype::F8E5M2 => map(data, out, |[b]| T::from_f32(f16::from_bits(u16::from(b) << 8).to_f32())),
            Dtype::I64 => map(data, out, |b| T::from_f64(i64::from_le_bytes(b) as f64)),
            Dtype::I32 => map(data, out, |b| T::from_f64(f64::from(i32::from_le_bytes(b)))),
            Dtype::I16 => map(data, out, |b| T::from_f64(f64::from(i16::from_le_bytes(b)))),
            Dtype::I8 => map(data, out, |b| T::from_f64(f64::from(i8::from_le_bytes(b)))),
            Dtype::U64 => map(data, out, |b| T::from_f64(u64::from_le_bytes(b) as f64)),
            Dtype::U32 => map(data, out, |b| T::from_f64(f64::from(u32::from_le_bytes(b)))),
            Dtype::U16 => map(data, out, |b| T::from_f64(f64::from(u16::from_le_bytes(b)))),
            Dtype::U8 | Dtype::Bool => map(data, out, |[b]| T::from_f64(f64::from(b))),
        }
    }
}

/// Whether every number is finite: a sum is finite only if its parts are, and it can be taken in any order.
pub(crate) fn all_finite<T: Real>(numbers: &[T]) -> bool {
    const LANES: usize = 16;
    let zero = T::from_f64(0.0);
    let mut sums = [zero; LANES];
    let (blocks, rest) = numbers.as_chunks::<LANES>();
    wide(|| {
        for block in blocks {
            sums.iter_mut().zip(block).for_each(|(sum, x)| *sum += *x * zero);
        }
    });
    sums.iter().chain(rest).all(|x| (*x * zero).to_f64() == 0.0)
}

fn map<T, const N: usize>(data: &[u8], out: &mut Vec<T>, convert: impl Fn([u8; N]) -> T) {
    out.extend(data.as_chunks::<N>().0.iter().map(|bytes| convert(*bytes)));
}

/// 16-bit floats go through `half`'s slice conversions, which use the hardware's.
struct Decode<'a, T, H> {
    data: &'a [u8],
    out: &'a mut Vec<T>,
    codec: PhantomData<H>,
}

impl<T: Real, H: HalfCodec> Wide for Decode<'_, T, H> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let (mut bits, mut reals) = ([0_u16; BLOCK], [0_f32; BLOCK]);
        for block in self.data.as_chunks::<2>().0.chunks(BLOCK) {
            bits.iter_mut().zip(block).for_each(|(to, from)| *to = u16::from_le_bytes(*from));
            H::decode(&bits[..block.len()], &mut reals[..block.len()]);
            self.out.extend(reals[..block.len()].iter().map(|&x| T::from_f32(x)));
        }
    }
}

/// Numbers that are converted at once: they stay in a core's innermost cache.
const BLOCK: usize = 1024;

/// A 16-bit float with bulk conversions.
trait HalfCodec {
    fn decode(bits: &[u16], out: &mut [f32]);
    fn encode(reals: &[f32], out: &mut [u16]);
}

impl HalfCodec for f16 {
    #[inline(always)]
    fn decode(bits: &[u16], out: &mut [f32]) {
        bits.reinterpret_cast::<f16>().convert_to_f32_slice(out);
    }
    #[inline(always)]
    fn encode(reals: &[f32], out: &mut [u16]) {
        out.reinterpret_cast_mut::<f16>().convert_from_f32_slice(reals);
    }
}

impl HalfCodec for bf16 {
    #[inline(always)]
    fn decode(bits: &[u16], out: &mut [f32]) {
        bits.reinterpret_cast::<bf16>().convert_to_f32_slice(out);
    }
    #[inline(always)]
    fn encode(reals: &[f32], out: &mut [u16]) {
        out.reinterpret_cast_mut::<bf16>().convert_from_f32_slice(reals);
    }
}

/// `float8_e4m3fn`: no infinities, 0x7f and 0xff are NaN, largest value 448.
fn f8_e4m3(byte: u8) -> f32 {
    let sign = if byte & 0x80 == 0 { 1.0 } else { -1.0 };
    let (exponent, mantissa) = (i32::from(byte >> 3) & 0xf, f32::from(byte & 7));
    let magnitude = match (exponent, byte & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa * 2_f32.powi(-9),
        _ => (8.0 + mantissa) * 2_f32.powi(exponent - 10),
    };
    sign * magnitude
}

/// Appends `reals` to `out` as little-endian elements of `dtype`, rounded to nearest, ties to even.
///
/// # Errors
/// A value that `dtype` can't hold (it would become infinite), and a dtype that can't be written.
pub fn encode<T: Real>(reals: &[T], dtype: Dtype, out: &mut Vec<u8>) -> Result<()> {
    let wider = if dtype == Dtype::F16 { "bfloat16 or float32" } else { "float64" };
    let overflow = |x: f64| {
        Err(Error::value(format!("the value {x:e} is out of the range of {dtype}; dtype {wider} holds it")))
    };
    out.reserve(reals.len() * dtype.size());
    match dtype {
        Dtype::F64 => reals.iter().for_each(|x| out.extend_from_slice(&x.to_f64().to_le_bytes())),
        Dtype::F32 => {
            for x in reals {
                let y = x.to_f32();
                if y.is_infinite() {
                    return overflow(x.to_f64());
                }
                out.extend_from_slice(&y.to_le_bytes());
            }
        }
        Dtype::F16 => return encode_halves::<T, f16>(reals, 0x7c00, out).or_else(overflow),
        Dtype::BF16 => return encode_halves::<T, bf16>(reals, 0x7f80, out).or_else(overflow),
        _ => return Err(Error::option(format!("can't write {}", dtype.name()))),
    }
    Ok(())
}

/// Writes 16-bit floats into bytes, two for each number. A rounded value that is infinite did not fit, and comes back.
struct Encode<'a, T, H> {
    reals: &'a [T],
    /// The pattern of infinity.
    infinity: u16,
    bytes: &'a mut [[u8; 2]],
    codec: PhantomData<H>,
}

impl<T: Real, H: HalfCodec> Wide for Encode<'_, T, H> {
    type Output = std::result::Result<(), f64>;

    #[inline(always)]
    fn call(self) -> Self::Output {
        let (mut floats, mut bits) = ([0_f32; BLOCK], [0_u16; BLOCK]);
        for (block, bytes) in self.reals.chunks(BLOCK).zip(self.bytes.chunks_mut(BLOCK)) {
            floats.iter_mut().zip(block).for_each(|(to, from)| *to = from.to_f32());
            let bits = &mut bits[..block.len()];
            H::encode(&floats[..block.len()], bits);
            let is_infinite = |b: &u16| b & self.infinity == self.infinity;
            // All of them at once, because a look that may end at each goes one by one.
            if bits.iter().fold(false, |any, b| any | is_infinite(b)) {
                let first = bits.iter().position(is_infinite).unwrap_or(0);
                return Err(block[first].to_f64());
            }
            bytes.iter_mut().zip(bits).for_each(|(to, b)| *to = b.to_le_bytes());
        }
        Ok(())
    }
}

fn encode_halves<T: Real, H: HalfCodec>(
    reals: &[T],
    infinity: u16,
    out: &mut Vec<u8>,
) -> std::result::Result<(), f64> {
    let at = out.len();
    out.resize(at + 2 * reals.len(), 0);
    wide(Encode { reals, infinity, bytes: out[at..].as_chunks_mut::<2>().0, codec: PhantomData::<H> })
}

/// The number type that arithmetic happens in: f32 for 16-bit outputs, f64 where the output is float32 or
/// wider.
pub trait Real:
    faer::traits::RealField
    + Copy
    + Send
    + Sync
    + fmt::Debug
    + std::ops::Add<Output = Self>
    + std::ops::Sub<Output = Self>
    + std::ops::Mul<Output = Self>
    + std::ops::Div<Output = Self>
    + std::ops::AddAssign
    + std::ops::MulAssign
    + 'static
{
    /// The nearest value to `x`.
    fn from_f64(x: f64) -> Self;
    /// `x`, exactly.
    fn from_f32(x: f32) -> Self;
    /// The value, exactly.
    fn to_f64(self) -> f64;
    /// The nearest f32.
    fn to_f32(self) -> f32;
    /// The unit roundoff of the type.
    const ROUNDOFF: f64;
}

impl Real for f32 {
    fn from_f64(x: f64) -> Self {
        x as Self
    }
    fn from_f32(x: f32) -> Self {
        x
    }
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
    fn to_f32(self) -> f32 {
        self
    }
    const ROUNDOFF: f64 = f32::EPSILON as f64 / 2.0;
}

impl Real for f64 {
    fn from_f64(x: f64) -> Self {
        x
    }
    fn from_f32(x: f32) -> Self {
        Self::from(x)
    }
    fn to_f64(self) -> f64 {
        self
    }
    fn to_f32(self) -> f32 {
        self as f32
    }
    const ROUNDOFF: f64 = Self::EPSILON / 2.0;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(dtype: Dtype, data: &[u8]) -> Vec<f64> {
        TensorView { dtype, shape: &[data.len() / dtype.size()], data }.to_reals()
    }

    #[test]
    fn every_finite_half_survives_a_round_trip() {
        for (dtype, infinity) in [(Dtype::F16, 0x7c00_u16), (Dtype::BF16, 0x7f80)] {
            let finite = (0..=u16::MAX).filter(|bits| bits & infinity != infinity);
            let bytes: Vec<u8> = finite.flat_map(u16::to_le_bytes).collect();
            let reals: Vec<f32> = TensorView { dtype, shape: &[bytes.len() / 2], data: &bytes }.to_reals();
            let mut back = Vec::new();
            encode(&reals, dtype, &mut back).unwrap();
            assert_eq!(back, bytes);
        }
    }

    #[test]
    fn float8_values_are_those_of_the_ocp_formats() {
        assert_eq!(
            decode(Dtype::F8E4M3, &[0x38, 0xb8, 0x7e, 0x01, 0x08]),
            [1.0, -1.0, 448.0, 2_f64.powi(-9), 2_f64.powi(-6)]
        );
        assert_eq!(decode(Dtype::F8E5M2, &[0x3c, 0xbc, 0x7b, 0x01]), [1.0, -1.0, 57344.0, 2_f64.powi(-16)]);
        assert!(decode(Dtype::F8E4M3, &[0x7f, 0xff]).iter().all(|x| x.is_nan()));
    }

    #[test]
    fn a_value_out_of_range_is_refused_and_named() {
        let error = encode(&[1.0_f32, 70000.0], Dtype::F16, &mut Vec::new()).unwrap_err();
        assert!(error.message().contains("7e4") && error.message().contains("bfloat16"), "{error}");
        let error = encode(&[1e39_f64], Dtype::F32, &mut Vec::new()).unwrap_err();
        assert!(error.message().contains("float64"), "{error}");
        assert!(encode(&[1e300_f64], Dtype::F64, &mut Vec::new()).is_ok());
    }

    #[test]
    fn dtypes_are_known_by_their_documented_spellings() {
        for (spelling, dtype) in [("float", Dtype::F32), ("bfloat", Dtype::BF16), ("Float16", Dtype::F16)] {
            assert_eq!(spelling.parse::<Dtype>().unwrap(), dtype);
        }
        assert!("float8".parse::<Dtype>().unwrap_err().message().contains("bfloat16"));
    }
}
