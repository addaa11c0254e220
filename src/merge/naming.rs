//! Which layers of the inputs are of one module, whatever each of them calls it, and what the output calls it.
//!
//! Layers are gathered by what they are ([`Identity`]). The output names them as the first input does, or in the naming
//! that was asked for; where one has a weight whole and another in parts, the output's way counts, and rows are cut out or
//! put together.

use std::collections::BTreeMap;

use super::Input;
use super::plan::{Part, Source, Target};
use crate::adapter::{Adapter, Family, Layer, LayerId, Param, WeightShape};
use crate::delta::Window;
use crate::error::{Error, Result};
use crate::model::{
    Architecture, Component, Dialect, Identity, Naming, Rows, Sureness, architecture, identify,
    identify_shaped, most_alike,
};

/// How the output is to name its modules.
pub(super) struct Namer {
    dialect: Dialect,
    /// Whether the first input's names don't count.
    renames: bool,
    /// Whether a name that can't be spelled like the others may stay as it is.
    lenient: bool,
    /// Whether low-rank factors are called `lora_A` and `lora_B`.
    pub(super) letters: bool,
}

impl Namer {
    /// As `naming` says, or as the first input does.
    pub(super) fn new(inputs: &[Input], naming: Option<Naming>) -> Self {
        let architecture = architecture_of(inputs).map(|(found, _)| found);
        let first = inputs.first().map(|input| &input.adapter);
        let modules =
            first.into_iter().flat_map(|adapter| adapter.layers().keys().map(|id| id.module.as_str()));
        let dialect = match naming {
            Some(naming) => Dialect::new(naming, architecture),
            None => Dialect::of(modules, architecture),
        };
        let own = first.filter(|_| naming.is_none()).and_then(|adapter| adapter.has_letters());
        let letters = own.unwrap_or_else(|| dialect.naming().has_letters());
        Self { dialect, renames: naming.is_some(), lenient: false, letters }
    }

    /// The naming that it is, or is most like.
    pub(super) fn naming(&self) -> Naming {
        self.dialect.naming()
    }

    /// Any names, for outputs that have none.
    pub(super) fn any(inputs: &[Input]) -> Self {
        Self { lenient: true, ..Self::new(inputs, None) }
    }
}

/// The model that the inputs are for, as far as all of them together tell.
pub(super) fn architecture_of(inputs: &[Input]) -> Option<(Architecture, Sureness)> {
    let layers = inputs.iter().flat_map(|input| input.adapter.layers());
    let weights = layers.filter(|(id, _)| id.param == Param::Weight);
    architecture(weights.map(|(id, layer)| (id.module.as_str(), layer.shape.cols)))
}

/// What a layer's module is.
pub(super) fn identity(adapter: &Adapter, id: &LayerId) -> Identity {
    let weight = LayerId { module: id.module.clone(), param: Param::Weight };
    match adapter.layers().get(&weight) {
        Some(layer) => identify_shaped(&id.module, layer.shape.rows, layer.shape.cols),
        None => identify(&id.module),
    }
}

/// A layer of an input.
struct Member<'a> {
    input: usize,
    id: &'a LayerId,
    layer: &'a Layer,
    rows: Rows,
}

/// The layers of one module, or of the fused weight that modules are parts of, in the order of the inputs.
#[derive(Default)]
struct Group<'a>(Vec<Member<'a>>);

/// The parameters that the inputs change, each with all that changes it.
pub(super) fn targets<'a>(inputs: &'a [Input], namer: &Namer) -> Result<Vec<Target<'a>>> {
    let mut groups: BTreeMap<(Component, String), Group<'a>> = BTreeMap::new();
    for (input, Input { adapter, .. }) in inputs.iter().enumerate() {
        for (id, layer) in adapter.layers() {
            let Identity { component, path, rows } = identity(adapter, id);
            groups.entry((component, path)).or_default().0.push(Member { input, id, layer, rows });
        }
    }
    let mut targets = Vec::new();
    for ((component, path), group) in groups {
        group.check_apart(inputs)?;
        for (module, rows) in group.pieces(inputs, namer, component, path)? {
            for param in [Param::Weight, Param::Bias] {
                targets.extend(group.target(inputs, &LayerId { module: module.clone(), param }, rows)?);
            }
        }
    }
    Ok(targets)
}

