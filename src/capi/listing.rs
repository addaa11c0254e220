//! The tables of families, strategies and options, for hosts that build a form from them.

use std::ffi::{CString, c_char};
use std::ptr;
use std::sync::LazyLock;

use super::guard::infallible;
use super::text;
use crate::adapter::Family;
use crate::merge::{options, strategy};

/// A strategy's row, as C reads it.
struct Strategy {
    name: CString,
    title: CString,
    help: CString,
    paper: CString,
    parameters: Vec<Parameter>,
}

/// A strategy's parameter, as C reads it.
struct Parameter {
    name: CString,
    takes: CString,
    default: CString,
    help: CString,
}

/// A family of adapters, as C reads it.
struct Kind {
    name: CString,
    help: CString,
}

/// An option's row, as C reads it.
struct Choice {
    name: CString,
    value: Option<CString>,
    default: CString,
    help: CString,
    choices: Vec<CString>,
}

static STRATEGIES: LazyLock<Vec<Strategy>> = LazyLock::new(|| {
    let parameter = |parameter: &strategy::Parameter| Parameter {
        name: text::own(parameter.name),
        takes: text::own(&parameter.kind.takes()),
        default: text::own(parameter.default),
        help: text::own(parameter.help),
    };
    let own = |row: &&strategy::Row| Strategy {
        name: text::own(row.name),
        title: text::own(row.title),
        help: text::own(row.help),
        paper: text::own(row.paper),
        parameters: row.parameters.iter().map(parameter).collect(),
    };
    strategy::ALL.iter().map(own).collect()
});

static FAMILIES: LazyLock<Vec<Kind>> = LazyLock::new(|| {
    let own = |family: Family| Kind { name: text::own(family.name()), help: text::own(family.help()) };
    Family::ALL.map(own).into()
});

static OPTIONS: LazyLock<Vec<Choice>> = LazyLock::new(|| {
    let own = |row: &options::Row| Choice {
        name: text::own(row.name),
        value: row.value.map(text::own),
        default: text::own(row.default),
        help: text::own(row.help),
        choices: row.choices.iter().map(|choice| text::own(choice)).collect(),
    };
    options::ALL.iter().map(own).collect()
});

fn of_strategy(index: usize, part: fn(&Strategy) -> &CString) -> *const c_char {
    infallible(ptr::null(), || text::lend(STRATEGIES.get(index).map(|row| part(row).as_c_str())))
}

fn of_parameter(strategy: usize, index: usize, part: fn(&Parameter) -> &CString) -> *const c_char {
    infallible(ptr::null(), || {
        let row = STRATEGIES.get(strategy).and_then(|row| row.parameters.get(index));
        text::lend(row.map(|row| part(row).as_c_str()))
    })
}

fn of_family(index: usize, part: fn(&Kind) -> &CString) -> *const c_char {
    infallible(ptr::null(), || text::lend(FAMILIES.get(index).map(|row| part(row).as_c_str())))
}

fn of_option(index: usize, part: fn(&Choice) -> Option<&CString>) -> *const c_char {
    infallible(ptr::null(), || text::lend(OPTIONS.get(index).and_then(part).map(CString::as_c_str)))
}

/// Strategies, families and options
/// ================================
///
/// How many strategies there are; they are counted from 0. What lyco_strategy_ and lyco_option_ return is valid as
/// long as the program runs, and NULL where the index is out of range.
#[unsafe(no_mangle)]
pub extern "C" fn lyco_strategy_count() -> usize {
    infallible(0, || STRATEGIES.len())
}

/// What the option "strategy" takes, such as "smart_fusion".
#[unsafe(no_mangle)]
pub extern "C" fn lyco_strategy_name(index: usize) -> *const c_char {
    of_strategy(index, |row| &row.name)
}

/// The name for people, such as "Smart fusion".
#[unsafe(no_mangle)]
pub extern "C" fn lyco_strategy_title(index: usize) -> *const c_char {
    of_strategy(index, |row| &row.title)
}

/// What it does, in one line.
#[unsafe(no_mangle)]
pub extern "C" fn lyco_strategy_help(index: usize) -> *const c_char {
    of_strategy(index, |row| &row.help)
}

