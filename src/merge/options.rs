//! The options of a merge, and the one table that the command, the C ABI and the documentation take them from.

use crate::compute::cuda;
use crate::error::{Error, Result};
use crate::fit::{Bound, FitOptions, Format, RankRule, budget};
use crate::model::Naming;
use crate::tensor::Dtype;

pub use crate::compute::device::Device;

use super::strategy::{self, Given};

/// Where the arithmetic happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// On what adapters do to the weights.
    Delta,
    /// On the stored tensors, key by key, as older scripts do: wrong in general, and kept to reproduce them.
    Factor,
}

/// The three sensible points of the trade between size and error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quality {
    /// Tolerance 0.01.
    Exact,
    /// Tolerance 0.2, where no difference in pictures could be measured.
    Good,
    /// No larger than the largest input, each layer scaled back to its true norm.
    Compact,
}

impl Quality {
    /// From the largest file to the smallest.
    pub(super) const ALL: [Self; 3] = [Self::Exact, Self::Good, Self::Compact];

    /// The name, as options spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Good => "good",
            Self::Compact => "compact",
        }
    }

    /// The relative error that it allows a layer; none where a size is all that counts.
    pub(super) fn tolerance(self) -> Option<f64> {
        match self {
            Self::Exact => Some(budget::EXACT),
            Self::Good => Some(0.2),
            Self::Compact => None,
        }
    }
}

/// What norm a layer is brought to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatchNorm {
    /// The one that it has.
    Off,
    /// The fit is scaled to the norm of the true merge.
    Fit,
    /// The merge is scaled to the mean norm of what the inputs do; and the fit to that, where a limit cuts it.
    Inputs,
}

impl MatchNorm {
    const ALL: [(&'static str, Self); 3] =
        [("true", Self::Fit), ("inputs", Self::Inputs), ("false", Self::Off)];

    /// What the option takes for it.
    pub(super) fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, this)| *this == self).map_or("false", |(name, _)| name)
    }
}

/// Everything that can be said about a merge besides its inputs.
#[derive(Clone, Debug)]
pub struct Options {
    /// The strategy's name.
    pub strategy: String,
    /// The strategy's parameters that were set.
    pub settings: Given,
    /// Where the arithmetic happens.
    pub space: Space,
    /// What to store.
    pub format: Format,
    /// Store the tensors of the only input as they are, in place of a format.
    pub keep: bool,
    /// One of the three named points.
    pub quality: Option<Quality>,
    /// The relative error allowed per layer.
    pub tolerance: Option<f64>,
    /// The largest inner rank.
    pub rank: Option<usize>,
    /// The largest inner rank of convolutions with more than one position, where it isn't `rank`.
    pub conv_rank: Option<usize>,
    /// [`RankRule::Ratio`]
    pub sv_ratio: Option<f64>,
    /// [`RankRule::Cumulative`]
    pub sv_cumulative: Option<f64>,
    /// [`RankRule::Frobenius`]
    pub sv_fro: Option<f64>,
    /// The largest output, in bytes.
    pub max_size: Option<u64>,
    /// LoKr's factor; 1 stores w1 = `[[1]]`.
    pub factor: Option<usize>,
    /// The norm that layers are brought to.
    pub match_norm: MatchNorm,
    /// The element type of the output.
    pub dtype: Dtype,
    /// How layers are named; none: as the first input does it.
    pub naming: Option<Naming>,
    /// Leave out what can't be understood.
    pub skip_unknown: bool,
    /// Threads; none: one per core.
    pub threads: Option<usize>,
    /// Bytes that working sets may take together; none: a quarter of the machine's.
    pub memory: Option<u64>,
    /// Where entries are made.
    pub device: Device,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            strategy: "weighted_sum".to_owned(),
            settings: Given::new(),
            space: Space::Delta,
            format: Format::Auto,
            keep: false,
            quality: None,
            tolerance: None,
            rank: None,
            conv_rank: None,
            sv_ratio: None,
            sv_cumulative: None,
            sv_fro: None,
            max_size: None,
            factor: None,
            match_norm: MatchNorm::Off,
            dtype: Dtype::F16,
            naming: None,
            skip_unknown: false,
            threads: None,
            memory: None,
            device: Device::Cpu,
        }
    }
}

/// One option: what it is called, what it takes, what it does.
pub struct Row {
    /// The name; the command spells it `--name`.
    pub name: &'static str,
    /// A word for the value; none for a switch.
    pub value: Option<&'static str>,
    /// What it is without being set, for the help.
    pub default: &'static str,
    /// One sentence.
    pub help: &'static str,
    /// The words that it takes; none where it takes numbers or names.
    pub choices: &'static [&'static str],
    set: fn(&mut Options, &str) -> Result<()>,
}

