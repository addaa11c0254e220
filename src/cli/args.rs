//! The command line. The options of a merge come from the library's one table: each row's name, value, default
//! and help, in its order; only what concerns the command itself stands here.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, Command, value_parser};
use clap_complete::Shell;
use lycomerge::merge::{options, strategy};

use super::output::Failure;

/// The name of the subcommand that merges.
pub(crate) const MERGE: &str = "merge";

/// The name of the subcommand that bakes.
pub(crate) const BAKE: &str = "bake";

/// The name of the subcommand that extracts.
pub(crate) const EXTRACT: &str = "extract";

/// The name of the subcommand that opens the page.
pub(crate) const UI: &str = "ui";

/// The name of the subcommand that foretells every format.
pub(crate) const PLAN: &str = "plan";

/// The name of the subcommand that compares.
pub(crate) const COMPARE: &str = "compare";

/// The options of a merge that say how deltas are combined, which is all that baking asks.
const COMBINING: [&str; 8] =
    ["strategy", "normalize", "norm-threshold", "match-norm", "skip-unknown", "threads", "memory", "device"];

/// The name of the subcommand that stores one adapter in another form: a merge of one.
pub(crate) const CONVERT: &str = "convert";

/// The name of the subcommand that prints a shell's completions.
pub(crate) const COMPLETIONS: &str = "completions";

/// The name of the subcommand that writes man pages.
pub(crate) const MAN: &str = "man";

/// What the output is called unless `--output` says otherwise.
const DEFAULT_OUTPUT: &str = "merged_lycoris.safetensors";

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  it failed, or was stopped
  2  the command line is wrong";

const MERGE_EXAMPLES: &str = "\
Examples:
  Two styles at full strength, as if both were loaded:
    lycomerge merge ink.safetensors pastel.safetensors -o both.safetensors
  Three at their own strengths, and one of them taken away:
    lycomerge merge a.safetensors b.safetensors c.safetensors --weights 0.7 0.5 -0.3 -o mix.safetensors
  A smaller file, at an error that is hard to see:
    lycomerge merge a.safetensors b.safetensors --quality good -o small.safetensors
  As exact as 150 MB allow:
    lycomerge merge a.safetensors b.safetensors --max-size 150MB -o mix.safetensors
  One plain LoRA of rank 32, whatever the inputs are:
    lycomerge merge lokr.safetensors loha.safetensors --format lora --rank 32 -o mix.safetensors";

const BAKE_EXAMPLES: &str = "\
Examples:
  A style at its full strength, and one at half of it:
    lycomerge bake model.safetensors ink.safetensors pastel.safetensors:0.5 -o inked.safetensors
  Into 8-bit weights, where nearest rounding would eat most of it:
    lycomerge bake model_fp8.safetensors ink.safetensors --stochastic --seed 1 -o inked_fp8.safetensors
  A sharded model, by its index or its folder, becomes one file:
    lycomerge bake transformer/ style.safetensors -o styled.safetensors";

const CONVERT_EXAMPLES: &str = "\
Examples:
  A LoKr or LoHa as a LoRA, for programs that read nothing else; written to style.lora.safetensors:
    lycomerge convert style.safetensors
  A LoRA of rank 128 at rank 32, its convolutions at rank 8:
    lycomerge convert big.safetensors --rank 32 --conv-rank 8 -o small.safetensors
  As few singular values of each layer as hold 95 % of its norm, at most 64:
    lycomerge convert big.safetensors --sv-fro 0.95 --rank 64 -o small.safetensors
  Under the names that diffusers has for it, the numbers as they are; written to style.diffusers.safetensors:
    lycomerge convert style.safetensors --naming diffusers
  The best that 40 MB can hold, in any form:
    lycomerge convert big.safetensors --format auto --max-size 40MB -o small.safetensors";

const BLOCK_WEIGHTS: &str = "\
Block weights (TEXT of --block-weights) are terms, separated by spaces or commas:
  IN04=0.5               a block; 'lycomerge inspect' lists those of a file
  IN04-IN08=0.5          blocks in a row; double_blocks.0-9=0 and D00-D09=0 are the same
  OUT00-OUT11=0..1       from 0 at the first to 1 at the last
  OUT=0                  all blocks of this kind
  *attn*=0.3             every layer whose name in the file fits; * is any text, ? one character
  te=0.5 unet=0.8        the text encoders (te1, te2, t5) and the rest
  0,1,1,0.5,…            12, 17, 20, 26 or 61 values, as the WebUI's block-weight extension has them
  NAME                   a line NAME:TEXT of the file of --block-presets
