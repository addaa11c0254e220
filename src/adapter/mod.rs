//! What a file's tensors mean: layers, each with its family, its shape and its delta.
//!
//! Opening groups names by layer, finds the family by its row in the table, checks every shape against its
//! partners and resolves alpha and rank. From here on nobody asks for a family: a layer gives a [`Delta`],
//! and a fitted term is written back by [`write()`].

mod base;
mod boft;
mod dora;
mod family;
mod full;
mod glora;
mod ia3;
mod loha;
mod lokr;
mod lora;
mod members;
pub mod name;
mod oft;
mod orthogonal;
mod own;
mod peft;
mod peft_boft;
mod peft_oft;
mod refused;
mod replace;
mod reshape;
mod shape;
mod spelling;
mod tlora;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::delta::Delta;
use crate::error::{Error, Result};
use crate::file::Container;
use crate::model::Checkpoint;
use crate::tensor::{Dtype, Real, TensorView};
use peft::Configs;

pub use family::Family;
pub(crate) use family::stored_delta;
pub use full::norm_names;
pub(crate) use lokr::split_of as lokr_split;
pub use members::Members;
pub(crate) use own::combine;
pub(crate) use peft::{Configured, config, config_beside, metadata as peft_metadata};
pub(crate) use reshape::pad_bytes;
pub use shape::{Dims, WeightShape};
pub(crate) use spelling::{kept_alpha, with_letters};
pub use write::{NewTensor, write};

/// The key of the metadata that every file of lycomerge's has.
pub(crate) const RECIPE_KEY: &str = "lycomerge_recipe";

/// Which parameter of a model's layer is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Param {
    /// The layer's weight.
    Weight,
    /// The layer's bias.
    Bias,
}

impl Param {
    /// `weight` or `bias`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Weight => "weight",
            Self::Bias => "bias",
        }
    }
}

/// The parameter that a layer changes: the module's name as the file spells it, and weight or bias.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LayerId {
    /// The module's name, such as `lora_unet_mid_block_attentions_0_proj_in`.
    pub module: String,
    /// Which of its parameters.
    pub param: Param,
}

/// One layer of an adapter: checked, not yet read.
#[derive(Clone, Debug)]
pub struct Layer {
    /// How the delta is stored.
    pub family: Family,
    /// The shape of the parameter that it changes.
    pub shape: WeightShape,
    /// alpha/rank, or 1 where the family or the file has none.
    pub scale: f64,
    /// The inner rank of the stored factors, where there is one.
    pub rank: Option<usize>,
    /// The stored numbers.
    pub numbers: usize,
    /// The shape that the model's weight is padded to with zeros first, where the adapter says so.
    pub reshape: Option<Vec<usize>>,
    /// Suffix → tensor name.
    tensors: BTreeMap<&'static str, String>,
}

impl Layer {
    /// The numbers that it is worked on as: the stored ones and, where the effect is made from the base model's weight,
    /// as many as that has.
    pub(crate) fn expanded(&self) -> usize {
        let made = if self.family.needs_base() { self.shape.rows.saturating_mul(self.shape.cols) } else { 0 };
        self.numbers.saturating_add(made)
    }

    /// The names of its tensors in the file.
    pub fn tensor_names(&self) -> impl Iterator<Item = &str> {
        self.tensors.values().map(String::as_str)
    }
}

/// How an adapter is opened.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// Layers that can't be understood are left out, each with a [`warning`](Adapter::warnings); else the file is
    /// refused.
    pub skip_unknown: bool,
    /// The model that the adapter changes. Families whose effect depends on its weights need it; every layer is looked
    /// up in it and must have its shape.
    pub base: Option<Arc<Checkpoint>>,
}

/// An opened adapter file.
#[derive(Debug)]
pub struct Adapter {
    file: Container,
    base: Option<Arc<Checkpoint>>,
    configs: Configs,
    layers: BTreeMap<LayerId, Layer>,
    passengers: Vec<String>,
    unknown: Vec<Error>,
    warnings: Vec<String>,
}