/// The format that is none.
pub const KEEP: &str = "keep";

/// More threads than the largest machines have cores only take memory, until there is none left.
const MOST_THREADS: usize = 1024;

/// Every option.
pub static ALL: [Row; 21] = [
    Row {
        name: "strategy",
        value: Some("NAME"),
        default: "weighted_sum",
        help: "How deltas are combined: the name of a strategy",
        choices: &[],
        set: |o, v| strategy::by_name(v).map(|row| o.strategy = row.name.to_owned()),
    },
    Row {
        name: "normalize",
        value: None,
        default: "false",
        help: "Divide the weights of weighted_average or task_arithmetic by their sum",
        choices: &[],
        set: |o, v| switch(v).map(|x| o.set_parameter("normalize", &x.to_string())),
    },
    Row {
        name: "norm-threshold",
        value: Some("X"),
        default: "1",
        help: "The largest entry of each layer after min_max_norm",
        choices: &[],
        set: |o, v| positive(v).map(|x| o.set_parameter("norm_threshold", &x.to_string())),
    },
    Row {
        name: "space",
        value: Some("SPACE"),
        default: "delta",
        help: "delta merges what adapters do. factor adds stored tensors key by key, as older scripts do: \
               it is WRONG for anything but reproducing their files",
        choices: &["delta", "factor"],
        set: |o, v| one_of(v, &[("delta", Space::Delta), ("factor", Space::Factor)]).map(|x| o.space = x),
    },
    Row {
        name: "format",
        value: Some("FORMAT"),
        default: "auto",
        help: "What to store: auto (per layer the smallest form within the tolerance), lokr, loha, lora, full, or keep \
               (one adapter's tensors as they are, for another naming)",
        choices: &["auto", "lokr", "loha", "lora", "full", KEEP],
        set: |o, v| {
            o.keep = v == KEEP;
            o.format = if o.keep { Format::Auto } else { v.parse()? };
            Ok(())
        },
    },
    Row {
        name: "quality",
        value: Some("QUALITY"),
        default: "exact",
        help: "exact (1 % error), good (20 %, no visible difference was measured) or compact (no larger than \
               the largest input)",
        choices: &["exact", "good", "compact"],
        set: |o, v| {
            let all = Quality::ALL.map(|quality| (quality.name(), quality));
            one_of(v, &all).map(|x| o.quality = Some(x))
        },
    },
    Row {
        name: "tolerance",
        value: Some("X"),
        default: "0.01 for auto; else as exact as the dtype",
        help: "The relative error allowed in each layer, such as 0.01",
        choices: &[],
        set: |o, v| match number(v)? {
            x if (0.0..1.0).contains(&x) => {
                o.tolerance = Some(x);
                Ok(())
            }
            _ => Err(wrong(v, "a number from 0 to below 1")),
        },
    },
    Row {
        name: "rank",
        value: Some("N"),
        default: "as needed",
        help: "The largest rank of lora and loha, and of w2 in lokr",
        choices: &[],
        set: |o, v| count(v).map(|x| o.rank = Some(x)),
    },
    Row {
        name: "conv-rank",
        value: Some("N"),
        default: "as rank",
        help: "The largest rank of convolutions larger than 1×1",
        choices: &[],
        set: |o, v| count(v).map(|x| o.conv_rank = Some(x)),
    },
    Row {
        name: "sv-ratio",
        value: Some("X"),
        default: "none",
        help: "In format lora, up to rank: keep each layer's singular values above its largest divided by X, such as 20",
        choices: &[],
        set: |o, v| match number(v)? {
            x if x >= 1.0 => {
                o.sv_ratio = Some(x);
                Ok(())
            }
            _ => Err(wrong(v, "a number of 1 or more")),
        },
    },
    Row {
        name: "sv-cumulative",
        value: Some("X"),
        default: "none",
        help: "In format lora, up to rank: keep the fewest singular values whose sum is X of the sum of all, such as 0.9",
        choices: &[],
        set: |o, v| share(v).map(|x| o.sv_cumulative = Some(x)),
    },
    Row {
        name: "sv-fro",
        value: Some("X"),
        default: "none",
        help: "In format lora, up to rank: keep the fewest singular values whose Frobenius norm (the root of the sum \
               of their squares) is X of that of all, such as 0.95",
        choices: &[],
        set: |o, v| share(v).map(|x| o.sv_fro = Some(x)),
    },
    Row {
        name: "max-size",
        value: Some("SIZE"),
        default: "none",
        help: "The smallest error whose file is no larger than this: bytes, or 150MB, 1.5GiB, …",
        choices: &[],
        set: |o, v| size(v).map(|x| o.max_size = Some(x)),
    },
    Row {
        name: "factor",
        value: Some("N"),
        default: "the strongest input's",
        help: "The factor of lokr; 1 stores w1 = [[1]], which holds any merge exactly",
        choices: &[],
        set: |o, v| count(v).map(|x| o.factor = Some(x)),
    },
    Row {
        name: "match-norm",
        value: Some("WHAT"),
        default: "false",
        help: "true scales each layer's fit back to the norm of the true merge; inputs scales the merge itself to the \
               mean norm of what the models do in the layer, by their weights",
        choices: &["false", "true", "inputs"],
        set: |o, v| one_of(v, &MatchNorm::ALL).map(|x| o.match_norm = x),
    },
    Row {
        name: "dtype",
        value: Some("DTYPE"),
        default: "float16",
        help: "The output's numbers: float, float16, float32, float64, bfloat or bfloat16",
        choices: &["float16", "bfloat16", "float32", "float64"],
        set: |o, v| v.parse().map(|x| o.dtype = x),
    },
    Row {
        name: "naming",
        value: Some("NAMING"),
        default: "the first model's",
        help: "How layers are named: kohya (lora_unet_…), diffusers (unet.…, transformer.…), peft (base_model.model.…) or \
               comfy (diffusion_model.…)",
        choices: &["kohya", "diffusers", "peft", "comfy"],
        set: |o, v| one_of(v, &Naming::ALL.map(|(naming, name)| (name, naming))).map(|x| o.naming = Some(x)),
    },
    Row {
        name: "skip-unknown",
        value: None,
        default: "false",
        help: "Leave out layers that can't be understood, with a warning, instead of refusing the file",
        choices: &[],
        set: |o, v| switch(v).map(|x| o.skip_unknown = x),
    },
    Row {
        name: "threads",
        value: Some("N"),
        default: "one per core",
        help: "Layers worked on at once; the output doesn't depend on it",
        choices: &[],
        set: |o, v| match count(v) {
            Ok(n) if n <= MOST_THREADS => {
                o.threads = Some(n);
                Ok(())
            }
            _ => Err(wrong(v, &format!("a whole number from 1 to {MOST_THREADS}"))),
        },
    },
    Row {
        name: "memory",
        value: Some("SIZE"),
        default: "a quarter of the machine's",
        help: "What the layers in work may take together",
        choices: &[],
        set: |o, v| size(v).map(|x| o.memory = Some(x)),
    },
    Row {
        name: "device",
        value: Some("DEVICE"),
        default: "cpu",
        choices: &[],
        help: "Where entries are made: cpu, cuda or cuda:N (an NVIDIA GPU, an error without one), or auto (a GPU where one is \
               sure to be faster). A GPU bakes, and merges with merge_space=full by ties, dare_*, breadcrumbs*, \
               magnitude_prune and the _svd forms of these; all else is done by the CPU",
        set: |o, v| v.parse().map(|x| o.device = x),
    },
];

