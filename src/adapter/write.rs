//! A fitted term as the tensors of its family, named and shaped the way hosts expect.
//!
//! The rules, from the formats' differences between hosts: factors carry the scale so that alpha/rank = 1
//! wherever the dtype allows (some hosts apply another scale twice or ignore it); alpha is always there,
//! finite, in the factors' dtype; w1 stays whole; w2 is written whole where some loader expects it so
//! (rank ≥ max(b, d)/2).

use std::borrow::Cow;

use faer::{Mat, Scale};

use super::full::norm_names;
use super::shape::{Dims, WeightShape};
use super::{Family, Param, reshape};
use crate::compute::linalg::for_each_rows;
use crate::delta::{Factor, Term};
use crate::error::Result;
use crate::tensor::{Dtype, Real, TensorView, encode};

/// A tensor to be written.
#[derive(Clone, Debug)]
pub struct NewTensor {
    /// The suffix after the module's name.
    pub suffix: &'static str,
    /// Extents.
    pub shape: Vec<usize>,
    /// Element type.
    pub dtype: Dtype,
    /// Little-endian elements.
    pub data: Vec<u8>,
}

impl NewTensor {
    /// The tensor that has a host pad the model's weight with zeros to a shape.
    pub(crate) fn reshape(dims: &[usize]) -> Self {
        let data = dims.iter().flat_map(|extent| (*extent as i64).to_le_bytes()).collect();
        Self { suffix: reshape::SUFFIX, shape: vec![dims.len()], dtype: Dtype::I64, data }
    }
}

/// The tensors that store `scale · term` for a parameter, and the family that they are of. `scale` is a power of
/// two; it becomes alpha/rank, and is 1 unless the dtype can't hold the factors otherwise.
///
/// # Errors
/// A number that `dtype` can't hold.
pub fn write<T: Real>(
    term: &Term<T>,
    scale: f64,
    shape: &WeightShape,
    param: Param,
    norm: bool,
    dtype: Dtype,
) -> Result<(Family, Vec<NewTensor>)> {
    let mut out = Writer { dtype, tensors: Vec::new() };
    let ones = vec![1; shape.kernel().len()];
    let family = match term {
        Term::Plain(Factor::Full(matrix)) => {
            out.push(norm_names(norm, param), shape.full(), matrix)?;
            if norm { Family::Norm } else { Family::Full }
        }
        Term::Plain(Factor::Product { left, right }) => {
            let rank = left.ncols();
            let left = out.alpha(scale, rank, left)?;
            let down = [&[rank, shape.inputs()], shape.kernel()].concat();
            out.push(".lora_down.weight", down, right)?;
            out.push(".lora_up.weight", [&[shape.rows, rank], &ones[..]].concat(), &left)?;
            Family::Lora
        }
        Term::Hadamard(hadamard) => {
            let (a1, b1) = hadamard.first.product();
            let (a2, b2) = hadamard.second.product();
            let a1 = out.alpha(scale, b1.nrows(), &a1)?;
            for (suffix, matrix) in
                [(".hada_w1_a", &*a1), (".hada_w1_b", &*b1), (".hada_w2_a", &*a2), (".hada_w2_b", &*b2)]
            {
                out.push(suffix, vec![matrix.nrows(), matrix.ncols()], matrix)?;
            }
            Family::Loha
        }
        Term::Kron(kron) => {
            let w1 = kron.a.full();
            let w1 = match w2_product(&kron.b, shape) {
                Some((left, right)) => {
                    out.push(".lokr_w2_a", vec![left.nrows(), left.ncols()], &left)?;
                    out.push(".lokr_w2_b", vec![right.nrows(), right.ncols()], &right)?;
                    out.alpha(scale, left.ncols(), &w1)?.into_owned()
                }
                None => {
                    let w2 = kron.b.full();
                    out.push(".lokr_w2", w2_shape(shape, w2.nrows(), w2.ncols()), &w2)?;
                    // Hosts ignore alpha where both factors are whole, so w1 carries the scale.
                    let mut w1 = w1.into_owned();
                    w1 *= Scale(T::from_f64(scale));
                    out.alpha(1.0, 1, &w1)?.into_owned()
                }
            };
            out.push(".lokr_w1", vec![w1.nrows(), w1.ncols()], &w1)?;
            Family::Lokr
        }
    };
    out.tensors.sort_by_key(|tensor| tensor.suffix);
    Ok((family, out.tensors))
}

/// The two factors of a product.
type Product<'f, T> = (Cow<'f, Mat<T>>, Cow<'f, Mat<T>>);

/// w2 as a product, where it is to be stored so: not where a loader expects it whole (rank ≥ max(b, d)/2), but
/// always for 1-D and 3-D convolutions, whose whole w2 some hosts misread.
fn w2_product<'f, T: Real>(w2: &'f Factor<T>, shape: &WeightShape) -> Option<Product<'f, T>> {
    let thin =
        matches!(w2, Factor::Product { left, right } if left.ncols() * 2 < left.nrows().max(right.ncols()));
    (thin || matches!(shape.kernel().len(), 1 | 3)).then(|| w2.product())
}

fn w2_shape(shape: &WeightShape, rows: usize, cols: usize) -> Vec<usize> {
    let positions: usize = shape.kernel().iter().product();
    match &shape.dims {
        Dims::Kernel(kernel) => [&[rows, cols / positions], &kernel[..]].concat(),
        Dims::Vector | Dims::Unknown => vec![rows, cols],
    }
}

struct Writer {
    dtype: Dtype,
    tensors: Vec<NewTensor>,
}

impl Writer {
    fn push<T: Real>(&mut self, suffix: &'static str, shape: Vec<usize>, matrix: &Mat<T>) -> Result<()> {
        debug_assert_eq!(shape.iter().product::<usize>(), matrix.nrows() * matrix.ncols());
        let mut data = Vec::with_capacity(matrix.nrows() * matrix.ncols() * self.dtype.size());
        for_each_rows(matrix, |block| encode(block, self.dtype, &mut data))?;
        self.tensors.push(NewTensor { suffix, shape, dtype: self.dtype, data });
        Ok(())
    }

    /// Stores alpha for `scale` = alpha/rank, and gives `factor` times what rounding alpha to the dtype left over.
    fn alpha<'f, T: Real>(&mut self, scale: f64, rank: usize, factor: &'f Mat<T>) -> Result<Cow<'f, Mat<T>>> {
        let alpha = scale * rank as f64;
        let mut data = Vec::new();
        encode(&[alpha], self.dtype, &mut data)?;
        let stored = TensorView { dtype: self.dtype, shape: &[], data: &data }.to_reals::<f64>()[0];
        self.tensors.push(NewTensor { suffix: ".alpha", shape: Vec::new(), dtype: self.dtype, data });
        Ok(match stored == alpha {
            true => Cow::Borrowed(factor),
            false => Cow::Owned(factor * Scale(T::from_f64(alpha / stored))),
        })
    }
}
