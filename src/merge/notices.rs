//! What strategies want the user to know of layers: each sentence once, with the layers that it is true of.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

/// Sentences and the layers that they are about, from all threads. The order of work doesn't show.
#[derive(Default)]
pub(super) struct Notices(Mutex<BTreeMap<&'static str, BTreeSet<String>>>);

impl Notices {
    pub(super) fn add(&self, text: &'static str, layer: &str) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(text).or_default().insert(layer.to_owned());
    }

    /// One line for every sentence.
    pub(super) fn warnings(&self) -> Vec<String> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let line = |(text, layers): (&&str, &BTreeSet<String>)| {
            let first = layers.first().map_or("", String::as_str);
            match layers.len() {
                1 => format!("{first}: {text}"),
                n => format!("{n} layers ({first}, …): {text}"),
            }
        };
        all.iter().map(line).collect()
    }
}