impl Options {
    /// Sets an option, or a parameter of a strategy, by name; `_` and `-` are the same, and a switch takes `true` or
    /// `false`. Whether the strategy has the parameter is told when the options are [checked](Self::check).
    ///
    /// # Errors
    /// An unknown name or a value that the option doesn't take; the message says what it takes.
    pub fn set(&mut self, name: &str, value: &str) -> Result<()> {
        let wanted = name.replace('_', "-");
        let parameter = name.replace('-', "_");
        let mut parameters = strategy::ALL.iter().flat_map(|row| row.parameters);
        if ALL.iter().all(|row| row.name != wanted) && parameters.any(|known| known.name == parameter) {
            self.set_parameter(&parameter, value);
            return Ok(());
        }
        let row = ALL.iter().find(|row| row.name == wanted).ok_or_else(|| {
            let names: Vec<_> = ALL.iter().map(|row| row.name).collect();
            Error::option(format!("unknown option '{name}'; the options are {}", names.join(", ")))
        })?;
        (row.set)(self, value)
            .map_err(|e| Error::new(e.kind(), format!("option {}: {}", row.name, e.message())))
    }

    /// Sets a parameter of the strategy; `_` and `-` are the same. Whether it has that, and takes the value, is told when
    /// the options are [checked](Self::check).
    pub fn set_parameter(&mut self, name: &str, value: &str) {
        self.settings.insert(name.replace('-', "_"), value.to_owned());
    }