Of several that fit a layer the last counts; te, te1, te2, t5 and unet are multiplied with it. The model's weight is
multiplied with the result.
  The outer half of the second model only, and less of its text encoder:
    lycomerge merge a.safetensors b.safetensors --block-weights '2:*=0 OUT06-OUT11=1 te=0.5' -o mix.safetensors
  A preset for every model, and another for the first:
    lycomerge merge a.safetensors b.safetensors --block-presets lbw.txt --block-weights INS --block-weights 1:OUTS";

const EXTRACT_EXAMPLES: &str = "\
Examples:
  What a training changed, as a LoRA of rank 64:
    lycomerge extract sdxl.safetensors finetuned.safetensors -o training.safetensors
  At the rank that each layer needs for 95 % of its norm, at most 128:
    lycomerge extract sdxl.safetensors finetuned.safetensors --sv-fro 0.95 --rank 128 -o training.safetensors
  The best that 300 MB can hold, and the difference itself:
    lycomerge extract sdxl.safetensors finetuned.safetensors --max-size 300MB -o small.safetensors
    lycomerge extract sdxl.safetensors finetuned.safetensors --format full -o whole.safetensors";

const PLAN_EXAMPLES: &str = "\
Examples:
  What two styles come to in every format, before anything is merged:
    lycomerge plan ink.safetensors pastel.safetensors
  At the weights and by the strategy of the merge to come, with a picture:
    lycomerge plan a.safetensors b.safetensors --weights 0.7 0.5 --strategy ties --png plan.png
  A page to send to somebody:
    lycomerge plan a.safetensors b.safetensors --html plan.html
Each row says the options of 'lycomerge merge' that give it.";

const COMPARE_EXAMPLES: &str = "\
Examples:
  Whether three styles get on with each other:
    lycomerge compare ink.safetensors pastel.safetensors chalk.safetensors
  At the weights of the merge to come, with a heat map:
    lycomerge compare a.safetensors b.safetensors --weights 0.7 -0.5 --png compared.png
  For programs, with every block and layer:
    lycomerge compare --json a.safetensors b.safetensors
What the figures mean:
  cosine     1: the same direction, 0: independent, -1: opposite
  overlap    how much of their input and output spaces they share, from 0 to 1, and how much that is by chance
  conflicts  the share of all change where their signs differ; half of it for independent adapters
  kept       the norm of the sum by that of independent adapters: below 1 they cancel, above they reinforce";

const INSPECT_EXAMPLES: &str = "\
Examples:
  What a file is, where in the model it acts, and how strongly:
    lycomerge inspect style.safetensors
  The kinds of all files here, one line each:
    lycomerge inspect --type *.safetensors
  For programs:
    lycomerge inspect --json style.safetensors";

const UI_EXAMPLES: &str = "\
Examples:
  The adapters here, in a browser on this machine:
    lycomerge ui
  Those of another folder, on another port, without opening a browser:
    lycomerge ui --folder ~/loras --port 8080 --no-browser

It needs the Python package: pip install 'lycomerge[ui]'. Its options are those of 'python -m lycomerge.ui --help'.";

/// The whole command line.
pub(crate) fn command() -> Command {
    Command::new("lycomerge")
        .max_term_width(110)
        .version(env!("CARGO_PKG_VERSION"))
        .about("Merges LoKr, LoHa, LoRA and other adapters of image models by what they do to the weights")
        .after_help(format!("Begin with 'lycomerge merge --help'.\n\n{EXIT_CODES}"))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(true)
        .subcommand(merge())
        .subcommand(convert())
        .subcommand(bake())
        .subcommand(extract())
        .subcommand(plan())
        .subcommand(compare())
        .subcommand(inspect())
        .subcommand(ui())
        .subcommand(completions())
        .subcommand(man())
}

