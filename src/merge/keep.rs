//! Format `keep`: the stored tensors of one adapter as they are, under other names.
//!
//! Where names agree about what is one weight, nothing is touched. Where one naming has whole what the other has in parts,
//! the tensors that have the outputs are cut or joined by rows, and nothing else changes: parts with one `down` share it
//! again, and parts with their own become a block-diagonal `up`, so that going there and back gives the same bytes.

use std::collections::BTreeMap;

use super::plan::{Part, Target};
use super::{Context, Piece};
use crate::adapter::{Layer, NewTensor, Param, kept_alpha, stored_delta};
use crate::delta::joint::Joint;
use crate::delta::{Window, gram};
use crate::error::{Error, Result};
use crate::fit::certificate::Certificate;
use crate::tensor::{TensorView, encode};

const UP: &str = ".lora_up.weight";
const DOWN: &str = ".lora_down.weight";
const ALPHA: &str = ".alpha";
const BIAS: &str = ".lora_B.bias";

/// Tensors whose first dimension is that of the outputs.
const WITH_ROWS: [&str; 8] = [UP, BIAS, ".hada_w1_a", ".hada_w2_a", ".diff", ".diff_b", ".w_norm", ".b_norm"];
/// Tensors whose first dimension is that of blocks of outputs, each as high as w2.
const WITH_BLOCKS: [&str; 2] = [".lokr_w1", ".lokr_w1_a"];
/// Tensors that every part has alike.
const SHARED: [&str; 8] =
    [DOWN, ALPHA, ".hada_w1_b", ".hada_w2_b", ".lokr_w1_b", ".lokr_w2", ".lokr_w2_a", ".lokr_w2_b"];

/// The tensors of a layer by suffix.
type Tensors = BTreeMap<&'static str, NewTensor>;

impl Context<'_> {
    /// Adds the tensors of a target as they are stored.
    pub(super) fn keep(&self, target: &Target<'_>, piece: &mut Piece) -> Result<()> {
        let [source] = &target.sources[..] else { return Err(Error::internal("format keep has one input")) };
        let adapter = &self.inputs[source.input].adapter;
        let mut parts = Vec::new();
        for part in &source.parts {
            let tensors = tensors(part, &adapter.members(part.layer), self.letters)
                .map_err(|e| e.in_layer(&part.id.module).in_file(adapter.path()))?;
            parts.push((part, tensors));
        }
        let is_moved = parts.iter().any(|(part, _)| part.windows.is_some());
        let named = |e: Error| e.in_layer(&source.parts[0].id.module).in_file(adapter.path());
        let Some(tensors) = moved(target, parts).map_err(named)? else { return Ok(()) };
        let tensors: Vec<NewTensor> = tensors.into_values().collect();
        let certificate = match is_moved && target.id.param == Param::Weight {
            true => {
                let merged = self.merged::<f64>(target)?;
                Certificate::of(&stored_delta(&tensors)?, &Joint::new(&merged.delta))
            }
            // Nobody can tell what it does.
            false if target.needs_base => Certificate::default(),
            false => {
                let norm = match target.needs_base {
                    true => 0.0,
                    false => gram::norm(&target.read::<f64>(self.inputs, source, 1.0)?),
                };
                Certificate { distance: 0.0, norm, stored_norm: norm }
            }
        };
        let new =
            tensors.into_iter().filter(|t| !(target.id.param == Param::Bias && SHARED.contains(&t.suffix)));
        self.report(target, target.family(), new.collect(), certificate, vec![1.0], piece);
        Ok(())
    }
}

/// A layer's tensors as they are, with the alpha that stood beside them.
fn tensors(part: &Part<'_>, members: &crate::adapter::Members<'_>, letters: bool) -> Result<Tensors> {
    let copy = |(suffix, view): (&'static str, TensorView<'_>)| {
        let TensorView { dtype, shape, data } = view;
        (suffix, NewTensor { suffix, shape: shape.to_vec(), dtype, data: data.to_vec() })
    };
    let mut all: Tensors = members.iter().map(copy).collect();
    if let Some(alpha) = kept_alpha(part.layer, members, letters)? {
        all.insert(ALPHA, alpha);
    }
    Ok(all)
}

