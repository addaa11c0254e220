//! Block weights: how strongly an input acts in every part of the model, as a text.
//!
//! The text is a row of terms, separated by spaces or commas. A term says a factor for some layers: `IN04=0.5`, for a
//! range `IN04-IN08=0.5`, along a range `OUT00-OUT11=0..1`, for names `*attn*=0.3`. Of several that fit a layer the last
//! counts, and a layer that none fits keeps its strength. Strengths of whole networks, `te=0.5 unet=1`, are multiplied
//! with that. The lists of 12, 17, 20, 26 or 61 values of the WebUI's block-weight extension are terms for the blocks
//! that it counts.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::str::FromStr;

use crate::adapter::Adapter;
use crate::error::{Error, Result};
use crate::model::{Block, architecture, identify};

/// The factors of an input's layers.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockWeights {
    text: String,
    terms: Vec<Term>,
    /// The lists among the terms.
    lists: Vec<&'static List>,
}

/// Texts by name, as files of presets have them.
#[derive(Clone, Debug, Default)]
pub struct Presets(BTreeMap<String, String>);

/// A factor and the layers that it is for.
#[derive(Clone, Debug, PartialEq)]
struct Term {
    name: String,
    layers: Layers,
    /// At the first and at the last block.
    factor: (f64, f64),
    /// Whether a file without such layers is none that the text was written for.
    must_match: bool,
    /// Whether it is multiplied with what other terms say.
    is_strength: bool,
}

#[derive(Clone, Debug, PartialEq)]
enum Layers {
    Text,
    Clip,
    Denoiser,
    Stem(Block),
    Range(Block, Block),
    Named(String),
}

/// The values that the block-weight extension takes, by how many they are.
#[derive(Debug, PartialEq)]
struct List {
    what: &'static str,
    /// Names and ranges.
    blocks: &'static [&'static str],
}

static LISTS: [List; 5] = [
    List { what: "SDXL LoRA", blocks: &["BASE", "IN04-IN05", "IN07-IN08", "M00", "OUT00-OUT05"] },
    List {
        what: "SD1 and SD2 LoRA",
        blocks: &["BASE", "IN01-IN02", "IN04-IN05", "IN07-IN08", "M00", "OUT03-OUT11"],
    },
    List { what: "SDXL", blocks: &["BASE", "IN00-IN08", "M00", "OUT00-OUT08"] },
    List { what: "SD1 and SD2", blocks: &["BASE", "IN00-IN11", "M00", "OUT00-OUT11"] },
    List { what: "Flux", blocks: &["CLIP", "T5", "IN", "D00-D18", "S00-S37", "OUT"] },
];

impl List {
    /// The layers that each value is for.
    fn layers(&self) -> Vec<Layers> {
        let mut layers = Vec::new();
        for name in self.blocks {
            match Layers::named(name) {
                Layers::Range(first, last) => {
                    let (low, high) = (first.number().unwrap_or(0), last.number().unwrap_or(0));
                    let single = |number| Block::named(&format!("{}{number}", first.stem()));
                    layers.extend((low..=high).map(single).map(|block| Layers::Range(block.clone(), block)));
                }
                other => layers.push(other),
            }
        }
        layers
    }

    /// The numbered blocks among these that it has no value for.
    fn lacks<'b>(&self, blocks: &'b BTreeSet<Block>) -> Vec<&'b Block> {
        let layers = self.layers();
        let has = |block: &Block| layers.iter().any(|layers| layers.place(block, "").is_some());
        blocks.iter().filter(|block| !block.is_text() && block.number().is_some() && !has(block)).collect()
    }
}

impl Layers {
    fn named(name: &str) -> Self {
        if name.contains(['*', '?']) {
            return Self::Named(name.to_owned());
        }
        if let Some((first, last)) = name.split_once('-') {
            let first = Block::named(first);
            // `IN04-08`: the same stem.
            let last = match last.bytes().all(|b| b.is_ascii_digit()) {
                true => Block::named(&format!("{}.{last}", first.stem())),
                false => Block::named(last),
            };
            return Self::Range(first, last);
        }
        match name.to_ascii_lowercase().as_str() {
            "te" | "base" => Self::Text,
            "clip" => Self::Clip,
            "unet" | "transformer" => Self::Denoiser,
            _ => {
                let block = Block::named(name);
                if block.number().is_some() { Self::Range(block.clone(), block) } else { Self::Stem(block) }
            }
        }
    }

