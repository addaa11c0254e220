//! The names of Python that a model's pickle may use, and what they stand for here: notes, never code.

use crate::tensor::Dtype;

/// A dtype as PyTorch names it.
struct Row {
    dtype: Dtype,
    /// `torch.NAME`
    name: &'static str,
    /// The class of its storages, `torch.CLASS`; newer dtypes have none of their own, and lie in untyped ones.
    class: Option<&'static str>,
}

const ROWS: [Row; 15] = [
    Row { dtype: Dtype::F64, name: "float64", class: Some("DoubleStorage") },
    Row { dtype: Dtype::F32, name: "float32", class: Some("FloatStorage") },
    Row { dtype: Dtype::F16, name: "float16", class: Some("HalfStorage") },
    Row { dtype: Dtype::BF16, name: "bfloat16", class: Some("BFloat16Storage") },
    Row { dtype: Dtype::F8E4M3, name: "float8_e4m3fn", class: None },
    Row { dtype: Dtype::F8E5M2, name: "float8_e5m2", class: None },
    Row { dtype: Dtype::I64, name: "int64", class: Some("LongStorage") },
    Row { dtype: Dtype::I32, name: "int32", class: Some("IntStorage") },
    Row { dtype: Dtype::I16, name: "int16", class: Some("ShortStorage") },
    Row { dtype: Dtype::I8, name: "int8", class: Some("CharStorage") },
    Row { dtype: Dtype::U64, name: "uint64", class: None },
    Row { dtype: Dtype::U32, name: "uint32", class: None },
    Row { dtype: Dtype::U16, name: "uint16", class: None },
    Row { dtype: Dtype::U8, name: "uint8", class: Some("ByteStorage") },
    Row { dtype: Dtype::Bool, name: "bool", class: Some("BoolStorage") },
];

/// `torch.NAME` of a dtype.
pub(super) fn dtype_name(dtype: Dtype) -> &'static str {
    ROWS.iter().find(|row| row.dtype == dtype).map_or("", |row| row.name)
}

/// `torch.CLASS` of a dtype's storages, if it has its own.
pub(super) fn storage_class(dtype: Dtype) -> Option<&'static str> {
    ROWS.iter().find(|row| row.dtype == dtype)?.class
}

/// What a storage's or a tensor's elements are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element<'p> {
    /// Numbers.
    Of(Dtype),
    /// Bytes that every tensor reads in its own way.
    Untyped,
    /// Something that is not read, by its name.
    Foreign(&'p str),
}

/// A name that a pickle imports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Global<'p> {
    /// A dict, when called with nothing.
    OrderedDict,
    /// A tuple of extents, when called with one.
    Size,
    /// A tensor over a storage of the same element type.
    RebuildTensor,
    /// A tensor that says its own dtype.
    RebuildTensorAs,
    /// The tensor that it is called with.
    RebuildParameter,
    /// The class of a storage.
    Storage(Element<'p>),
    /// A dtype.
    Dtype(Dtype),
    /// Anything else: it may be mentioned, and is refused as soon as something is to be done with it.
    Foreign { module: &'p str, name: &'p str },
}

impl<'p> Global<'p> {
    pub(super) fn named(module: &'p str, name: &'p str) -> Self {
        let class = |row: &&Row| row.class == Some(name);
        match (module, name) {
            ("collections", "OrderedDict") => Self::OrderedDict,
            ("torch", "Size") => Self::Size,
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Self::RebuildTensor,
            ("torch._utils", "_rebuild_tensor_v3") => Self::RebuildTensorAs,
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => {
                Self::RebuildParameter
            }
            ("torch" | "torch.storage", "UntypedStorage") => Self::Storage(Element::Untyped),
            ("torch", "ComplexFloatStorage" | "ComplexDoubleStorage") => {
                Self::Storage(Element::Foreign(name))
            }
            ("torch", _) => {
                if let Some(row) = ROWS.iter().find(class) {
                    Self::Storage(Element::Of(row.dtype))
                } else if let Some(row) = ROWS.iter().find(|row| row.name == name) {
                    Self::Dtype(row.dtype)
                } else {
                    Self::Foreign { module, name }
                }
            }
            _ => Self::Foreign { module, name },
        }
    }
}