/// Where it comes from: a paper's number on arXiv, such as "arXiv 2212.04089", or whose it is.
#[unsafe(no_mangle)]
pub extern "C" fn lyco_strategy_paper(index: usize) -> *const c_char {
    of_strategy(index, |row| &row.paper)
}

/// How many parameters a strategy has; they are counted from 0.
#[unsafe(no_mangle)]
pub extern "C" fn lyco_strategy_parameter_count(strategy: usize) -> usize {
    infallible(0, || STRATEGIES.get(strategy).map_or(0, |row| row.parameters.len()))
}

/// What lyco_merge_set() takes as the key, such as "lambda".
#[unsafe(no_mangle)]
pub extern "C" fn lyco_strategy_parameter_name(strategy: usize, index: usize) -> *const c_char {
    of_parameter(strategy, index, |row| &row.name)
}

/// What it takes, in words for people, such as "a number from 0 to 1".
#[unsafe(no_mangle)]
pub extern "C" fn lyco_strategy_parameter_takes(strategy: usize, index: usize) -> *const c_char {
    of_parameter(strategy, index, |row| &row.takes)
}

/// The value that holds while it is not set.
#[unsafe(no_mangle)]
pub extern "C" fn lyco_strategy_parameter_default(strategy: usize, index: usize) -> *const c_char {
    of_parameter(strategy, index, |row| &row.default)
}

/// What it is, in one line.
#[unsafe(no_mangle)]
pub extern "C" fn lyco_strategy_parameter_help(strategy: usize, index: usize) -> *const c_char {
    of_parameter(strategy, index, |row| &row.help)
}

/// How many families of adapters are merged; they are counted from 0. What lyco_family_ returns is valid as long as the
/// program runs, and NULL where the index is out of range.
#[unsafe(no_mangle)]
pub extern "C" fn lyco_family_count() -> usize {
    infallible(0, || FAMILIES.len())
}

/// What lyco_layer_info has as the family, such as "LoKr".
#[unsafe(no_mangle)]
pub extern "C" fn lyco_family_name(index: usize) -> *const c_char {
    of_family(index, |row| &row.name)
}

/// What it stores, in one line.
#[unsafe(no_mangle)]
pub extern "C" fn lyco_family_help(index: usize) -> *const c_char {
    of_family(index, |row| &row.help)
}

/// How many options a merge has; they are counted from 0.
#[unsafe(no_mangle)]
pub extern "C" fn lyco_option_count() -> usize {
    infallible(0, || OPTIONS.len())
}

/// What lyco_merge_set() takes as the key, such as "max-size".
#[unsafe(no_mangle)]
pub extern "C" fn lyco_option_name(index: usize) -> *const c_char {
    of_option(index, |row| Some(&row.name))
}

/// A word for the value, such as "SIZE"; NULL for a switch, which takes "true" or "false".
#[unsafe(no_mangle)]
pub extern "C" fn lyco_option_value(index: usize) -> *const c_char {
    of_option(index, |row| row.value.as_ref())
}

/// What holds while it is not set, in words for people.
#[unsafe(no_mangle)]
pub extern "C" fn lyco_option_default(index: usize) -> *const c_char {
    of_option(index, |row| Some(&row.default))
}

/// What it does, in one line.
#[unsafe(no_mangle)]
pub extern "C" fn lyco_option_help(index: usize) -> *const c_char {
    of_option(index, |row| Some(&row.help))
}

/// How many words an option chooses from, which are counted from 0; 0 where it takes numbers or names.
#[unsafe(no_mangle)]
pub extern "C" fn lyco_option_choice_count(option: usize) -> usize {
    infallible(0, || OPTIONS.get(option).map_or(0, |row| row.choices.len()))
}

/// A word that the option takes, such as "auto" for "format".
#[unsafe(no_mangle)]
pub extern "C" fn lyco_option_choice(option: usize, index: usize) -> *const c_char {
    infallible(ptr::null(), || {
        let row = OPTIONS.get(option).and_then(|row| row.choices.get(index));
        text::lend(row.map(CString::as_c_str))
    })
}
