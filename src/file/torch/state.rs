//! Which of a pickle's objects is the state dict.
//!
//! Usually the file is one: a dict of tensors by name. Trainers put it beside other things, under a name such as
//! `state_dict`; that one level is searched. Whatever else such a file has (epochs, settings, an optimiser) is left
//! alone.

use std::collections::BTreeMap;

use super::pickle::{Tensor, Tree, Unpickled, Value};
use crate::error::{Error, Result};
use crate::file::{short, tensor};

/// The names of nested state dicts, the better ones first: trained weights before their moving averages.
const NESTED: [&str; 7] =
    ["state_dict", "model_state_dict", "model", "module", "network", "ema", "ema_state_dict"];

/// What stands under a name in a state dict.
#[derive(Clone, Copy, Debug)]
pub(super) enum Leaf<'t, 'p> {
    Tensor(&'t Tensor<'p>),
    /// A number of Python's, which means a tensor without extents.
    Int(i64),
    Float(f64),
}

type Items<'t, 'p> = &'t [(Value<'p>, Value<'p>)];

/// The tensors of the state dict that a pickle holds, by name.
///
/// # Errors
/// It holds none, several of which none is known to be the right one, or two tensors of one name.
pub(super) fn state_dict<'t, 'p>(pickle: &'t Unpickled<'p>) -> Result<BTreeMap<&'p str, Leaf<'t, 'p>>> {
    let Unpickled { tree, root, .. } = pickle;
    let items = tree.dict(*root).ok_or_else(|| {
        Error::format("the file holds something else than a dict of tensors; save a model's state_dict()")
    })?;
    leaves(tree, choose(tree, items)?)
}

/// The items of the state dict: those of the outermost dict, or of one in it.
fn choose<'t, 'p>(tree: &'t Tree<'p>, items: Items<'t, 'p>) -> Result<Items<'t, 'p>> {
    let nested: Vec<(&str, Items<'t, 'p>)> = items
        .iter()
        .filter_map(|(key, value)| match key {
            Value::Text(name) => Some((*name, tree.dict(*value)?)),
            _ => None,
        })
        .filter(|(_, inner)| has_tensors(tree, inner))
        .collect();
    let known = NESTED.iter().find_map(|wanted| nested.iter().find(|(name, _)| name == wanted));
    match (known, &nested[..]) {
        (Some((_, inner)), _) if !has_parameters(tree, items) => Ok(inner),
        (None, []) if has_tensors(tree, items) => Ok(items),
        (None, []) => Err(Error::format("the file holds no tensors")),
        (None, [(_, inner)]) if !has_tensors(tree, items) => Ok(inner),
        _ => {
            let names: Vec<_> =
                nested.iter().take(8).map(|(name, _)| format!("'{}'", short(name, 40))).collect();
            let beside = if has_tensors(tree, items) { ", beside tensors of its own" } else { "" };
            Err(Error::unsupported(format!(
                "the file holds several sets of tensors ({}{beside}); save the one that is meant by itself",
                names.join(", ")
            )))
        }
    }
}

fn has_tensors<'p>(tree: &Tree<'p>, items: Items<'_, 'p>) -> bool {
    items.iter().any(|(key, value)| matches!(key, Value::Text(_)) && tree.tensor(*value).is_some())
}

/// Whether there are tensors whose names are those of a module's parameters, and not only, say, a loss.
fn has_parameters<'p>(tree: &Tree<'p>, items: Items<'_, 'p>) -> bool {
    let parameter = |key: &Value<'_>| matches!(key, Value::Text(name) if name.contains('.'));
    items.iter().any(|(key, value)| parameter(key) && tree.tensor(*value).is_some())
}

fn leaves<'t, 'p>(tree: &'t Tree<'p>, items: Items<'t, 'p>) -> Result<BTreeMap<&'p str, Leaf<'t, 'p>>> {
    let mut leaves = BTreeMap::new();
    for (key, value) in items {
        let Value::Text(name) = *key else { continue };
        let leaf = match (tree.tensor(*value), value) {
            (Some(tensor), _) => Leaf::Tensor(tensor),
            // The name of a parameter, such as `layer.alpha`; an `epoch` is none.
            (None, Value::Int(int)) if name.contains('.') => Leaf::Int(*int),
            (None, Value::Float(float)) if name.contains('.') => Leaf::Float(*float),
            _ => continue,
        };
        if leaves.insert(name, leaf).is_some() {
            return Err(Error::format(format!("{} stands there twice", tensor(name))));
        }
    }
    Ok(leaves)
}