/// A row of the table as an argument.
fn option(row: &options::Row) -> Arg {
    let arg = Arg::new(row.name).long(row.name);
    match row.value {
        None => arg.action(ArgAction::SetTrue).help(row.help),
        Some(value) => {
            let help = format!("{} [default: {}]", row.help, row.default);
            let arg = arg.value_name(value).help(help).allow_negative_numbers(true);
            match row.name {
                // It was a switch once, and is still one without a value.
                "match-norm" => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
                _ => arg,
            }
        }
    }
}

/// The strategies, a line each.
fn strategies() -> String {
    let line = |row: &&strategy::Row| {
        let set = |parameter: &strategy::Parameter| format!("{}={}", parameter.name, parameter.default);
        let parameters: Vec<_> = row.parameters.iter().map(set).collect();
        let parameters = match parameters.is_empty() {
            true => String::new(),
            false => format!(" [{}]", parameters.join(", ")),
        };
        format!("  {:21}{}{parameters}\n", row.name, row.help)
    };
    strategy::ALL.iter().map(line).collect()
}

/// The rows about what to store, for commands that don't merge several adapters, and make a LoRA unless told otherwise.
fn storing() -> impl Iterator<Item = Arg> {
    /// What is about several adapters.
    const MERGING: [&str; 4] = ["strategy", "normalize", "norm-threshold", "space"];
    let rows = options::ALL.iter().filter(|row| !MERGING.contains(&row.name));
    rows.map(|row| match row.name {
        "format" => option(row)
            .help(format!("{} [default: lora; keep where --naming is all that is given]", row.help))
            .hide_default_value(true)
            .default_value("lora"),
        _ => option(row),
    })
}

/// Where the report goes.
fn report(with: &str) -> Arg {
    Arg::new("metadata")
        .long("metadata")
        .value_name("FILE")
        .value_parser(value_parser!(PathBuf))
        .help(format!("Write the report, with {with}, as JSON"))
}

/// What every command that writes an adapter takes.
fn saying() -> [Arg; 4] {
    [
        report("the error of every layer"),
        switch("verify", "Print what was stored, tensor by tensor, and the error of every layer"),
        switch("quiet", "No progress, no forecast and no summary; warnings and errors stay").short('q'),
        switch("yes", "Don't ask before a huge output is written").short('y'),
    ]
}

fn block_weights(value: &'static str, whose: &str) -> [Arg; 2] {
    [
        Arg::new("block-weights")
            .long("block-weights")
            .value_name(value)
            .action(ArgAction::Append)
            .allow_hyphen_values(true)
            .help(format!("The strength by block {whose}, such as 'IN04-IN08=0.5 te=0'; see below")),
        Arg::new("block-presets")
            .long("block-presets")
            .value_name("FILE")
            .value_parser(value_parser!(PathBuf))
            .help("Names for block weights: lines NAME:TEXT"),
    ]
}

fn set() -> Arg {
    Arg::new("set")
        .long("set")
        .value_name("NAME=VALUE")
        .action(ArgAction::Append)
        .help("A parameter of the strategy, such as density=0.3; may be given again")
}

fn output() -> Arg {
    Arg::new("output").short('o').long("output").value_name("FILE").value_parser(value_parser!(PathBuf))
}

fn merge() -> Command {
    let strategies = strategies();
    Command::new(MERGE)
        .about("Merge adapters of any families into one file, and say how exact it is")
        .arg_required_else_help(true)
        .after_help(format!("Strategies:\n{strategies}\n{BLOCK_WEIGHTS}\n\n{MERGE_EXAMPLES}\n\n{EXIT_CODES}"))
        .args([
            files("models", "MODELS", "The adapters to merge: safetensors or PyTorch files, told apart by their content, or PEFT's folders"),
            model_weights(),
            base(),
        ])
        .args(block_weights("[N:]TEXT", "of model N, counted from 1, or of every model without an own one"))
        .args([
            output()
                .default_value(DEFAULT_OUTPUT)
                .help(
                    "The merged adapter; it appears when it is whole, and may be one of the models. A name that ends \
                     in .pt, .pth, .ckpt or .bin makes a PyTorch file, which has no metadata: what was merged, and \
                     how, is then told by --metadata alone",
                ),
        ])
        .next_help_heading("How to merge, and what to store")
        .args(options::ALL.iter().map(option))
        .arg(set())
        .next_help_heading("What to say and ask")
        .args(saying())
}

