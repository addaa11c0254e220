//! Rounding to a stored dtype, to the nearest or at random, for weights that a small change is added to.
//!
//! Nearest rounding loses a change that is smaller than half the distance between neighbouring numbers, everywhere and
//! always. Stochastic rounding goes up or down with probabilities whose mean is the exact number, so that the change
//! is there on average, in exchange for noise.

use sha2::{Digest, Sha256};

use crate::error::Result;
use crate::tensor::{Dtype, Real, encode};

/// How numbers become those of a narrower dtype.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// To the nearest, ties to even.
    Nearest,
    /// Up or down at random, from this seed.
    Stochastic(u64),
}

/// A float format: what decides the distance between neighbours.
struct Format {
    /// Bits of the mantissa that are stored.
    mantissa: i32,
    /// The smallest exponent of a normal number.
    least: i32,
    /// The largest number.
    largest: f64,
}

/// The formats that can be rounded to at random, and those that nothing else here writes.
fn format_of(dtype: Dtype) -> Option<Format> {
    Some(match dtype {
        Dtype::F8E4M3 => Format { mantissa: 3, least: -6, largest: 448.0 },
        Dtype::F8E5M2 => Format { mantissa: 2, least: -14, largest: 57344.0 },
        Dtype::F16 => Format { mantissa: 10, least: -14, largest: 65504.0 },
        Dtype::BF16 => Format { mantissa: 7, least: -126, largest: f64::from(half::bf16::MAX.to_f32()) },
        _ => return None,
    })
}

/// Rounds numbers of one tensor, part by part.
pub(crate) struct Rounder {
    dtype: Dtype,
    format: Option<Format>,
    /// Whose stream of random numbers is this tensor's own.
    seed: Option<u64>,
}

impl Rounder {
    /// Rounds the tensor `name` to `dtype`. Wide dtypes are rounded to the nearest anyhow.
    pub(crate) fn new(rounding: Rounding, dtype: Dtype, name: &str) -> Self {
        let seed = match rounding {
            Rounding::Nearest => None,
            Rounding::Stochastic(seed) => Some(seed_of(&[&seed.to_le_bytes(), name.as_bytes()])),
        };
        Self { dtype, format: format_of(dtype), seed }
    }

    /// Where its stream of random numbers begins, if it rounds at random.
    pub(crate) fn seed(&self) -> Option<u64> {
        self.seed.filter(|_| self.format.is_some())
    }

    /// Appends `numbers`, of which the first has this index in the tensor. Says how many were beyond the largest of an
    /// 8-bit dtype and became that.
    ///
    /// # Errors
    /// A number that a wider dtype can't hold, and a dtype that no weight has.
    pub(crate) fn append<T: Real>(&self, numbers: &[T], first: usize, out: &mut Vec<u8>) -> Result<usize> {
        let eight_bits = matches!(self.dtype, Dtype::F8E4M3 | Dtype::F8E5M2);
        let Some(format) = self.format.as_ref().filter(|_| eight_bits || self.seed.is_some()) else {
            return encode(numbers, self.dtype, out).map(|()| 0);
        };
        let round = |(i, number): (usize, &T)| {
            format.round(number.to_f64(), self.seed.map(|seed| uniform(seed, (first + i) as u64)))
        };
        let rounded = numbers.iter().enumerate().map(round);
        if !eight_bits {
            return encode(&rounded.collect::<Vec<f64>>(), self.dtype, out).map(|()| 0);
        }
        let mut saturated = 0;
        for x in rounded {
            saturated += usize::from(x.abs() > format.largest);
            out.push(format.bits(x.clamp(-format.largest, format.largest)));
        }
        Ok(saturated)
    }
}

impl Format {
    /// `x` on the format's grid, which has no end here; up or down as `random` from 0 to 1 says, if there is one.
    fn round(&self, x: f64, random: Option<f64>) -> f64 {
        let step = 2_f64.powi(exponent(x).max(self.least) - self.mantissa);
        let (whole, steps) = ((x / step).floor(), x / step);
        let chosen = match random {
            Some(random) if random < steps - whole => whole + 1.0,
            Some(_) => whole,
            None => steps.round_ties_even(),
        };
        chosen * step
    }

    /// The eight bits of a number on the grid.
    fn bits(&self, x: f64) -> u8 {
        let sign = if x.is_sign_negative() { 0x80 } else { 0 };
        let exponent = exponent(x).max(self.least);
        let steps = (x.abs() / 2_f64.powi(exponent - self.mantissa)) as u8;
        // A subnormal number has no leading one, and the exponent field 0, which stands for the least exponent too.
        let field = (exponent - self.least) as u8;
        sign | ((field << self.mantissa) + steps)
    }
}

