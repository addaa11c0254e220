//! Adapter files made in memory.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::sync::Arc;

use lycomerge::Adapter;
use lycomerge::adapter::{Dims, Param, WeightShape, write};
use lycomerge::delta::Term;
use lycomerge::file::Writer;
use lycomerge::tensor::{Dtype, encode};

/// The module of the one layer that [`adapter`] makes.
pub(crate) const MODULE: &str = "lora_unet_layer";

/// A tensor to be stored: name, extents, numbers.
pub(crate) type Tensor<'a> = (&'a str, &'a [usize], &'a [f64]);

/// A safetensors file of these tensors in the order of their names.
pub(crate) fn safetensors(tensors: &[Tensor<'_>], dtype: Dtype) -> Vec<u8> {
    let sorted: BTreeMap<_, _> =
        tensors.iter().map(|(name, shape, numbers)| (*name, (*shape, *numbers))).collect();
    let mut writer = Writer::new(Cursor::new(Vec::new()), "memory".into(), 1024).unwrap();
    for (name, (shape, numbers)) in sorted {
        let mut data = Vec::new();
        encode(numbers, dtype, &mut data).unwrap();
        writer.push(name, dtype, shape, &data).unwrap();
    }
    writer.finish(BTreeMap::new()).unwrap().0.into_inner()
}

/// An adapter of one linear layer, stored in float64.
pub(crate) fn adapter(term: &Term<f64>) -> Arc<Adapter> {
    let (rows, cols) = term.shape();
    let shape = WeightShape { rows, cols, dims: Dims::Kernel(Vec::new()) };
    let (_, tensors) = write(term, 1.0, &shape, Param::Weight, false, Dtype::F64).unwrap();
    let mut writer = Writer::new(Cursor::new(Vec::new()), "memory".into(), 1024).unwrap();
    for tensor in tensors {
        writer
            .push(&format!("{MODULE}{}", tensor.suffix), tensor.dtype, &tensor.shape, &tensor.data)
            .unwrap();
    }
    let bytes = writer.finish(BTreeMap::new()).unwrap().0.into_inner();
    Arc::new(Adapter::from_bytes("memory", bytes).unwrap())
}