    /// The name of what is stored.
    pub fn format_name(&self) -> &'static str {
        if self.keep { KEEP } else { self.format.name() }
    }

    /// The rule that chooses ranks, if there is one.
    pub(super) fn rank_rule(&self) -> Option<RankRule> {
        let ratio = self.sv_ratio.map(RankRule::Ratio);
        ratio.or(self.sv_cumulative.map(RankRule::Cumulative)).or(self.sv_fro.map(RankRule::Frobenius))
    }

    /// What every layer's fit must keep to; `sized`: unless a limit on the size says more.
    pub(super) fn bound(&self, sized: bool) -> Bound {
        let named = self.quality.map(|quality| quality.tolerance().unwrap_or(budget::EXACT));
        let default = if self.format == Format::Auto { budget::EXACT } else { 0.0 };
        let tolerance = self.tolerance.or(named);
        Bound {
            conv_rank: self.conv_rank,
            rank_only: tolerance.is_none() && !sized && self.format != Format::Auto,
            rule: self.rank_rule(),
            ..Bound::new(tolerance.unwrap_or(default), self.rank, self.dtype)
        }
    }

    /// How to fit, as these options say it.
    pub(super) fn fit(&self) -> FitOptions {
        let is_limited =
            self.rank.or(self.conv_rank).is_some() || self.rank_rule().is_some() || self.max_size.is_some();
        FitOptions {
            format: self.format,
            dtype: self.dtype,
            factor: self.factor,
            match_norm: match self.match_norm {
                MatchNorm::Fit => true,
                MatchNorm::Inputs if is_limited => true,
                _ => self.quality == Some(Quality::Compact),
            },
        }
    }

    /// Refuses combinations that contradict each other, and a GPU that isn't there.
    ///
    /// # Errors
    /// Says which two options can't be used together, and what the strategy's parameters are.
    pub fn check(&self) -> Result<()> {
        if let Device::Cuda(number) = self.device {
            cuda::check(number)?;
        }
        strategy::Settings::new(strategy::by_name(&self.strategy)?, &self.settings)?;
        let clash = |a: &str, b: &str, why: &str| {
            Err(Error::option(format!("{a} and {b} can't be used together: {why}")))
        };
        let rules = [
            ("sv-ratio", self.sv_ratio.is_some()),
            ("sv-cumulative", self.sv_cumulative.is_some()),
            ("sv-fro", self.sv_fro.is_some()),
        ];
        let ranks = [("rank", self.rank.is_some()), ("conv-rank", self.conv_rank.is_some())];
        let goals = [("tolerance", self.tolerance.is_some()), ("max-size", self.max_size.is_some())];
        let limits = || goals.into_iter().chain(ranks).chain(rules);
        let set = |(name, set): &(&'static str, bool)| set.then_some(*name);
        if self.quality.is_some()
            && let Some(name) = limits().find_map(|limit| set(&limit))
        {
            return clash("quality", name, "both say how exact the result is to be");
        }
        if self.max_size.is_some() && self.tolerance.is_some() {
            return clash("max-size", "tolerance", "max-size finds the tolerance");
        }
        if self.max_size.is_some() && self.format == Format::Full {
            return clash("max-size", "format full", "the size of a full difference is fixed");
        }
        if let Some(name) = ranks.iter().find_map(set)
            && self.format == Format::Full
        {
            return clash(name, "format full", "a full difference has no rank");
        }
        let mut chosen = rules.iter().filter_map(set);
        if let Some(rule) = chosen.next() {
            if let Some(other) = chosen.chain(goals.iter().filter_map(set)).next() {
                return clash(rule, other, "each chooses the ranks");
            }
            if self.format != Format::Lora {
                let format = format!("format {}", self.format.name());
                return clash(rule, &format, "it chooses the ranks of a LoRA; add --format lora");
            }
        }
        if self.keep
            && (self.quality.is_some() || self.match_norm != MatchNorm::Off || self.space == Space::Factor)
                | limits().any(|(_, set)| set)
        {
            return clash("format keep", "fit options", "tensors are stored as they are, nothing is fitted");
        }
        if self.factor.is_some() && self.format != Format::Lokr {
            return clash(
                "factor",
                &format!("format {}", self.format.name()),
                "factor is LoKr's; add --format lokr",
            );
        }
        if self.space == Space::Factor
            && (self.quality.is_some()
                || limits().any(|(_, set)| set)
                || self.format != Format::Auto
                || self.match_norm != MatchNorm::Off)
        {
            return clash(
                "space factor",
                "fit options",
                "stored tensors are added as they are, nothing is fitted",
            );
        }
        Ok(())
    }
}

fn wrong(value: &str, takes: &str) -> Error {
    Error::option(format!("'{value}' is not {takes}"))
}