impl Adapter {
    /// Opens and checks a safetensors or PyTorch file, or the folder of PEFT or diffusers that one is in; tensors stay
    /// on disk until a layer is read.
    ///
    /// # Errors
    /// A file that is not sound, a layer whose tensors don't fit together, or a family that can't be merged
    /// without the base weight, each with the file's and the layer's name.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path, &OpenOptions::default())
    }

    /// As [`open`](Self::open), as `options` say.
    ///
    /// # Errors
    /// As [`open`](Self::open), and a layer that the base model doesn't have or has in another shape.
    pub fn open_with(path: impl AsRef<Path>, options: &OpenOptions) -> Result<Self> {
        Self::read(Container::open(&peft::tensors(path.as_ref())?)?, options)
    }

    /// An adapter from the bytes of a safetensors or PyTorch file; `name` stands for the path in messages.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_bytes(name: impl Into<PathBuf>, bytes: Vec<u8>) -> Result<Self> {
        Self::from_bytes_with(name, bytes, &OpenOptions::default())
    }

    /// As [`from_bytes`](Self::from_bytes), as `options` say.
    ///
    /// # Errors
    /// As [`open_with`](Self::open_with).
    pub fn from_bytes_with(name: impl Into<PathBuf>, bytes: Vec<u8>, options: &OpenOptions) -> Result<Self> {
        Self::read(Container::from_bytes(name, bytes)?, options)
    }

    fn read(file: Container, options: &OpenOptions) -> Result<Self> {
        let (path, base) = (file.path().to_owned(), options.base.clone());
        let configs = Configs::of(&file)?;
        let mut modules: BTreeMap<String, BTreeMap<&'static str, String>> = BTreeMap::new();
        let (mut passengers, mut unknown, mut absolute) = (Vec::new(), Vec::new(), Vec::new());
        for name in file.names() {
            let found = spelling::split(name);
            if name::is_passenger(name) {
                passengers.push(name.to_owned());
            } else if peft::is_absolute(name, found.as_ref().map(|(_, suffix)| *suffix)) {
                absolute.push(name.to_owned());
            } else if let Some((module, suffix)) = found {
                let suffix = if configs.is_transposed(&module) { lora::transposed(suffix) } else { suffix };
                let tensors = modules.entry(module.clone()).or_default();
                if let Some(other) = tensors.insert(suffix, name.to_owned()) {
                    let message = format!("'{other}' and '{name}' are two spellings of one tensor");
                    unknown.push(Error::format(message).in_layer(module).in_file(&path));
                }
            } else {
                let message = format!(
                    "the tensor '{name}' belongs to no adapter family that lycomerge knows; is this an adapter? \
                     (skip-unknown leaves it out)"
                );
                unknown.push(Error::format(message).in_file(&path));
            }
        }
        let mut warnings: Vec<String> = configs.warnings().collect();
        warnings.extend(peft::absolute_warning(&absolute));
        passengers.extend(absolute);
        passengers.sort_unstable();
        let mut layers = BTreeMap::new();
        for (module, tensors) in modules {
            // A search for what is meant takes a while: once is enough.
            let known = base::check_module(base.as_deref(), &module, unknown.is_empty());
            let found = known.and_then(|()| {
                family::layers_of(&file, base.as_deref(), &module, tensors, configs.given(&module))
            });
            match found {
                Ok(found) => {
                    for (param, layer, warning) in found {
                        warnings.extend(warning.map(|w| format!("layer {module}: {w}")));
                        layers.insert(LayerId { module: module.clone(), param }, layer);
                    }
                }
                Err(error) => unknown.push(error.in_layer(&module).in_file(&path)),
            }
        }
        if configs.is_empty() && !file.metadata().contains_key(RECIPE_KEY) {
            warnings.extend(peft::missing_alphas(&layers));
        }
        let mut warnings: Vec<_> = warnings.into_iter().map(|w| format!("{}: {w}", path.display())).collect();
        if layers.is_empty() && unknown.is_empty() {
            unknown.push(Error::format("the file holds no adapter layers").in_file(&path));
        }
        if let Some(error) = unknown.first().filter(|_| !options.skip_unknown) {
            return Err(error.clone());
        }
        warnings.extend(unknown.iter().map(|error| format!("left out: {error}")));
        // Single numbers of every layer were looked at.
        file.used([file.bytes()]);
        Ok(Self { file, base, configs, layers, passengers, unknown, warnings })
    }

    /// Where the adapter was opened from.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// The model that it was opened with.
    pub fn base(&self) -> Option<&Arc<Checkpoint>> {
        self.base.as_ref()
    }

    /// Whether a layer's effect can't be told, because it depends on a base model and there is none.
    pub fn lacks_base(&self, layer: &Layer) -> bool {
        layer.family.needs_base() && self.base.is_none()
    }

    /// The file underneath.
    pub fn file(&self) -> &Container {
        &self.file
    }

    /// The layers, in the order of their names.
    pub fn layers(&self) -> &BTreeMap<LayerId, Layer> {
        &self.layers
    }

    /// The file's metadata.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        self.file.metadata()
    }

    /// What was noticed while opening, one sentence each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Layers and tensors that were left out because they can't be understood.
    pub fn skipped(&self) -> usize {
        self.unknown.len()
    }

    /// Tensors that are no layers and travel along as they are, such as textual-inversion vectors.
    pub fn passengers(&self) -> impl Iterator<Item = (&str, TensorView<'_>)> {
        self.passengers.iter().filter_map(|name| Some((name.as_str(), self.file.get(name)?)))
    }

    /// The stored tensors of a layer, by suffix.
    pub fn members<'a>(&'a self, layer: &Layer) -> Members<'a> {
        let view = |(suffix, name): (&&'static str, &String)| Some((*suffix, self.file.get(name)?));
        Members::new(layer.tensors.iter().filter_map(view).collect())
    }

    /// The delta of a layer at strength 1; float32 holds every stored number but a float64 one exactly.
    ///
    /// # Errors
    /// A stored number that is not finite, or a family that needs a base model where the adapter was opened without.
    pub fn delta<T: Real>(&self, id: &LayerId, layer: &Layer) -> Result<Delta<T>> {
        self.delta_at(1.0, id, layer)
    }

    /// What a host adds that loads the adapter at a strength. For nearly every family that is so many times the
    /// [`delta`](Self::delta), for DoRA too: W + m (W' − W). The strength m of a diag-OFT or a BOFT of LyCORIS, or an OFT
    /// of sd-scripts, is that of its rotations, I + m (R − I) each, and its rescale is applied in full.
    ///
    /// # Errors
    /// As [`delta`](Self::delta).
    pub fn delta_at<T: Real>(&self, strength: f64, id: &LayerId, layer: &Layer) -> Result<Delta<T>> {
        let members = self.members(layer);
        let stored: Vec<&[u8]> = members.iter().map(|(_, view)| view.data).collect();
        let delta = base::find(self.base.as_deref(), id, layer.reshape.as_deref())
            .map(|base| members.of(&id.module, base).with(self.configs.given(&id.module)).at(strength))
            .and_then(|members| layer.family.effect(&members, layer));
        self.file.used(stored);
        delta.map_err(|e| e.in_layer(&id.module).in_file(self.path()))
    }

    /// What the file is, in one word for scripts: `LoRA`, `LoHa`, `LoKr`, `Full`, `Norm`, or `Mixed`. Norm and
    /// bias differences beside another family don't count.
    pub fn kind(&self) -> &'static str {
        let weights = |id: &&LayerId| id.param == Param::Weight;
        let families: BTreeSet<_> =
            self.layers.iter().filter(|(id, _)| weights(id)).map(|(_, layer)| layer.family).collect();
        let main: Vec<_> = families.iter().filter(|family| **family != Family::Norm).collect();
        match (main.as_slice(), families.is_empty()) {
            ([one], _) => one.name(),
            ([], false) => Family::Norm.name(),
            ([], true) => Family::Full.name(),
            _ => "Mixed",
        }
    }

    /// Whether low-rank factors are called `lora_A` and `lora_B` here, or something like it; none if there are none.
    pub fn has_letters(&self) -> Option<bool> {
        let kohya = |layer: &Layer| Some(!layer.tensors.get(lora::DOWN)?.ends_with(lora::DOWN));
        self.layers.values().find_map(kohya)
    }

    /// The dtype that most of the stored numbers have.
    pub fn dtype(&self) -> Dtype {
        let mut bytes: BTreeMap<Dtype, usize> = BTreeMap::new();
        for layer in self.layers.values() {
            for (_, view) in self.members(layer).iter() {
                *bytes.entry(view.dtype).or_default() += view.data.len();
            }
        }
        bytes.into_iter().max_by_key(|(_, n)| *n).map_or(Dtype::F16, |(dtype, _)| dtype)
    }
}