/// ⌊log₂ |x|⌋; far below every format's least for 0.
fn exponent(x: f64) -> i32 {
    ((x.to_bits() >> 52) & 0x7ff) as i32 - 1023
}

/// What the stream begins with that belongs to these bytes, one after the other.
pub(crate) fn seed_of(parts: &[&[u8]]) -> u64 {
    let digest = parts.iter().fold(Sha256::new(), |hash, part| hash.chain_update(part)).finalize();
    u64::from_le_bytes(digest[..8].try_into().expect("eight bytes"))
}

/// The random number `index` of a stream, from 0 to below 1.
pub(crate) fn uniform(seed: u64, index: u64) -> f64 {
    (scrambled(seed, index) >> 11) as f64 / (1_u64 << 53) as f64
}

/// The random bits `index` of a stream: splitmix64 (Steele, Lea, Flood 2014), which can start anywhere, so that numbers
/// don't depend on the order of work.
pub(crate) fn scrambled(seed: u64, index: u64) -> u64 {
    let mut z = seed.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::TensorView;

    fn read(dtype: Dtype, data: &[u8]) -> Vec<f64> {
        TensorView { dtype, shape: &[data.len() / dtype.size()], data }.to_reals()
    }

    fn rounded(dtype: Dtype, rounding: Rounding, numbers: &[f64]) -> (Vec<f64>, usize) {
        let mut out = Vec::new();
        let saturated = Rounder::new(rounding, dtype, "x").append(numbers, 0, &mut out).unwrap();
        (read(dtype, &out), saturated)
    }

    #[test]
    fn every_8_bit_number_is_written_as_itself_and_others_as_the_nearest() {
        for dtype in [Dtype::F8E4M3, Dtype::F8E5M2] {
            let all: Vec<u8> = (0..=255).collect();
            let mut finite: Vec<f64> = read(dtype, &all).into_iter().filter(|x| x.is_finite()).collect();
            let (same, saturated) = rounded(dtype, Rounding::Nearest, &finite);
            assert_eq!(
                (same.iter().map(|x| x.to_bits()).collect::<Vec<_>>(), saturated),
                (finite.iter().map(|x| x.to_bits()).collect(), 0)
            );
            finite.sort_by(f64::total_cmp);
            for pair in finite.windows(2) {
                let [low, high] = [pair[0], pair[1]];
                let between = [low + 0.49 * (high - low), low + 0.51 * (high - low)];
                assert_eq!(rounded(dtype, Rounding::Nearest, &between).0, [low, high]);
            }
            let largest = finite[finite.len() - 1];
            assert_eq!(rounded(dtype, Rounding::Nearest, &[1e9, -1e9]), (vec![largest, -largest], 2));
        }
    }

    #[test]
    fn random_rounding_goes_to_a_neighbour_and_is_right_on_average() {
        for (dtype, x) in [
            (Dtype::F8E4M3, 0.1),
            (Dtype::F8E5M2, -3.3),
            (Dtype::BF16, 1.0 + 1e-3),
            (Dtype::F16, 1e-7),
            (Dtype::F16, -0.3),
        ] {
            let (numbers, _) = rounded(dtype, Rounding::Stochastic(7), &vec![x; 40_000]);
            let nearest = rounded(dtype, Rounding::Nearest, &[x]).0[0];
            let mut kinds = numbers.clone();
            kinds.sort_by(f64::total_cmp);
            kinds.dedup();
            assert!(
                kinds.len() == 2 && kinds[0] < x && x < kinds[1] && kinds.contains(&nearest),
                "{kinds:?}"
            );
            let mean = numbers.iter().sum::<f64>() / numbers.len() as f64;
            assert!((mean - x).abs() < 0.02 * (kinds[1] - kinds[0]), "{dtype}: {mean} for {x}");
        }
    }

    #[test]
    fn what_is_stored_already_stays_and_every_part_gets_its_own_numbers() {
        let rounder = Rounder::new(Rounding::Stochastic(1), Dtype::BF16, "x");
        let mut exact = Vec::new();
        rounder.append(&[0.0_f32, 1.0, -2.5, 1.5e-38], 0, &mut exact).unwrap();
        assert_eq!(read(Dtype::BF16, &exact)[..3], [0.0, 1.0, -2.5]);

        let numbers = vec![1.001_f32; 100];
        let (mut whole, mut parts, mut other) = (Vec::new(), Vec::new(), Vec::new());
        rounder.append(&numbers, 0, &mut whole).unwrap();
        rounder.append(&numbers[..33], 0, &mut parts).unwrap();
        rounder.append(&numbers[33..], 33, &mut parts).unwrap();
        assert_eq!(whole, parts);
        Rounder::new(Rounding::Stochastic(2), Dtype::BF16, "x").append(&numbers, 0, &mut other).unwrap();
        assert_ne!(whole, other);
    }
}