/// The tensors of a target from those of its parts; none if nothing but zeros is left.
fn moved(target: &Target<'_>, mut parts: Vec<(&Part<'_>, Tensors)>) -> Result<Option<Tensors>> {
    if let [(Part { windows: None, .. }, _)] = &parts[..] {
        return Ok(parts.pop().map(|(_, tensors)| tensors));
    }
    let windows = |part: &Part<'_>| {
        let all = || vec![Window { from: 0, to: 0, len: target.shape.rows }];
        part.windows.clone().unwrap_or_else(all)
    };
    parts.sort_by_key(|(part, _)| windows(part).first().map(|window| window.to));
    for (part, tensors) in &parts {
        let known = |suffix: &&str| {
            WITH_ROWS.contains(suffix) || WITH_BLOCKS.contains(suffix) || SHARED.contains(suffix)
        };
        if let Some(suffix) = tensors.keys().find(|suffix| !known(suffix)) {
            return Err(Error::unsupported(format!(
                "is a {} with '{suffix}', which can't be cut or joined as this naming has it; another format can (--format \
                 lora)",
                part.layer.family
            )));
        }
    }
    let family = target.family();
    if let Some((other, _)) = parts.iter().find(|(part, _)| part.layer.family != family) {
        return Err(Error::unsupported(format!(
            "is {family} in one part and {} in another, which this naming has as one layer; another format holds them \
             (--format lora)",
            other.layer.family
        )));
    }
    let is_lora = parts.iter().all(|(_, tensors)| tensors.contains_key(UP));
    if let ([(part, tensors)], true) = (&mut parts[..], is_lora) {
        let tensors = std::mem::take(tensors);
        let windows = windows(part);
        let covered: usize = windows.iter().map(|window| window.len).sum();
        if covered < part.layer.shape.rows {
            return cut(target, part.layer, tensors, &windows);
        }
        parts = vec![(part, tensors)];
    }
    let alike = |suffix: &str| {
        let mut tensors = parts.iter().map(|(_, tensors)| tensors.get(suffix).map(|t| (&t.shape, &t.data)));
        let first = tensors.next();
        tensors.all(|other| Some(other) == first)
    };
    if let Some(suffix) = SHARED.iter().find(|suffix| !alike(suffix)) {
        if is_lora {
            return joined(target, &parts, windows).map(Some);
        }
        return Err(Error::unsupported(format!(
            "is a {family} whose parts differ in '{suffix}', so that they are no {family} together; another format holds \
             them (--format lora)"
        )));
    }
    let mut out = parts[0].1.clone();
    for (suffix, whole) in &mut out {
        if SHARED.contains(suffix) {
            continue;
        }
        let pieces: Vec<(&NewTensor, Vec<Window>)> =
            parts.iter().filter_map(|(part, tensors)| Some((tensors.get(suffix)?, windows(part)))).collect();
        let rows_of = |tensor: &NewTensor| tensor.shape.first().copied().unwrap_or(1);
        let block = match WITH_BLOCKS.contains(suffix) {
            true => parts[0].0.layer.shape.rows / rows_of(whole).max(1),
            false => 1,
        };
        *whole = placed(&pieces, target.shape.rows, block)?;
    }
    Ok(Some(out))
}

