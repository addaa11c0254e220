//! Opened checkpoints: a model's parameters, found by what they are and not by how a file spells them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use faer::Mat;
use serde_json::Value;

use super::name::{Identity, Rows, identify};
use crate::error::{Error, Result};
use crate::file::Container;
use crate::tensor::{Real, TensorView, all_finite};

/// An opened model: one file, or several with an index.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    shards: Vec<Container>,
    /// Where every parameter is, by what it is.
    places: BTreeMap<(Identity, Param), Place>,
}

/// Weights and biases are apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Param {
    Weight,
    Bias,
}

/// Where a parameter is.
#[derive(Debug)]
struct Place {
    shard: usize,
    tensor: String,
}

/// A parameter of a checkpoint, or the outputs of it that a module stands for.
#[derive(Clone, Debug)]
pub struct Parameter<'a> {
    /// The whole tensor's name in its file.
    pub name: &'a str,
    /// The file that it is in.
    pub file: &'a Container,
    /// The whole tensor.
    pub view: TensorView<'a>,
    /// Which of its rows.
    pub rows: Range<usize>,
    /// Whether the two halves of these rows are to be read in the other order.
    pub swapped: bool,
}

impl Checkpoint {
    /// Opens a safetensors or PyTorch file, an index of several (`….index.json`), or a folder with one of these.
    ///
    /// # Errors
    /// A file that is not there or not sound.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let shards = files(path)?.iter().map(|file| Container::open(file)).collect::<Result<Vec<_>>>()?;
        let mut places = BTreeMap::new();
        for (shard, file) in shards.iter().enumerate() {
            for tensor in file.names() {
                if let Some(key) = parameter_of(tensor) {
                    places.insert(key, Place { shard, tensor: tensor.to_owned() });
                }
            }
        }
        if places.is_empty() {
            return Err(Error::format("the file holds no weights; is this a checkpoint?").in_file(path));
        }
        Ok(Self { path: path.to_owned(), shards, places })
    }

    /// Where it was opened from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its files, in the order of the index.
    pub fn files(&self) -> &[Container] {
        &self.shards
    }

    /// The weight of a module.
    pub fn weight(&self, module: &Identity) -> Option<Parameter<'_>> {
        self.parameter(module, Param::Weight)
    }

    /// The bias of a module.
    pub fn bias(&self, module: &Identity) -> Option<Parameter<'_>> {
        self.parameter(module, Param::Bias)
    }

    /// The weight of a module, whole or in the parts that the checkpoint has it in, in the order of its outputs; none if
    /// any is missing.
    pub fn weight_parts(&self, module: &Identity) -> Vec<Parameter<'_>> {
        self.parts(module, Param::Weight)
    }

    /// The same of its bias.
    pub fn bias_parts(&self, module: &Identity) -> Vec<Parameter<'_>> {
        self.parts(module, Param::Bias)
    }

    /// What has a weight, in the order of the model.
    pub fn weights(&self) -> impl Iterator<Item = &Identity> {
        self.identities(Param::Weight)
    }

    /// What has a bias.
    pub fn biases(&self) -> impl Iterator<Item = &Identity> {
        self.identities(Param::Bias)
    }

    fn identities(&self, of: Param) -> impl Iterator<Item = &Identity> {
        self.places.keys().filter(move |(_, param)| *param == of).map(|(identity, _)| identity)
    }

    /// The tensors that are no module's weight or bias, with their files.
    pub fn others(&self) -> impl Iterator<Item = (&Container, &str)> {
        let known: BTreeSet<&str> = self.places.values().map(|place| place.tensor.as_str()).collect();
        let all = self.shards.iter().flat_map(|file| file.names().map(move |name| (file, name)));
        all.filter(move |(_, name)| !known.contains(name))
    }

    /// The names of all modules, as the files spell them.
    pub fn modules(&self) -> impl Iterator<Item = &str> {
        let module = |place: &'_ Place| place.tensor.rsplit_once('.').map_or(0, |(module, _)| module.len());
        self.places.values().map(move |place| &place.tensor[..module(place)])
    }

    fn parameter(&self, module: &Identity, param: Param) -> Option<Parameter<'_>> {
        // What the checkpoint has as the name says it, or else as a part of what it has whole.
        let whole = Identity { rows: Rows::WHOLE, ..module.clone() };
        let (place, part) = match self.places.get(&(module.clone(), param)) {
            Some(place) => (place, Rows::WHOLE),
            None => (self.places.get(&(whole, param))?, module.rows),
        };
        let file = &self.shards[place.shard];
        let view = file.get(&place.tensor)?;
        let rows = view.shape.first().copied().unwrap_or(1);
        let unit = (rows % part.of == 0).then_some(rows / part.of)?;
        let range = part.start * unit..(part.start + part.len) * unit;
        Some(Parameter { name: &place.tensor, file, view, rows: range, swapped: part.swapped })
    }

    fn parts(&self, module: &Identity, param: Param) -> Vec<Parameter<'_>> {
        if let Some(whole) = self.parameter(module, param) {
            return vec![whole];
        }
        let same =
            |identity: &Identity| (identity.component, &identity.path) == (module.component, &module.path);
        let mut keys: Vec<&Identity> = self
            .places
            .keys()
            .filter(|(identity, of)| *of == param && same(identity))
            .map(|(identity, _)| identity)
            .collect();
        keys.sort_by_key(|identity| identity.rows.start);
        let mut next = 0;
        for Identity { rows, .. } in &keys {
            if rows.start != next || rows.of != keys[0].rows.of {
                return Vec::new();
            }
            next += rows.len;
        }
        if module.rows != Rows::WHOLE || keys.first().is_none_or(|first| first.rows.of != next) {
            return Vec::new();
        }
        let part = |identity: &Identity| {
            let found = self.parameter(identity, param)?;
            Some(Parameter { swapped: found.swapped != identity.rows.swapped, ..found })
        };
        keys.into_iter().filter_map(part).collect()
    }
}

