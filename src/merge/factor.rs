//! Merge space `factor`: the arithmetic of the older scripts, on stored tensors key by key. It is not a merge of
//! effects (averaging factors of the same ΔW written differently gives something else); it is here to make their
//! files again and to measure how wrong they are.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};

use faer::Mat;

use super::plan::{Part, Source, Target};
use super::strategy::{Facts, Weigh};
use super::{Input, engine};
use crate::adapter::NewTensor;
use crate::error::{Error, Result};
use crate::tensor::{Dtype, encode};

/// ‖tensor‖ / Σ_keys ‖tensor‖ of every key and input.
pub(super) type KeyShares = BTreeMap<(String, &'static str), Vec<f64>>;

/// One stored tensor over the inputs that have it.
struct Key {
    suffix: &'static str,
    shape: Vec<usize>,
    /// Input and numbers.
    sources: Vec<(usize, Vec<f64>)>,
}

fn keys(target: &Target<'_>, inputs: &[Input]) -> Result<Vec<Key>> {
    let of_source = |source: &Source<'_>| match &source.parts[..] {
        [Part { layer, windows: None, .. }] => {
            Ok((source.input, inputs[source.input].adapter.members(layer)))
        }
        _ => {
            let message = "has in parts here what is whole in another input, or the other way; factor space can't add \
                           them (delta space can)";
            Err(Error::mismatch(message).in_file(inputs[source.input].adapter.path()))
        }
    };
    let members: Vec<_> = target.sources.iter().map(of_source).collect::<Result<_>>()?;
    let suffixes: BTreeSet<_> =
        members.iter().flat_map(|(_, members)| members.iter().map(|(suffix, _)| suffix)).collect();
    let mut keys = Vec::new();
    for suffix in suffixes {
        let mut key = Key { suffix, shape: Vec::new(), sources: Vec::new() };
        for (index, members) in &members {
            let Some(view) = members.get(suffix) else { continue };
            if key.sources.is_empty() {
                key.shape = view.shape.to_vec();
            } else if key.shape != view.shape {
                let message = format!(
                    "'{suffix}' has the shape {:?} here and {:?} in an earlier input; factor space can't add them \
                     (delta space can)",
                    view.shape, key.shape
                );
                return Err(Error::mismatch(message).in_file(inputs[*index].adapter.path()));
            }
            key.sources.push((*index, view.to_reals()));
        }
        keys.push(key);
    }
    Ok(keys)
}

/// Gathers the norm shares of all keys.
pub(super) fn key_shares(
    run: &engine::Run<'_>,
    inputs: &[Input],
    sites: &[super::plan::Site<'_>],
) -> Result<KeyShares> {
    let norms = run.map(sites, |site| {
        let mut found = Vec::new();
        for target in &site.targets {
            for key in keys(target, inputs)? {
                let mut norms = vec![0.0; inputs.len()];
                for (index, numbers) in &key.sources {
                    norms[*index] =
                        numbers.iter().filter(|x| x.is_finite()).map(|x| x * x).sum::<f64>().sqrt();
                }
                found.push(((target.id.module.clone(), key.suffix), norms));
            }
        }
        Ok(found)
    })?;
    let mut shares: KeyShares = norms.into_iter().flatten().collect();
    for input in 0..inputs.len() {
        let total: f64 = shares.values().map(|norms| norms[input]).sum();
        if total > 0.0 {
            shares.values_mut().for_each(|norms| norms[input] /= total);
        }
    }
    Ok(shares)
}

/// The tensors of a target, each merged on its own.
pub(super) fn merge(
    target: &Target<'_>,
    inputs: &[Input],
    strategy: &dyn Weigh,
    shares: &KeyShares,
    dtype: Dtype,
) -> Result<Vec<NewTensor>> {
    let weights: Vec<f64> = inputs.iter().map(|input| input.weight).collect();
    let merge_key = |key: Key| {
        let present: Vec<usize> = key.sources.iter().map(|(index, _)| *index).collect();
        let numbers = |k: usize| &key.sources[k].1;
        let gram = || {
            let inner = |i, j| numbers(i).iter().zip(numbers(j)).map(|(x, y)| x * y).sum();
            Mat::from_fn(present.len(), present.len(), inner)
        };
        let facts = Facts {
            weights: &weights,
            present: &present,
            entries: numbers(0).len().max(1),
            shares: shares.get(&(target.id.module.clone(), key.suffix)).map_or(&[], Vec::as_slice),
            make_gram: &gram,
            gram: OnceCell::new(),
        };
        let coefficients = strategy.factor_coefficients(&facts);
        let mut sum = vec![0.0; numbers(0).len()];
        for (index, values) in &key.sources {
            sum.iter_mut().zip(values).for_each(|(to, from)| *to += coefficients[*index] * from);
        }
        if let Some(threshold) = strategy.peak() {
            stretch(&mut sum, threshold);
        }
        // Only a LoKr's alpha may be infinite, where no reader looks at it.
        sum.iter_mut().filter(|x| key.suffix == ".alpha" && !x.is_finite()).for_each(|x| *x = 1.0);
        let mut data = Vec::new();
        encode(&sum, dtype, &mut data)?;
        Ok(NewTensor { suffix: key.suffix, shape: key.shape, dtype, data })
    };
    keys(target, inputs)?.into_iter().map(merge_key).collect()
}

/// The affine map of the range onto [−threshold, threshold], unless the tensor is constant.
fn stretch(numbers: &mut [f64], threshold: f64) {
    let min = numbers.iter().copied().fold(f64::INFINITY, f64::min);
    let max = numbers.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if max > min {
        numbers.iter_mut().for_each(|x| *x = threshold * (2.0 * (*x - min) / (max - min) - 1.0));
    }
}