/// Rows of tensors in one of `rows`, in units of `block`; zeros elsewhere.
fn placed(pieces: &[(&NewTensor, Vec<Window>)], rows: usize, block: usize) -> Result<NewTensor> {
    let (first, _) = &pieces[0];
    let even = |n: usize| n.is_multiple_of(block);
    let width: usize = first.shape.iter().skip(1).product::<usize>() * first.dtype.size();
    let mut out = NewTensor { data: vec![0; rows / block * width], ..(*first).clone() };
    out.shape[0] = rows / block;
    for (tensor, windows) in pieces {
        if tensor.shape[1..] != first.shape[1..] || tensor.dtype != first.dtype {
            return Err(Error::unsupported(format!(
                "'{}' is {:?} in one part and {:?} in another, so that they can't be joined as they are; another format \
                 holds them (--format lora)",
                first.suffix, first.shape, tensor.shape
            )));
        }
        for Window { from, to, len } in windows {
            if !even(rows) || ![*from, *to, *len].into_iter().all(even) {
                return Err(Error::unsupported(format!(
                    "its blocks of {block} outputs can't be cut as this naming has it; another format can (--format lora)"
                )));
            }
            let (from, to, len) = (from / block * width, to / block * width, len / block * width);
            out.data[to..to + len].copy_from_slice(&tensor.data[from..from + len]);
        }
    }
    Ok(out)
}

/// Whether an element is +0 or −0, in any floating-point type.
fn is_zero(element: &[u8]) -> bool {
    element.split_last().is_some_and(|(last, rest)| last & 0x7f == 0 && rest.iter().all(|byte| *byte == 0))
}

/// Some outputs of a LoRA, without the ranks that only others have; none if nothing is left.
fn cut(
    target: &Target<'_>,
    layer: &Layer,
    mut tensors: Tensors,
    windows: &[Window],
) -> Result<Option<Tensors>> {
    let (Some(up), Some(down)) = (tensors.get(UP), tensors.get(DOWN)) else {
        return Err(Error::internal("a LoRA without its factors"));
    };
    let (rank, size) = (down.shape[0], up.dtype.size());
    let own = placed(&[(up, windows.to_vec())], target.shape.rows, 1)?;
    let column = |tensor: &NewTensor, k: usize| {
        tensor.data.chunks_exact(rank * size).any(|row| !is_zero(&row[k * size..(k + 1) * size]))
    };
    let whole: Vec<bool> = (0..rank).map(|k| column(up, k)).collect();
    let here: Vec<bool> = (0..rank).map(|k| column(&own, k)).collect();
    // A rank that nothing uses belongs to the same outputs as the one before it.
    let first = (0..rank).find(|k| whole[*k]).map(|k| here[k]);
    if first.is_some() && !here.contains(&true) {
        return Ok(None);
    }
    let mut is_own = first.unwrap_or(true);
    let mut kept = Vec::new();
    for k in 0..rank {
        is_own = if whole[k] { here[k] } else { is_own };
        kept.extend(is_own.then_some(k));
    }
    let up = columns(&own, &kept, rank);
    let down = rows(down, &kept);
    if kept.len() < rank
        && let Some(alpha) = tensors.get(ALPHA)
    {
        let alpha = alpha_like(alpha, layer.scale * kept.len() as f64)?;
        tensors.insert(ALPHA, alpha);
    }
    if let Some(bias) = tensors.get(BIAS) {
        let bias = placed(&[(bias, windows.to_vec())], target.shape.rows, 1)?;
        tensors.insert(BIAS, bias);
    }
    tensors.extend([(UP, up), (DOWN, down)]);
    Ok(Some(tensors))
}

fn columns(tensor: &NewTensor, kept: &[usize], of: usize) -> NewTensor {
    let size = tensor.dtype.size();
    let row = |row: &[u8]| -> Vec<u8> {
        kept.iter().flat_map(|k| row[k * size..(k + 1) * size].to_vec()).collect()
    };
    let data = tensor.data.chunks_exact(of * size).flat_map(row).collect();
    let mut out = NewTensor { data, ..tensor.clone() };
    out.shape[1] = kept.len();
    out
}

fn rows(tensor: &NewTensor, kept: &[usize]) -> NewTensor {
    let width = tensor.shape.iter().skip(1).product::<usize>() * tensor.dtype.size();
    let data = kept.iter().flat_map(|k| tensor.data[k * width..(k + 1) * width].to_vec()).collect();
    let mut out = NewTensor { data, ..tensor.clone() };
    out.shape[0] = kept.len();
    out
}