/// The endings of parameters' names, first those of weights. OpenCLIP's fused attention has no dot there.
const WEIGHTS: [(&str, &str); 2] = [(".weight", ""), (".in_proj_weight", ".in_proj")];
const BIASES: [(&str, &str); 2] = [(".bias", ""), (".in_proj_bias", ".in_proj")];

/// The module and the parameter that a tensor's name stands for, if it is a parameter's.
fn parameter_of(tensor: &str) -> Option<(Identity, Param)> {
    let module = |endings: &[(&str, &str)]| {
        endings.iter().find_map(|(ending, rest)| Some(format!("{}{rest}", tensor.strip_suffix(ending)?)))
    };
    let weight = module(&WEIGHTS).map(|module| (identify(&module), Param::Weight));
    weight.or_else(|| module(&BIASES).map(|module| (identify(&module), Param::Bias)))
}

impl<'a> Parameter<'a> {
    /// The module's name, as the file spells it.
    pub fn module(&self) -> &'a str {
        self.name.rsplit_once('.').map_or(self.name, |(module, _)| module)
    }

    /// Its shape, of the rows that are meant.
    pub fn shape(&self) -> Vec<usize> {
        let mut shape = self.view.shape.to_vec();
        if let Some(rows) = shape.first_mut() {
            *rows = self.rows.len();
        }
        shape
    }

    /// What its stored numbers are multiplied by: 8-bit checkpoints say it in a tensor beside the weight.
    ///
    /// # Errors
    /// Numbers whose meaning isn't known.
    pub fn scale(&self) -> Result<f64> {
        const NAMES: [&str; 2] = ["scale_weight", "weight_scale"];
        let known = || {
            let dtype = self.view.dtype;
            if !dtype.is_float() {
                return Err(Error::unsupported(format!(
                    "holds {} numbers, whose meaning isn't known; use a checkpoint that isn't quantised",
                    dtype.name()
                )));
            }
            let Some(module) = self.name.strip_suffix("weight") else { return Ok(1.0) };
            let Some((beside, view)) = NAMES.iter().find_map(|scale| {
                let beside = format!("{module}{scale}");
                self.file.get(&beside).map(|view| (beside, view))
            }) else {
                return Ok(1.0);
            };
            match view.to_reals::<f64>()[..] {
                [scale] if scale.is_finite() && scale > 0.0 => Ok(scale),
                [scale] => Err(Error::value(format!("its scale, '{beside}', is {scale}"))),
                _ => Err(Error::unsupported(format!(
                    "has a scale for every part, '{beside}'; one for all of it is understood"
                ))),
            }
        };
        known().map_err(|e| e.in_layer(self.name).in_file(self.file.path()))
    }

    /// Appends some of its rows to `out`, multiplied with [`scale`](Self::scale).
    pub(crate) fn read_rows<T: Real>(&self, wanted: Range<usize>, scale: f64, out: &mut Vec<T>) {
        let cols: usize = self.view.shape.iter().skip(1).product();
        let (count, half) = (self.rows.len(), if self.swapped { self.rows.len() / 2 } else { 0 });
        let mut read = |from: usize, to: usize| {
            let first = self.rows.start + from;
            let mut numbers: Vec<T> = Vec::new();
            let part = first * cols..(self.rows.start + to) * cols;
            self.view.read_into(part.clone(), &mut numbers);
            let size = self.view.dtype.size();
            self.file.used([&self.view.data[part.start * size..part.end * size]]);
            let factor = T::from_f64(scale);
            out.extend(numbers.iter().map(|x| if scale == 1.0 { *x } else { *x * factor }));
        };
        // Row i is the one at i + half, from the last one on back at the start.
        let turn = (count - half).clamp(wanted.start, wanted.end);
        if wanted.start < turn {
            read(wanted.start + half, turn + half);
        }
        if turn < wanted.end {
            read(turn + half - count, wanted.end + half - count);
        }
    }

    /// Its entries as a matrix, outputs by inputs and kernel; a vector is one column.
    ///
    /// # Errors
    /// Those of [`scale`](Self::scale), and entries that are not finite.
    pub fn to_matrix<T: Real>(&self) -> Result<Mat<T>> {
        let (count, cols) = (self.rows.len(), self.view.shape.iter().skip(1).product());
        let mut numbers = Vec::new();
        self.read_rows(0..count, self.scale()?, &mut numbers);
        if !all_finite(&numbers) {
            return Err(Error::value("holds numbers that are not finite"));
        }
        Ok(Mat::from_fn(count, cols, |i, j| numbers[i * cols + j]))
    }
}

