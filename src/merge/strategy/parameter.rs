//! The hyper-parameters of strategies, as data: what they are called, what they take, and what they are without being set.

use std::collections::BTreeMap;

use super::Row;
use crate::error::{Error, Result};

/// One hyper-parameter of a strategy.
#[derive(Debug)]
pub struct Parameter {
    /// The name, as mergekit or PEFT spells it.
    pub name: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// What it is without being set.
    pub default: &'static str,
    /// One line.
    pub help: &'static str,
}

/// What a parameter takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// A number from the first to the second.
    Number(f64, f64),
    /// A number above the first, up to the second.
    Above(f64, f64),
    /// A whole number from the first to the second.
    Count(u64, u64),
    /// `true` or `false`.
    Flag,
    /// One of these words.
    Word(&'static [&'static str]),
}

impl Kind {
    /// What it takes, in words.
    pub fn takes(self) -> String {
        let end = |end: f64| if end == f64::MAX { String::new() } else { format!(", up to {end}") };
        match self {
            Self::Number(f64::MIN, f64::MAX) => "a number".to_owned(),
            Self::Number(from, f64::MAX) => format!("a number of {from} or more"),
            Self::Number(from, to) => format!("a number from {from} to {to}"),
            Self::Above(from, to) => format!("a number above {from}{}", end(to)),
            Self::Count(from, u64::MAX) => format!("a whole number of {from} or more"),
            Self::Count(from, to) => format!("a whole number from {from} to {to}"),
            Self::Flag => "true or false".to_owned(),
            Self::Word(words) => format!("one of {}", words.join(", ")),
        }
    }

    fn accepts(self, value: &str) -> bool {
        let number = || value.parse().ok().filter(|x: &f64| x.is_finite());
        match self {
            Self::Number(from, to) => number().is_some_and(|x| (from..=to).contains(&x)),
            Self::Above(from, to) => number().is_some_and(|x| x > from && x <= to),
            Self::Count(from, to) => value.parse().is_ok_and(|x| (from..=to).contains(&x)),
            Self::Flag => value == "true" || value == "false",
            Self::Word(words) => words.contains(&value),
        }
    }
}

/// What was set, by the parameters' names; whether a strategy has them, and takes the values, is its row's to say.
pub type Given = BTreeMap<String, String>;

/// The values of a strategy's parameters: given and valid, or their defaults.
pub struct Settings<'a> {
    row: &'a Row,
    given: &'a Given,
}

/// Parameters that had an option of their own before strategies had any; those that don't read them ignore them.
const LENIENT: [&str; 2] = ["normalize", "norm_threshold"];

impl<'a> Settings<'a> {
    /// # Errors
    /// A parameter that the strategy doesn't have, and a value that it doesn't take; the message says what is right.
    pub fn new(row: &'a Row, given: &'a Given) -> Result<Self> {
        for (name, value) in given {
            match row.parameters.iter().find(|parameter| parameter.name == name) {
                Some(parameter) if parameter.kind.accepts(value) => {}
                Some(parameter) => {
                    return Err(Error::option(format!(
                        "{name} of {}: '{value}' is not {}",
                        row.name,
                        parameter.kind.takes()
                    )));
                }
                None if LENIENT.contains(&name.as_str()) => {}
                None => return Err(unknown(row, name)),
            }
        }
        Ok(Self { row, given })
    }

    fn text(&self, name: &str) -> &str {
        let default = || self.row.parameters.iter().find(|parameter| parameter.name == name);
        self.given
            .get(name)
            .map_or_else(|| default().map_or("", |parameter| parameter.default), String::as_str)
    }

    /// A number.
    pub fn number(&self, name: &str) -> f64 {
        self.text(name).parse().unwrap_or(f64::NAN)
    }

    /// A whole number.
    pub fn count(&self, name: &str) -> u64 {
        self.text(name).parse().unwrap_or(0)
    }

    /// A switch.
    pub fn flag(&self, name: &str) -> bool {
        self.text(name) == "true"
    }

    /// A word.
    pub fn word(&self, name: &str) -> &str {
        self.text(name)
    }
}

fn unknown(row: &Row, name: &str) -> Error {
    let known: Vec<_> = row.parameters.iter().map(|parameter| parameter.name).collect();
    let has = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    Error::option(format!("{} has no parameter '{name}'; it has {has}", row.name))
}

#[cfg(test)]
mod tests {
    use super::super::ALL;
    use super::*;

    #[test]
    fn defaults_are_values_that_the_parameters_take() {
        for row in ALL {
            for parameter in row.parameters {
                assert!(parameter.kind.accepts(parameter.default), "{} of {}", parameter.name, row.name);
                assert!(!parameter.name.contains('-'), "{}", parameter.name);
            }
        }
    }

    #[test]
    fn kinds_take_what_they_say() {
        for (kind, good, bad) in [
            (Kind::Number(0.0, 1.0), ["0", "1", "0.5"], ["-0.1", "1.1", "nan"]),
            (Kind::Above(0.0, 1.0), ["1e-9", "1", "0.5"], ["0", "1.1", "x"]),
            (Kind::Count(1, 3), ["1", "2", "3"], ["0", "4", "1.5"]),
            (Kind::Word(&["a", "b", "c"]), ["a", "b", "c"], ["", "d", "A"]),
        ] {
            assert!(good.iter().all(|value| kind.accepts(value)), "{kind:?}");
            assert!(!bad.iter().any(|value| kind.accepts(value)), "{kind:?}");
        }
    }
}