fn model_weights() -> Arg {
    Arg::new("weights")
        .short('w')
        .long("weights")
        .value_name("W")
        .num_args(1..)
        .action(ArgAction::Append)
        .allow_negative_numbers(true)
        .value_parser(weights)
        .help("The strength of each model, of any sign and in their order [default: 1 each]")
}

/// The rows that combine deltas, and others of these names.
fn combining(more: &[&str]) -> impl Iterator<Item = Arg> {
    options::ALL
        .iter()
        .filter(move |row| COMBINING.contains(&row.name) || more.contains(&row.name))
        .map(option)
}

/// Where figures go besides the terminal.
fn showing() -> Vec<Arg> {
    let file = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name("FILE").value_parser(value_parser!(PathBuf)).help(help)
    };
    vec![
        switch("json", "Print JSON in place of the tables"),
        file("svg", "Draw a picture of lines and text"),
        file("png", "Draw a picture of dots"),
        file(
            "html",
            "Write a report: one page with the tables and the picture, light or dark as its reader's system is",
        ),
        switch("dark", "Draw the picture on a dark ground"),
        switch("quiet", "No progress and no tables; warnings and errors stay").short('q'),
    ]
}

fn plan() -> Command {
    Command::new(PLAN)
        .about("Say how large and how exact a merge is in every format and rank, before it is made")
        .arg_required_else_help(true)
        .after_help(format!(
            "Strategies:\n{}\n{BLOCK_WEIGHTS}\n\n{PLAN_EXAMPLES}\n\n{EXIT_CODES}",
            strategies()
        ))
        .args([
            files(
                "models",
                "MODELS",
                "The adapters to merge: safetensors or PyTorch files, or PEFT's folders",
            ),
            model_weights(),
            base(),
        ])
        .args(block_weights("[N:]TEXT", "of model N, counted from 1, or of every model without an own one"))
        .next_help_heading("How to merge")
        .args(combining(&["dtype", "factor"]))
        .arg(set())
        .next_help_heading("What to show")
        .args(showing())
}

fn compare() -> Command {
    let table = options::ALL.iter().filter(|row| ["skip-unknown", "threads", "memory"].contains(&row.name));
    Command::new(COMPARE)
        .about("Say how adapters get on with each other: how aligned they are, and where they conflict")
        .arg_required_else_help(true)
        .after_help(format!("{BLOCK_WEIGHTS}\n\n{COMPARE_EXAMPLES}\n\n{EXIT_CODES}"))
        .args([
            files(
                "models",
                "MODELS",
                "The adapters, two or more: safetensors or PyTorch files, or PEFT's folders",
            ),
            model_weights(),
            base(),
        ])
        .args(block_weights("[N:]TEXT", "of model N, counted from 1, or of every model without an own one"))
        .args(table.map(option))
        .next_help_heading("What to show")
        .args(showing())
}

fn convert() -> Command {
    Command::new(CONVERT)
        .about("Store an adapter in another form or at another rank, and say how exact it is")
        .arg_required_else_help(true)
        .after_help(format!("{BLOCK_WEIGHTS}\n\n{CONVERT_EXAMPLES}\n\n{EXIT_CODES}"))
        .args([
            files("models", "FILE", "The adapter: a safetensors or PyTorch file, or PEFT's folder").num_args(1),
            base(),
        ])
        .args(block_weights("TEXT", "of the adapter"))
        .args([
            output().help(
                "The converted adapter; it appears when it is whole, and may be FILE [default: beside FILE, named \
                 NAME.FORMAT.safetensors]",
            ),
        ])
        .next_help_heading("What to store")
        .args(storing())
        .next_help_heading("What to say and ask")
        .args(saying())
}

