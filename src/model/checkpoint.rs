//! Opened checkpoints: a model's parameters, found by what they are and not by how a file spells them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use faer::Mat;
use serde_json::Value;

use super::name::{Identity, Rows, identify};
use crate::error::{Error, Result};
use crate::file::Container;
use crate::tensor::{Real, TensorView};

/// An opened model: one file, or several with an index.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    shards: Vec<Container>,
    /// Where every parameter is, by what it is: weights and biases apart.
    places: BTreeMap<(Identity, &'static str), Place>,
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
                let found = PARAMS.iter().find_map(|param| Some((tensor.strip_suffix(param)?, *param)));
                if let Some((module, param)) = found {
                    let place = Place { shard, tensor: tensor.to_owned() };
                    places.insert((identify(module), param), place);
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
        self.parameter(module, PARAMS[0])
    }

    /// The bias of a module.
    pub fn bias(&self, module: &Identity) -> Option<Parameter<'_>> {
        self.parameter(module, PARAMS[1])
    }

    /// The names of the parameters that are most like a module's: what its own name may have been meant to be.
    pub fn nearest(&self, module: &Identity, count: usize) -> Vec<&str> {
        let distance = |known: &Identity| strsim::levenshtein(&known.path, &module.path);
        let mut places: Vec<_> = self.places.iter().collect();
        places.sort_by_cached_key(|((known, _), _)| distance(known));
        places.into_iter().take(count).map(|(_, place)| place.tensor.as_str()).collect()
    }

    fn parameter(&self, module: &Identity, param: &'static str) -> Option<Parameter<'_>> {
        // What the checkpoint has as the file says it, or else as a part of what it has whole.
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
}

/// The endings of parameters' names.
const PARAMS: [&str; 2] = [".weight", ".bias"];

impl Parameter<'_> {
    /// Its shape, of the rows that are meant.
    pub fn shape(&self) -> Vec<usize> {
        let mut shape = self.view.shape.to_vec();
        if let Some(rows) = shape.first_mut() {
            *rows = self.rows.len();
        }
        shape
    }

    /// Its entries as a matrix, outputs by inputs and kernel; a vector is one column.
    pub fn to_matrix<T: Real>(&self) -> Mat<T> {
        let cols: usize = self.view.shape.iter().skip(1).product();
        let mut numbers = Vec::new();
        self.view.read_into(self.rows.start * cols..self.rows.end * cols, &mut numbers);
        self.file.used(numbers.len() * self.view.dtype.size());
        let (count, half) = (self.rows.len(), self.rows.len() / 2);
        let row = |i: usize| if self.swapped { (i + half) % count } else { i };
        Mat::from_fn(count, cols, |i, j| numbers[row(i) * cols + j])
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
            assert_eq!(model.bias(&conv).unwrap().to_matrix::<f64>()[(3, 0)], 3.0);
            let attn = identify("lora_unet_mid_block_attn");
            let part = Identity { rows: Rows { start: 1, len: 1, of: 3, swapped: true }, ..attn };
            let part = model.weight(&part).unwrap();
            assert_eq!(part.shape(), [2, 2]);
            assert_eq!(part.to_matrix::<f32>(), faer::mat![[6.0, 7.0], [4.0, 5.0]]);
            assert!(model.weight(&identify("lora_unet_conv_out")).is_none());
        }
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