    /// How far along the layers a module stands, from 0 to 1, if it is one of them.
    fn place(&self, block: &Block, module: &str) -> Option<f64> {
        let is_there = match self {
            Self::Text => block.is_text(),
            Self::Clip => block.is_text() && block.stem() != "t5",
            Self::Denoiser => !block.is_text(),
            Self::Stem(stem) => block.stem() == stem.stem(),
            Self::Range(first, last) => first <= block && block <= last,
            Self::Named(pattern) => fits(pattern, module),
        };
        let along = || match self {
            Self::Range(first, last) if first != last => {
                let [at, low, high] =
                    [block, first, last].map(|block| f64::from(block.number().unwrap_or(0)));
                (at - low) / (high - low)
            }
            _ => 0.0,
        };
        is_there.then(along)
    }
}

/// Whether a text fits a pattern, whose `*` stands for any characters and `?` for one.
fn fits(pattern: &str, text: &str) -> bool {
    match pattern.chars().next() {
        None => text.is_empty(),
        Some('*') => text
            .char_indices()
            .map(|(at, _)| at)
            .chain([text.len()])
            .any(|at| fits(&pattern[1..], &text[at..])),
        Some(wanted) => text.chars().next().is_some_and(|found| {
            (wanted == '?' || wanted == found)
                && fits(&pattern[wanted.len_utf8()..], &text[found.len_utf8()..])
        }),
    }
}

impl Term {
    fn new(name: &str, value: &str) -> Result<Self> {
        let number = |text: &str| text.trim().parse().ok().filter(|x: &f64| x.is_finite());
        let ends = match value.split_once("..") {
            Some((first, last)) => number(first).zip(number(last)),
            None => number(value).map(|x| (x, x)),
        };
        let refuse = |why: &str| Error::option(format!("block weights: '{name}={value}': {why}"));
        let factor = ends.ok_or_else(|| refuse("a factor is a number such as 0.5, or 0..1 along a range"))?;
        let layers = Layers::named(name);
        if let Layers::Range(first, last) = &layers
            && first > last
        {
            return Err(refuse("the range ends before it begins"));
        }
        let is_row =
            matches!(&layers, Layers::Range(first, last) if first != last && first.stem() == last.stem());
        if factor.0 != factor.1 && !is_row {
            return Err(refuse("factors along a range need one such as OUT00-OUT11"));
        }
        let networks = ["te", "te1", "te2", "t5", "unet", "transformer"];
        let is_strength = networks.iter().any(|network| network.eq_ignore_ascii_case(name));
        Ok(Self { name: name.to_owned(), layers, factor, must_match: !is_strength, is_strength })
    }

    fn factor(&self, block: &Block, module: &str) -> Option<f64> {
        let (first, last) = self.factor;
        let along = self.layers.place(block, module)?;
        Some(first + along * (last - first))
    }
}

impl BlockWeights {
    /// From a text, in which names of `presets` stand for their texts.
    ///
    /// # Errors
    /// Says which term can't be understood.
    pub fn parse(text: &str, presets: &Presets) -> Result<Self> {
        let mut weights = Self { text: String::new(), terms: Vec::new(), lists: Vec::new() };
        let mut words = words(text).peekable();
        while let Some(word) = words.next() {
            if word.parse::<f64>().is_ok() {
                let mut values = vec![word];
                while let Some(value) = words.next_if(|word| word.parse::<f64>().is_ok()) {
                    values.push(value);
                }
                weights.add_list(&values)?;
                weights.note(&values.join(","));
            } else if let Some((name, value)) = word.split_once('=') {
                weights.terms.push(Term::new(name, value)?);
                weights.note(word);
            } else if let Some(preset) = presets.0.get(word) {
                let preset = Self::parse(preset, &Presets::default())?;
                weights.note(&preset.text);
                weights.terms.extend(preset.terms);
                weights.lists.extend(preset.lists);
            } else {
                let known = presets.0.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
                let known =
                    if known.is_empty() { "none is given".to_owned() } else { format!("there are {known}") };
                return Err(Error::option(format!(
                    "block weights: '{word}' is no number, no NAME=FACTOR and no preset ({known})"
                )));
            }
        }
        match weights.terms.is_empty() {
            true => Err(Error::option("block weights: the text is empty")),
            false => Ok(weights),
        }
    }