impl<'a> Group<'a> {
    /// Refuses two names of the same thing in one file.
    fn check_apart(&self, inputs: &[Input]) -> Result<()> {
        for (k, one) in self.0.iter().enumerate() {
            let same = |other: &&Member<'_>| {
                (one.input, one.id.param) == (other.input, other.id.param) && one.rows.overlaps(other.rows)
            };
            if let Some(other) = self.0[..k].iter().find(same) {
                let message = format!(
                    "is the same module as '{}' in this file, and loaders disagree about which of them counts; take one \
                     of them out",
                    other.id.module
                );
                return Err(Error::format(message)
                    .in_layer(&one.id.module)
                    .in_file(inputs[one.input].adapter.path()));
            }
        }
        Ok(())
    }

    /// The modules of the output that these layers are, and which rows of the whole each is.
    fn pieces(
        &self,
        inputs: &[Input],
        namer: &Namer,
        component: Component,
        path: String,
    ) -> Result<Vec<(String, Rows)>> {
        let Some(first) = self.0.first() else { return Ok(Vec::new()) };
        let given = &first.id.module;
        let mut own: Vec<(&str, Rows)> = self.names_of(first.input);
        own.sort_by_key(|(_, rows)| *rows);
        let kept = || own.iter().map(|(module, rows)| ((*module).to_owned(), *rows)).collect();
        let covered = |member: &Member<'_>| {
            let units = (0..Rows::UNITS).filter(|unit| member.rows.has(*unit));
            units.into_iter().all(|unit| own.iter().any(|(_, rows)| rows.has(unit)))
        };
        if !namer.renames && first.input == 0 && self.0.iter().all(covered) {
            return Ok(kept());
        }
        let whole = Identity { component, path, rows: Rows::WHOLE };
        let names = namer.dialect.names(&whole, given);
        let names = match names {
            Some(names) => names,
            // What is in no model's vocabulary is the same in all of them.
            None if component == Component::Other || namer.lenient => return Ok(kept()),
            None => return Err(self.unspelled(inputs, namer)),
        };
        let mut pieces = Vec::new();
        for (name, rows) in names {
            let rows = match self.whole_weight() {
                Some((outputs, inputs)) if rows.len == rows.of => {
                    identify_shaped(&name, outputs, inputs).rows
                }
                _ => rows,
            };
            let own = own.iter().find(|(_, own)| !namer.renames && first.input == 0 && *own == rows);
            let name = own.map_or(name, |(module, _)| (*module).to_owned());
            if self.0.iter().any(|member| member.rows.overlaps(rows)) {
                pieces.push((name, rows));
            }
        }
        Ok(pieces)
    }

    /// The modules that an input has of them.
    fn names_of(&self, input: usize) -> Vec<(&'a str, Rows)> {
        let mut names: Vec<_> = self
            .0
            .iter()
            .filter(|member| member.input == input)
            .map(|member| (member.id.module.as_str(), member.rows))
            .collect();
        names.dedup();
        names
    }

    /// Outputs and inputs of the whole weight, if one of them is a weight.
    fn whole_weight(&self) -> Option<(usize, usize)> {
        let weight = self.0.iter().find(|member| member.id.param == Param::Weight)?;
        let WeightShape { rows, cols, .. } = weight.layer.shape;
        Some((rows * weight.rows.of / weight.rows.len, cols))
    }

    fn unspelled(&self, inputs: &[Input], namer: &Namer) -> Error {
        let member = &self.0[0];
        let module = &member.id.module;
        let first = &inputs[0].adapter;
        let near = most_alike(module, first.layers().keys().map(|id| id.module.as_str()), 3);
        let near: Vec<_> = near.into_iter().map(|name| format!("'{name}'")).collect();
        let like = match (namer.renames, near.is_empty()) {
            (true, _) | (_, true) => String::new(),
            (false, false) => format!("; most like it there are {}", near.join(", ")),
        };
        let how = match namer.renames {
            true => format!("the naming {}", namer.dialect.naming().name()),
            false => format!("the way in which {} names its modules", first.path().display()),
        };
        let message = format!(
            "nobody knows how {how} spells this module{like}; --naming kohya has a name for every module of a model"
        );
        Error::mismatch(message).in_layer(module).in_file(inputs[member.input].adapter.path())
    }

    /// What changes a parameter of one of the output's modules; none if nothing does.
    fn target(&self, inputs: &[Input], id: &LayerId, rows: Rows) -> Result<Option<Target<'a>>> {
        let mut target: Option<Target<'a>> = None;
        for member in &self.0 {
            if member.id.param != id.param || !member.rows.overlaps(rows) {
                continue;
            }
            let named = |e: Error| e.in_layer(&member.id.module).in_file(inputs[member.input].adapter.path());
            let (count, windows) = place(member.rows, rows, member.layer.shape.rows).map_err(named)?;
            let shape = WeightShape { rows: count, ..member.layer.shape.clone() };
            let target = target.get_or_insert_with(|| Target {
                id: id.clone(),
                shape: shape.clone(),
                norm: false,
                needs_base: false,
                reshape: None,
                sources: Vec::new(),
            });
            if member.layer.reshape.is_some() && windows.is_some() {
                return Err(named(Error::unsupported(
                    "pads the model's weight, which can't be done to some of its rows; name modules as this file does",
                )));
            }
            let needs_base = inputs[member.input].adapter.lacks_base(member.layer);
            target.add_need(member.layer.family, needs_base).map_err(named)?;
            target.shape = target.shape.join(&shape).map_err(named)?;
            target.norm |= member.layer.family == Family::Norm;
            target.reshape = target.reshape.take().or_else(|| member.layer.reshape.clone());
            let part = Part { id: member.id, layer: member.layer, windows };
            match target.sources.last_mut().filter(|source| source.input == member.input) {
                Some(source) => source.parts.push(part),
                None => target.sources.push(Source { input: member.input, parts: vec![part] }),
            }
        }
        Ok(target)
    }
}