fn bake() -> Command {
    let table = combining(&[]).map(|arg| match arg.get_id().as_str() {
        "memory" => arg.help("What layers in work may take together, such as 2GiB [default: 256MiB]"),
        _ => arg,
    });
    let strategies = strategies();
    Command::new(BAKE)
        .about("Add adapters to a checkpoint's weights, and say what its dtype left of them")
        .arg_required_else_help(true)
        .after_help(format!("Strategies:\n{strategies}\n{BLOCK_WEIGHTS}\n\n{BAKE_EXAMPLES}\n\n{EXIT_CODES}"))
        .args([
            Arg::new("base").value_name("BASE").required(true).value_parser(value_parser!(PathBuf)).help(
                "The checkpoint: a safetensors or PyTorch file, the index of several (*.index.json), or a folder with \
                 one of these",
            ),
            files("adapters", "ADAPTER[:WEIGHT]", "The adapters, each with its strength behind a colon, 1 if left out"),
        ])
        .args(block_weights("[N:]TEXT", "of adapter N, counted from 1, or of every adapter without an own one"))
        .args([
            Arg::new("output")
                .short('o')
                .long("output")
                .value_name("FILE")
                .required(true)
                .value_parser(value_parser!(PathBuf))
                .help("The whole model, one safetensors file; it appears when it is whole, and may be the checkpoint"),
        ])
        .next_help_heading("How to merge")
        .args(table)
        .arg(set())
        .next_help_heading("How to round")
        .args([
            switch(
                "stochastic",
                "Round 8-bit and 16-bit weights up or down at random, so that small changes are kept on average, in \
                 exchange for noise; nearest rounding loses those below half a step",
            ),
            Arg::new("seed")
                .long("seed")
                .value_name("N")
                .requires("stochastic")
                .value_parser(value_parser!(u64))
                .help("What the random numbers begin with; the same seed makes the same bytes [default: 0]"),
        ])
        .next_help_heading("What to say")
        .args([
            report("what became of every tensor's ΔW"),
            switch("quiet", "No progress and no summary; warnings and errors stay").short('q'),
        ])
}

fn extract() -> Command {
    let model =
        "a safetensors or PyTorch file, the index of several (*.index.json), or a folder with one of these";
    let checkpoint = |id: &'static str, value: &'static str, help: String| {
        Arg::new(id).value_name(value).required(true).value_parser(value_parser!(PathBuf)).help(help)
    };
    let table = storing().map(|arg| match arg.get_id().as_str() {
        "format" => arg.help(
            "What to store: lora, loha, lokr, full, or auto (per layer the smallest form within the tolerance) [default: lora]",
        ),
        "naming" => arg.help(
            "How to name the layers: kohya, diffusers, peft or comfy [default: kohya, which every host reads]",
        ),
        "quality" => arg.help("exact (1 % error) or good (20 %, no visible difference was measured)"),
        "rank" => arg.help(
            "The largest rank of lora and loha, and of w2 in lokr [default: 64, and 16 for loha, if nothing else is said \
             about error or size]",
        ),
        "factor" => arg.help("The factor of lokr, which needs it; 1 stores w1 = [[1]], which holds anything"),
        "skip-unknown" => {
            arg.help("Leave out layers whose shapes differ, instead of refusing the checkpoints")
        }
        "memory" => arg.help("What layers in work may take together, such as 2GiB [default: 1GiB]"),
        _ => arg,
    });
    Command::new(EXTRACT)
        .about("Store what training changed in a checkpoint as an adapter, and say how exact it is")
        .arg_required_else_help(true)
        .after_help(format!("{EXTRACT_EXAMPLES}\n\n{EXIT_CODES}"))
        .args([
            checkpoint("base", "BASE", format!("The checkpoint before training: {model}")),
            checkpoint("tuned", "TUNED", "The checkpoint after it, in any dtype and naming".to_owned()),
            output().required(true).help("The adapter; it appears when it is whole"),
        ])
        .next_help_heading("What to store")
        .args(table)
        .next_help_heading("What to say")
        .args([
            report("the error of every layer"),
            switch("quiet", "No progress and no summary; warnings and errors stay").short('q'),
        ])
}

fn inspect() -> Command {
    Command::new("inspect")
        .about("Show what adapters are: family, ranks, alphas, base model, and where in the model they act")
        .arg_required_else_help(true)
        .after_help(format!("{INSPECT_EXAMPLES}\n\n{EXIT_CODES}"))
        .args([
            files(
                "files",
                "FILES",
                "The adapters to look at: safetensors or PyTorch files, or PEFT's folders",
            ),
            switch("json", "Print JSON: an array with one object for each file").conflicts_with("type"),
            switch("type", "Print only the kind of each file: LoRA, LoHa, LoKr, Full, Norm or Mixed"),
            switch("skip-unknown", "Leave out layers that can't be understood, instead of refusing the file"),
            base(),
        ])
}