    fn note(&mut self, term: &str) {
        if !self.text.is_empty() {
            self.text.push(' ');
        }
        self.text += term;
    }

    fn add_list(&mut self, values: &[&str]) -> Result<()> {
        let found = LISTS.iter().find_map(|list| {
            let layers = list.layers();
            (layers.len() == values.len()).then_some((list, layers))
        });
        let Some((list, layers)) = found else {
            let known = LISTS.iter().map(|list| format!("{} ({})", list.layers().len(), list.what));
            return Err(Error::option(format!(
                "block weights: there are lists of {} values, not of {}",
                known.collect::<Vec<_>>().join(", "),
                values.len()
            )));
        };
        for (layers, value) in layers.into_iter().zip(values) {
            let term = Term::new("", value)?;
            self.terms.push(Term { layers, must_match: false, ..term });
        }
        self.lists.push(list);
        Ok(())
    }

    /// The text, with every preset written out.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What a module's delta is multiplied with.
    pub fn factor(&self, module: &str) -> f64 {
        let block = Block::of(&identify(module));
        let (mut strength, mut factor) = (1.0, 1.0);
        for term in &self.terms {
            match term.factor(&block, module) {
                Some(x) if term.is_strength => strength *= x,
                Some(x) => factor = x,
                None => {}
            }
        }
        strength * factor
    }

    /// Refuses what was written for another file.
    ///
    /// # Errors
    /// A name that no layer has, or a list without values for blocks that there are; says which blocks there are.
    pub(super) fn check(&self, adapter: &Adapter) -> Result<()> {
        let modules: BTreeSet<&str> = adapter.layers().keys().map(|id| id.module.as_str()).collect();
        let placed: Vec<_> = modules.iter().map(|module| (Block::of(&identify(module)), *module)).collect();
        let blocks: BTreeSet<Block> = placed.iter().map(|(block, _)| block.clone()).collect();
        let layers = adapter.layers().iter().map(|(id, layer)| (id.module.as_str(), layer.shape.cols));
        let model = architecture(layers).map(|(model, _)| model);
        let refuse =
            |message: String| Err(Error::option(format!("block weights: {message}")).in_file(adapter.path()));
        let fits =
            |term: &Term| placed.iter().any(|(block, module)| term.layers.place(block, module).is_some());
        if let Some(term) = self.terms.iter().find(|term| term.must_match && !fits(term)) {
            return refuse(format!(
                "no layer is in '{}'; the blocks are {}",
                term.name,
                Block::list(&blocks, model)
            ));
        }
        for list in &self.lists {
            let lacking = list.lacks(&blocks);
            if !lacking.is_empty() {
                let fitting = LISTS.iter().filter(|list| list.lacks(&blocks).is_empty());
                let fitting: Vec<_> = fitting.map(|list| list.layers().len().to_string()).collect();
                let way = match fitting.is_empty() {
                    true => "no list has them all: NAME=FACTOR is for such a file".to_owned(),
                    false => format!("a list of {} values has them", fitting.join(" or ")),
                };
                return refuse(format!(
                    "the {} values, for {}, say nothing of {}; {way}",
                    list.layers().len(),
                    list.what,
                    Block::list(lacking, model)
                ));
            }
        }
        Ok(())
    }
}

impl FromStr for BlockWeights {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text, &Presets::default())
    }
}

