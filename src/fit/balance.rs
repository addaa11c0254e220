//! Factors ready to be rounded: their largest entries alike, by powers of two (which cost no precision), the
//! rest of the scale in one factor, and none of them in the dtype's subnormals.

use faer::{Mat, Scale};

use crate::delta::{Factor, Hadamard, Kron, Term};
use crate::tensor::{Dtype, Real};

/// float16 loses precision below 2⁻¹⁴; largest entries below this leave their smaller neighbours there.
const LOW: f64 = 1.0 / 128.0;
/// Factors whose largest entries are within this power of two of each other are balanced enough.
const NEAR: f64 = 4.0;
/// float16 ends at 65504.
const HIGH: f64 = 16384.0;

/// `scale · term` as a term whose factors are balanced, and the power of two that is left over for alpha/rank:
/// 1, unless a float16 factor would be too small or too large.
pub(super) fn balance<T: Real>(mut term: Term<T>, scale: f64, dtype: Dtype) -> (Term<T>, f64) {
    if let Term::Kron(kron) = &mut term
        && let Factor::Product { .. } = kron.a
    {
        kron.a = Factor::Full(kron.a.to_full());
    }
    let mut factors = factors(&mut term);
    let peaks: Vec<f64> = factors.iter().map(|factor| factor.norm_max().to_f64()).collect();
    let product = peaks.iter().product::<f64>() * scale.abs();
    if product == 0.0 {
        return (term, 1.0);
    }
    let common = product.powf(1.0 / peaks.len() as f64);
    // Whole matrices have no alpha beside them that hosts read.
    let lift = if dtype == Dtype::F16 && peaks.len() > 1 { lift(common, peaks.len()) } else { 0 };
    let shifts: Vec<f64> = peaks.iter().map(|peak| (common / peak).log2().round()).collect();
    // Factors that are near enough stay as they are, subnormals and all.
    let balanced = shifts.iter().all(|shift| shift.abs() <= NEAR);
    let shifts: Vec<f64> = shifts.iter().map(|shift| if balanced { 0.0 } else { *shift }).collect();
    let rest = scale / shifts.iter().sum::<f64>().exp2();
    // What is left of the scale grows the smallest factor or shrinks the largest.
    let order = |i: &usize| peaks[*i] * shifts[*i].exp2() * if rest.abs() < 1.0 { -1.0 } else { 1.0 };
    let taker = (0..peaks.len()).min_by(|i, j| order(i).total_cmp(&order(j))).unwrap_or(0);
    for (i, factor) in factors.iter_mut().enumerate() {
        let own = if i == taker { rest } else { 1.0 };
        let power = (shifts[i] + f64::from(lift)).exp2() * own;
        if power != 1.0 {
            **factor *= Scale(T::from_f64(power));
        }
    }
    let left_over = f64::from(-lift * peaks.len() as i32).exp2();
    (term, left_over)
}

/// The power of two that brings every factor's largest entry into range, as far as alpha stays in its own.
fn lift(peak: f64, factors: usize) -> i32 {
    let furthest = 12 / factors as i32;
    if peak < LOW {
        ((LOW / peak).log2().ceil() as i32).min(furthest)
    } else if peak > HIGH {
        -((peak / HIGH).log2().ceil() as i32).min(furthest / 4)
    } else {
        0
    }
}

/// The matrices that a term is made of; a w1 that is [[1]] stays so.
fn factors<T: Real>(term: &mut Term<T>) -> Vec<&mut Mat<T>> {
    fn of<T: Real>(factor: &mut Factor<T>) -> Vec<&mut Mat<T>> {
        match factor {
            Factor::Full(matrix) => vec![matrix],
            Factor::Product { left, right } => vec![left, right],
        }
    }
    match term {
        Term::Plain(factor) => of(factor),
        Term::Kron(Kron { a, b }) => {
            let unit = a.rows() * a.cols() == 1 && a.to_full()[(0, 0)].to_f64() == 1.0;
            let outer = if unit { Vec::new() } else { of(a) };
            outer.into_iter().chain(of(b)).collect()
        }
        Term::Hadamard(Hadamard { first, second }) => of(first).into_iter().chain(of(second)).collect(),
    }
}