fn one_of<T: Copy>(value: &str, all: &[(&str, T)]) -> Result<T> {
    all.iter().find(|(name, _)| *name == value).map(|(_, x)| *x).ok_or_else(|| {
        let names: Vec<_> = all.iter().map(|(name, _)| *name).collect();
        wrong(value, &format!("one of {}", names.join(", ")))
    })
}

fn switch(value: &str) -> Result<bool> {
    one_of(value, &[("true", true), ("false", false)])
}

fn number(value: &str) -> Result<f64> {
    value.parse().ok().filter(|x: &f64| x.is_finite()).ok_or_else(|| wrong(value, "a number"))
}

fn share(value: &str) -> Result<f64> {
    number(value)
        .ok()
        .filter(|x| *x > 0.0 && *x <= 1.0)
        .ok_or_else(|| wrong(value, "a number above 0, up to 1"))
}

fn positive(value: &str) -> Result<f64> {
    number(value).ok().filter(|x| *x > 0.0).ok_or_else(|| wrong(value, "a positive number"))
}

fn count(value: &str) -> Result<usize> {
    value.parse().ok().filter(|n| *n > 0).ok_or_else(|| wrong(value, "a whole number above 0"))
}

/// Bytes: a number, with a decimal (MB) or binary (MiB) unit.
fn size(value: &str) -> Result<u64> {
    const UNITS: [(&str, f64); 8] = [
        ("", 1.0),
        ("b", 1.0),
        ("kb", 1e3),
        ("mb", 1e6),
        ("gb", 1e9),
        ("kib", 1024.0),
        ("mib", 1024.0 * 1024.0),
        ("gib", 1024.0 * 1024.0 * 1024.0),
    ];
    let digits = value.trim_end_matches(|c: char| c.is_ascii_alphabetic()).trim_end();
    let unit = value[digits.len()..].trim().to_ascii_lowercase();
    let factor = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
    let bytes = factor.and_then(|factor| Some(factor * positive(digits).ok()?)).filter(|bytes| *bytes >= 1.0);
    bytes.map(|bytes| bytes as u64).ok_or_else(|| wrong(value, "a size such as 150MB or 1.5GiB"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_take_decimal_and_binary_units() {
        for (text, bytes) in
            [("1000", 1000), ("150MB", 150_000_000), ("1.5GiB", 1_610_612_736), ("2 kib", 2048)]
        {
            assert_eq!(size(text).unwrap(), bytes, "{text}");
        }
        for text in ["", "MB", "-1MB", "1TBx", "nan", "0"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn every_row_is_set_by_its_name_and_says_what_it_takes() {
        let mut options = Options::default();
        for row in &ALL {
            let error = options.set(row.name, "?").unwrap_err();
            assert!(error.message().starts_with("option") || error.message().contains('?'), "{error}");
        }
        for (row, choice) in ALL.iter().flat_map(|row| row.choices.iter().map(move |choice| (row, choice))) {
            options.set(row.name, choice).unwrap();
        }
        options.set("norm_threshold", "0.5").unwrap();
        assert_eq!(options.settings["norm_threshold"], "0.5");
        assert!(options.set("colour", "red").unwrap_err().message().contains("max-size"));
    }

    #[test]
    fn contradictions_are_refused() {
        let mut options = Options::default();
        options.set("quality", "good").unwrap();
        options.set("rank", "4").unwrap();
        assert!(options.check().is_err());

        let refused = |settings: &[(&str, &str)]| {
            let mut options = Options::default();
            settings.iter().for_each(|(name, value)| options.set(name, value).unwrap());
            options.check().err().map(|error| error.message().to_owned())
        };
        let lora = ("format", "lora");
        for (settings, says) in [
            (vec![("sv-ratio", "8")], "add --format lora"),
            (vec![lora, ("sv-ratio", "8"), ("sv-fro", "0.9")], "sv-ratio and sv-fro"),
            (vec![lora, ("sv-fro", "0.9"), ("tolerance", "0.1")], "sv-fro and tolerance"),
            (vec![lora, ("sv-cumulative", "0.9"), ("max-size", "1MB")], "sv-cumulative and max-size"),
            (vec![("conv-rank", "4"), ("format", "full")], "conv-rank and format full"),
            (vec![("conv-rank", "4"), ("quality", "good")], "quality and conv-rank"),
        ] {
            let message = refused(&settings).unwrap();
            assert!(message.contains(says), "{message}");
        }
        assert_eq!(refused(&[lora, ("sv-ratio", "8"), ("rank", "4"), ("conv-rank", "2")]), None);
    }
}