impl Presets {
    /// Reads a file with a line `NAME:TEXT` for each; empty lines, and lines that begin with `#`, are comments.
    ///
    /// # Errors
    /// A file that can't be read, or another line.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|error| Error::io(&error, "read", path))?;
        Self::parse(&text).map_err(|error| error.in_file(path))
    }

    fn parse(text: &str) -> Result<Self> {
        let mut presets = BTreeMap::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, text) = line.split_once(':').ok_or_else(|| {
                Error::option(format!("line {} is no preset: one is NAME:VALUES", index + 1))
            })?;
            presets.insert(name.trim().to_owned(), text.trim().to_owned());
        }
        Ok(Self(presets))
    }
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| c.is_whitespace() || c == ',' || c == ';').filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODULES: [(&str, &str); 6] = [
        ("te", "lora_te_text_model_encoder_layers_3_mlp_fc1"),
        ("in4", "lora_unet_down_blocks_1_attentions_0_proj_in"),
        ("m", "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"),
        ("out0", "lora_unet_up_blocks_0_resnets_0_conv1"),
        ("out11", "lora_unet_up_blocks_3_attentions_2_proj_in"),
        ("d7", "lora_unet_double_blocks_7_img_attn_qkv"),
    ];

    fn factors(text: &str) -> [f64; 6] {
        let weights: BlockWeights = text.parse().unwrap();
        MODULES.map(|(_, module)| weights.factor(module))
    }

    #[test]
    fn the_last_term_that_fits_counts_and_strengths_are_multiplied() {
        for (text, expected) in [
            ("IN04=0.5", [1.0, 0.5, 1.0, 1.0, 1.0, 1.0]),
            ("in04-M00=0.5, OUT=0", [1.0, 0.5, 0.5, 0.0, 0.0, 0.5]),
            ("IN04-OUT03=2 *attn*=-0.3", [1.0, 2.0, -0.3, 2.0, 1.0, -0.3]),
            ("*=0 mid=1", [0.0, 0.0, 1.0, 0.0, 0.0, 0.0]),
            ("OUT00-OUT11=0..1", [1.0, 1.0, 1.0, 0.0, 1.0, 1.0]),
            ("OUT00-22=1..0", [1.0, 1.0, 1.0, 1.0, 0.5, 1.0]),
            ("double_blocks.0-9=0; BASE=0.25", [0.25, 1.0, 1.0, 1.0, 1.0, 0.0]),
            ("te=0.5 unet=0.5 IN04=0.5 te1=0.5 te1.3=3", [0.75, 0.25, 0.5, 0.5, 0.5, 0.5]),
            ("lora_unet_?p_blocks_0*=7", [1.0, 1.0, 1.0, 7.0, 1.0, 1.0]),
            ("lora_unet_p?_blocks_0*=7", [1.0, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ] {
            assert_eq!(factors(text), expected, "{text}");
        }
    }

    #[test]
    fn lists_have_the_order_of_the_extension() {
        let counts: Vec<_> = LISTS.iter().map(|list| list.layers().len()).collect();
        assert_eq!(counts, [12, 17, 20, 26, 61]);
        let list = |n: usize| (0..n).map(|i| i.to_string()).collect::<Vec<_>>().join(",");
        assert_eq!(factors(&list(12)), [0.0, 1.0, 5.0, 6.0, 1.0, 1.0]);
        assert_eq!(factors(&list(17)), [0.0, 3.0, 7.0, 1.0, 16.0, 1.0]);
        assert_eq!(factors(&list(20)), [0.0, 5.0, 10.0, 11.0, 1.0, 1.0]);
        assert_eq!(factors(&list(26)), [0.0, 5.0, 13.0, 14.0, 25.0, 1.0]);
        assert_eq!(factors(&format!("{} te=0.5", list(61)))[5], 10.0);
    }

    #[test]
    fn what_cannot_be_understood_is_refused_with_the_reason() {
        for (text, says) in [
            ("", "empty"),
            ("1,2,3", "there are lists of 12 (SDXL LoRA), 17"),
            ("IN04=much", "a factor is a number"),
            ("IN04=nan", "a factor is a number"),
            ("IN08-IN04=1", "ends before it begins"),
            ("IN04=0..1", "need one such as OUT00-OUT11"),
            ("IN04-OUT03=0..1", "need one such as OUT00-OUT11"),
            ("INS", "'INS' is no number, no NAME=FACTOR and no preset (none is given)"),
        ] {
            let error = text.parse::<BlockWeights>().unwrap_err();
            assert!(error.message().contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn presets_stand_for_their_texts() {
        let presets = Presets::parse("# mine\nNOTEXT:BASE=0\n\nLATE: OUT00-OUT11=0..1\n").unwrap();
        let weights = BlockWeights::parse("LATE NOTEXT unet=0.5", &presets).unwrap();
        assert_eq!(weights.text(), "OUT00-OUT11=0..1 BASE=0 unet=0.5");
        assert_eq!(weights, weights.text().parse().unwrap());
        let error = BlockWeights::parse("EARLY", &presets).unwrap_err();
        assert!(error.message().contains("there are LATE, NOTEXT"), "{error}");
        assert!(Presets::parse("a:1\nnonsense").unwrap_err().message().contains("line 2 is no preset"));
    }
}