/// The files of a checkpoint.
fn files(path: &Path) -> Result<Vec<PathBuf>> {
    /// What trainers call the files of a folder, the most usual first.
    const NAMES: [&str; 6] = [
        "diffusion_pytorch_model.safetensors.index.json",
        "model.safetensors.index.json",
        "diffusion_pytorch_model.safetensors",
        "model.safetensors",
        "diffusion_pytorch_model.bin",
        "pytorch_model.bin",
    ];
    if path.is_dir() {
        let found = NAMES.iter().map(|name| path.join(name)).find(|file| file.exists());
        let found = found.ok_or_else(|| {
            let names = NAMES.join(", ");
            Error::format(format!("the folder has none of {names}")).in_file(path)
        })?;
        return files(&found);
    }
    if path.extension().is_none_or(|ending| ending != "json") {
        return Ok(vec![path.to_owned()]);
    }
    let text = std::fs::read_to_string(path).map_err(|error| Error::io(&error, "read", path))?;
    let index: Option<Value> = serde_json::from_str(&text).ok();
    let map = index.as_ref().and_then(|index| index.get("weight_map")?.as_object());
    let map = map.ok_or_else(|| Error::format("this is no index of a checkpoint's files").in_file(path))?;
    let mut names: Vec<&str> = map.values().filter_map(Value::as_str).collect();
    names.sort_unstable();
    names.dedup();
    // A name that leads out of the folder is no shard's.
    if let Some(name) = names.iter().find(|name| name.contains(['/', '\\'])) {
        return Err(
            Error::format(format!("the index names '{name}', which is not in its folder")).in_file(path)
        );
    }
    Ok(names.into_iter().map(|name| path.with_file_name(name)).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs::{self, File};

    use tempfile::TempDir;

    use super::*;
    use crate::file::Writer;
    use crate::tensor::Dtype;

    /// A file of float32 tensors that count up from 0.
    fn write(path: &Path, tensors: &[(&str, &[usize])]) {
        let file = File::create_new(path).unwrap();
        let mut writer = Writer::new(file, path.to_owned(), 0).unwrap();
        for (name, shape) in tensors {
            let data: Vec<u8> =
                (0..shape.iter().product()).flat_map(|i: usize| (i as f32).to_le_bytes()).collect();
            writer.push(name, Dtype::F32, shape, &data).unwrap();
        }
        writer.finish(BTreeMap::new()).unwrap();
    }

    #[test]
    fn parameters_are_found_in_every_shard_by_what_they_are() {
        let folder = TempDir::new().unwrap();
        let file = |name: &str| folder.path().join(name);
        write(&file("a.safetensors"), &[("conv_in.bias", &[4]), ("conv_in.weight", &[4, 2, 3, 3])]);
        write(&file("b.safetensors"), &[("mid_block.attn.weight", &[6, 2])]);
        let index = r#"{"weight_map": {"conv_in.weight": "a.safetensors", "mid_block.attn.weight": "b.safetensors"}}"#;
        fs::write(file("model.safetensors.index.json"), index).unwrap();

        for path in [folder.path().to_owned(), file("model.safetensors.index.json")] {
            let model = Checkpoint::open(path).unwrap();
            let conv = identify("lora_unet_conv_in");
            assert_eq!(model.weight(&conv).unwrap().shape(), [4, 2, 3, 3]);
            assert_eq!(model.bias(&conv).unwrap().to_matrix::<f64>().unwrap()[(3, 0)], 3.0);
            let attn = identify("lora_unet_mid_block_attn");
            let part = Identity { rows: Rows { start: 1, len: 1, of: 3, swapped: true }, ..attn };
            let part = model.weight(&part).unwrap();
            assert_eq!(part.shape(), [2, 2]);
            assert_eq!(part.to_matrix::<f32>().unwrap(), faer::mat![[6.0, 7.0], [4.0, 5.0]]);
            assert!(model.weight(&identify("lora_unet_conv_out")).is_none());
        }
    }

    #[test]
    fn fused_weights_and_their_parts_are_found_in_either_form() {
        let folder = TempDir::new().unwrap();
        let file = |name: &str| folder.path().join(name);
        let attention = "transformer_blocks.0.attn";
        let names = ["to_k", "to_q", "to_v"].map(|part| format!("{attention}.{part}.weight"));
        let split: Vec<(&str, &[usize])> = names.iter().map(|name| (name.as_str(), &[2, 3][..])).collect();
        write(&file("split.safetensors"), &split);
        write(&file("fused.safetensors"), &[("double_blocks.0.img_attn.qkv.weight", &[6, 3])]);
        let names = |checkpoint: &Checkpoint, module: &str| -> Vec<(String, Range<usize>)> {
            let parts = checkpoint.weight_parts(&identify(module));
            parts.into_iter().map(|part| (part.name.to_owned(), part.rows)).collect()
        };
        let (split, fused) = ("split.safetensors", "fused.safetensors");
        let [split, fused] = [split, fused].map(|name| Checkpoint::open(file(name)).unwrap());
        let whole = "lora_unet_double_blocks_0_img_attn_qkv";
        let rows = |part: &str| (format!("{attention}.{part}.weight"), 0..2);
        assert_eq!(names(&split, whole), [rows("to_q"), rows("to_k"), rows("to_v")]);
        assert_eq!(names(&fused, whole), [("double_blocks.0.img_attn.qkv.weight".to_owned(), 0..6)]);
        let part = names(&fused, &format!("transformer.{attention}.to_v"));
        assert_eq!(part, [("double_blocks.0.img_attn.qkv.weight".to_owned(), 4..6)]);
        assert_eq!(split.modules().collect::<Vec<_>>().len(), 3);
    }

    #[test]
    fn what_is_no_checkpoint_is_refused_with_the_reason() {
        let folder = TempDir::new().unwrap();
        let says = |path: &Path, why: &str| {
            let error = Checkpoint::open(path).unwrap_err();
            assert!(error.message().contains(why) && error.file() == Some(path), "{error}");
        };
        says(folder.path(), "the folder has none of");
        let index = folder.path().join("x.index.json");
        fs::write(&index, r#"{"weight_map": {"a.weight": "../a.safetensors"}}"#).unwrap();
        says(&index, "which is not in its folder");
        fs::write(&index, "[]").unwrap();
        says(&index, "no index");
        let file = folder.path().join("a.safetensors");
        write(&file, &[("something", &[1])]);
        says(&file, "is this a checkpoint?");
    }
}