/// The page is the Python package's, which reads its own options.
fn ui() -> Command {
    Command::new(UI)
        .about("Open the page on which adapters are chosen, weighed, compared and merged in a browser")
        .after_help(format!("{UI_EXAMPLES}\n\n{EXIT_CODES}"))
        .arg(
            Arg::new("options")
                .value_name("OPTIONS")
                .num_args(0..)
                .trailing_var_arg(true)
                .allow_hyphen_values(true)
                .value_parser(value_parser!(OsString))
                .help("The page's options, such as --folder FOLDER, --port PORT and --no-browser"),
        )
}

fn completions() -> Command {
    Command::new(COMPLETIONS)
        .about("Print what a shell needs to complete this command's options")
        .arg_required_else_help(true)
        .after_help(
            "Examples:\n  lycomerge completions bash > ~/.local/share/bash-completion/completions/lycomerge\n  \
             lycomerge completions zsh > ~/.zfunc/_lycomerge\n  \
             lycomerge completions fish > ~/.config/fish/completions/lycomerge.fish",
        )
        .arg(
            Arg::new("shell")
                .value_name("SHELL")
                .required(true)
                .value_parser(value_parser!(Shell))
                .help("The shell"),
        )
}

fn man() -> Command {
    Command::new(MAN)
        .about("Write the man pages of this command and its subcommands")
        .arg_required_else_help(true)
        .arg(
            Arg::new("folder")
                .value_name("FOLDER")
                .required(true)
                .value_parser(value_parser!(PathBuf))
                .help("Where they go, such as ~/.local/share/man/man1; it is made if it isn't there"),
        )
}

fn base() -> Arg {
    Arg::new("base").long("base").value_name("CHECKPOINT").value_parser(value_parser!(PathBuf)).help(
        "The model that the adapters change: a checkpoint's file, its index of several files, or their folder. Needed \
         for DoRA, OFT, BOFT, GLoRA, (IA)³ and T-LoRA, whose effect depends on its weights; every layer must be in it, \
         in its shape",
    )
}

fn files(id: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(id)
        .value_name(value)
        .required(true)
        .num_args(1..)
        .value_parser(value_parser!(PathBuf))
        .help(help)
}

fn switch(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
}

/// One argument's weights: however they are separated, by commas or by spaces in quotes.
fn weights(text: &str) -> Result<Vec<f64>, String> {
    let weight = |text: &str| match text.parse::<f64>() {
        Ok(weight) if weight.is_finite() => Ok(weight),
        Ok(_) => Err("a weight is a finite number".to_owned()),
        Err(_) => Err("a weight is a number; models stand before --weights".to_owned()),
    };
    text.split([',', ' ']).filter(|part| !part.is_empty()).map(weight).collect()
}

/// `-.5` and `-5e-1` in the one spelling that is known for a negative number, and not for switches: `-0.5`.
pub(crate) fn plain_number(argument: OsString) -> OsString {
    let number = |text: &str| text.strip_prefix('-')?.parse::<f64>().ok().filter(|x| x.is_finite());
    match argument.to_str().and_then(number) {
        Some(number) => format!("-{number}").into(),
        None => argument,
    }
}

/// `--match-norm inputs` as one argument: without a value it is a switch, behind which models may stand.
pub(crate) fn join_match_norm(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut joined: Vec<OsString> = Vec::new();
    for argument in arguments {
        let is_value = ["true", "false", "inputs"].iter().any(|value| argument == *value);
        match joined.last_mut().filter(|last| is_value && *last == "--match-norm") {
            Some(last) => {
                last.push("=");
                last.push(argument);
            }
            None => joined.push(argument),
        }
    }
    joined
}

/// What is wrong with the command line, in the words of the parser; nothing but the help, if it is empty.
pub(crate) fn failure(error: &clap::Error) -> Failure {
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = error.print();
        return Failure::Helped;
    }
    let text = error.render().to_string();
    Failure::usage(text.strip_prefix("error: ").unwrap_or(&text).trim_end())
}