/// How many rows `to` has if `from` has `count`, and which of them go where; no windows where all stay.
pub(super) fn place(from: Rows, to: Rows, count: usize) -> Result<(usize, Option<Vec<Window>>)> {
    if from == to {
        return Ok((count, None));
    }
    let uneven = |parts: usize| {
        Err(Error::mismatch(format!(
            "its {count} outputs are no multiple of the {parts} equal parts that it has"
        )))
    };
    if from.swapped != to.swapped {
        let half = count / 2;
        return match count % 2 {
            0 => Ok((
                count,
                Some(vec![Window { from: half, to: 0, len: half }, Window { from: 0, to: half, len: half }]),
            )),
            _ => uneven(2),
        };
    }
    if !count.is_multiple_of(from.len) {
        return uneven(from.len);
    }
    let whole = count / from.len * from.of;
    if !whole.is_multiple_of(to.of) {
        return uneven(to.of);
    }
    let range = |rows: Rows| {
        let unit = whole / rows.of;
        (rows.start * unit, (rows.start + rows.len) * unit)
    };
    let (a, b) = (range(from), range(to));
    let (start, end) = (a.0.max(b.0), a.1.min(b.1));
    let window = Window { from: start - a.0, to: start - b.0, len: end.saturating_sub(start) };
    Ok((b.1 - b.0, Some(vec![window])))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(start: usize, len: usize, of: usize) -> Rows {
        Rows { start, len, of, swapped: false }
    }

    #[test]
    fn rows_are_found_in_wholes_parts_and_swapped_halves() {
        let window = |from, to, len| Window { from, to, len };
        for (from, to, count, rows, windows) in [
            (Rows::WHOLE, part(1, 1, 3), 12, 4, vec![window(4, 0, 4)]),
            (part(2, 1, 3), Rows::WHOLE, 4, 12, vec![window(0, 8, 4)]),
            (part(0, 3, 7), part(1, 1, 7), 12, 4, vec![window(4, 0, 4)]),
            (part(3, 4, 7), Rows::WHOLE, 16, 28, vec![window(0, 12, 16)]),
            (Rows::WHOLE, Rows::SWAPPED, 6, 6, vec![window(3, 0, 3), window(0, 3, 3)]),
        ] {
            assert_eq!(place(from, to, count).unwrap(), (rows, Some(windows)), "{from:?} to {to:?}");
        }
        assert_eq!(place(part(1, 1, 3), part(1, 1, 3), 5).unwrap(), (5, None));
        assert!(place(Rows::WHOLE, part(0, 1, 3), 13).unwrap_err().message().contains("13 outputs"));
    }
}