/// An alpha of another value, stored as `alpha` is, or in float32 where that can't hold it.
fn alpha_like(alpha: &NewTensor, value: f64) -> Result<NewTensor> {
    for dtype in [alpha.dtype, crate::tensor::Dtype::F32] {
        let mut data = Vec::new();
        let written = encode(&[value], dtype, &mut data).is_ok();
        let view = TensorView { dtype, shape: &alpha.shape, data: &data };
        if written && (view.to_reals::<f64>() == [value] || dtype == crate::tensor::Dtype::F32) {
            return Ok(NewTensor { dtype, data, ..alpha.clone() });
        }
    }
    Err(Error::value(format!("alpha would be {value}, which no dtype holds")))
}

/// Parts of a LoRA that don't share their `down`: one below the other, under a block-diagonal `up`.
fn joined(
    target: &Target<'_>,
    parts: &[(&Part<'_>, Tensors)],
    windows: impl Fn(&Part<'_>) -> Vec<Window>,
) -> Result<Tensors> {
    /// Parts with one `down` and one scale.
    struct Block<'p> {
        down: &'p NewTensor,
        scale: f64,
        first: usize,
    }
    let mut blocks: Vec<Block<'_>> = Vec::new();
    let (mut of_part, mut rank) = (Vec::new(), 0);
    for (part, tensors) in parts {
        let down = &tensors[DOWN];
        let scale = part.layer.scale;
        let same = |block: &&Block<'_>| {
            (&block.down.data, block.scale) == (&down.data, scale) && block.down.shape == down.shape
        };
        let first = match blocks.iter().find(same) {
            Some(block) => block.first,
            None => {
                blocks.push(Block { down, scale, first: rank });
                rank += down.shape[0];
                rank - down.shape[0]
            }
        };
        of_part.push(first);
    }
    let (head, scale) = (&parts[0].1, blocks[0].scale);
    let uneven = blocks.iter().any(|block| block.scale != scale);
    let (up, down) = (&head[UP], &head[DOWN]);
    let size = up.dtype.size();
    let mut whole = NewTensor { data: vec![0; target.shape.rows * rank * size], ..up.clone() };
    (whole.shape[0], whole.shape[1]) = (target.shape.rows, rank);
    for ((part, tensors), first) in parts.iter().zip(of_part) {
        let mut up = tensors[UP].clone();
        let alike = up.dtype == whole.dtype && tensors[DOWN].dtype == down.dtype;
        if !alike || tensors[DOWN].shape[1..] != down.shape[1..] {
            return Err(Error::unsupported(
                "has parts of different dtypes or shapes; another format holds them (--format lora)",
            ));
        }
        if uneven {
            let view = TensorView { dtype: up.dtype, shape: &up.shape, data: &up.data };
            let scaled: Vec<f64> = view.to_reals::<f64>().into_iter().map(|x| x * part.layer.scale).collect();
            up.data = Vec::new();
            encode(&scaled, up.dtype, &mut up.data)?;
        }
        let width = up.shape[1] * size;
        for Window { from, to, len } in windows(part) {
            for row in 0..len {
                let at = ((to + row) * rank + first) * size;
                let own = (from + row) * width;
                whole.data[at..at + width].copy_from_slice(&up.data[own..own + width]);
            }
        }
    }
    let mut stacked =
        NewTensor { data: blocks.iter().flat_map(|block| block.down.data.clone()).collect(), ..down.clone() };
    stacked.shape[0] = rank;
    let mut out = Tensors::from([(UP, whole), (DOWN, stacked)]);
    let alphas = || parts.iter().filter_map(|(_, tensors)| tensors.get(ALPHA));
    let scale = if uneven { 1.0 } else { scale };
    if let Some(alpha) = alphas().next() {
        out.insert(ALPHA, alpha_like(alpha, scale * rank as f64)?);
    }
    let biases: Vec<(&NewTensor, Vec<Window>)> =
        parts.iter().filter_map(|(part, tensors)| Some((tensors.get(BIAS)?, windows(part)))).collect();
    if !biases.is_empty() && !uneven {
        out.insert(BIAS, placed(&biases, target.shape.rows, 1)?);
    }
    Ok(out)
}
