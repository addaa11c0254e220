//! Three tables of the inputs with a colour for each figure, and below them what each input does in each block.

use super::canvas::{At, Canvas, Side, Theme, draw, width};
use super::words::{figure, short};
use crate::error::Result;
use crate::merge::compare::{Comparison, Square};
use plotters::style::RGBColor;

const WIDTH: f64 = 980.0;
const MARGIN: f64 = 28.0;

/// Letters of a name beside a table.
const LETTERS: usize = 22;

/// The height of the bars.
const BARS: f64 = 150.0;

/// Where things are, by how many inputs and blocks there are.
struct Layout {
    cell: f64,
    names: f64,
    tables: f64,
    blocks: f64,
    height: f64,
}

impl Layout {
    fn of(comparison: &Comparison) -> Self {
        let n = comparison.inputs.len() as f64;
        let names = comparison.inputs.iter().enumerate();
        let names = names.map(|(k, input)| width(&numbered(k, &input.name), 13.0)).fold(0.0, f64::max) + 10.0;
        let room = (WIDTH - 2.0 * MARGIN - names) / 3.0 - 28.0;
        let cell = (room / n).min(64.0);
        let tables = 92.0;
        let blocks = tables + cell * n + 64.0;
        let long = comparison.blocks.iter().map(|block| width(&block.block, 12.0)).fold(0.0, f64::max);
        Self { cell, names, tables, blocks, height: blocks + BARS + 62.0 + long }
    }
}

/// What a figure is shown in.
type Colours<'a> = &'a dyn Fn(f64) -> RGBColor;

/// `1 style`
fn numbered(k: usize, name: &str) -> String {
    format!("{}  {}", k + 1, short(name, LETTERS))
}

pub(super) fn svg(comparison: &Comparison, theme: &'static Theme) -> Result<String> {
    let layout = Layout::of(comparison);
    let title = format!("How {} adapters compare", comparison.inputs.len());
    draw((WIDTH as u32, layout.height.ceil() as u32), theme, &title, |canvas| {
        canvas.text((MARGIN, 26.0), Side::Right, 18.0, theme.text, &title)?;
        let kept = format!("a plain sum keeps {:.2} of what they do apart", comparison.kept);
        canvas.text((WIDTH - MARGIN, 26.0), Side::Left, 14.0, theme.faint, &kept)?;
        for (k, input) in comparison.inputs.iter().enumerate() {
            let at = (MARGIN, layout.tables + (k as f64 + 0.5) * layout.cell);
            canvas.text(at, Side::Right, 13.0, theme.text, &numbered(k, &input.name))?;
        }
        let tables: [(&str, &Square, Colours<'_>); 3] = [
            ("cosine", &comparison.cosines, &|x| theme.diverging(x)),
            ("overlap of spaces", &comparison.overlaps, &|x| theme.rising(x)),
            ("conflicting signs", &comparison.sign_conflicts, &|x| conflicts(theme, x)),
        ];
        let wide = layout.cell * comparison.inputs.len() as f64;
        let step = (WIDTH - 2.0 * MARGIN - layout.names - wide) / 2.0;
        for (k, (name, figures, color)) in tables.into_iter().enumerate() {
            let left = MARGIN + layout.names + k as f64 * step.min(wide + 90.0);
            table(canvas, &layout, left, name, figures, color)?;
        }
        blocks(canvas, &layout, comparison)
    })
}

/// The colour of a share of conflicting signs: half of them are chance, and nothing to be seen.
fn conflicts(theme: &Theme, share: f64) -> RGBColor {
    theme.diverging(1.0 - 2.0 * share)
}

/// A table with a colour for each figure.
fn table(
    canvas: &Canvas<'_>,
    layout: &Layout,
    left: f64,
    name: &str,
    figures: &Square,
    color: &dyn Fn(f64) -> RGBColor,
) -> Result<()> {
    let Layout { cell, tables: top, .. } = *layout;
    let theme = canvas.theme;
    canvas.text((left, top - 34.0), Side::Right, 14.0, theme.text, name)?;
    let size = (cell * 0.3).clamp(9.0, 15.0);
    for (i, row) in figures.iter().enumerate() {
        let middle = left + (i as f64 + 0.5) * cell;
        canvas.text((middle, top - 11.0), Side::Middle, 12.0, theme.faint, &(i + 1).to_string())?;
        for (j, x) in row.iter().enumerate() {
            let (x0, y0): At = (left + j as f64 * cell, top + i as f64 * cell);
            let ground = color(*x);
            canvas.area((x0, y0), (x0 + cell - 1.5, y0 + cell - 1.5), ground)?;
            if cell >= 22.0 {
                let text = figure(*x, if cell >= 34.0 { 2 } else { 1 });
                let at = (x0 + cell / 2.0 - 0.75, y0 + cell / 2.0 - 0.75);
                canvas.text(at, Side::Middle, size, Theme::on(ground), &text)?;
            }
        }
    }
    Ok(())
}

/// Bars of the norms, and below each block how many signs conflict and how much a sum keeps.
fn blocks(canvas: &Canvas<'_>, layout: &Layout, comparison: &Comparison) -> Result<()> {
    let theme = canvas.theme;
    let (count, n) = (comparison.blocks.len(), comparison.inputs.len());
    let (left, right) = (MARGIN + 76.0, WIDTH - MARGIN);
    let (top, bottom) = (layout.blocks, layout.blocks + BARS);
    canvas.text((MARGIN, top - 24.0), Side::Right, 14.0, theme.text, "norm by block")?;
    let mut at = MARGIN + 130.0;
    for k in 0..n.min(theme.series.len()) {
        canvas.area((at, top - 29.0), (at + 10.0, top - 19.0), theme.series[k])?;
        canvas.text((at + 15.0, top - 24.0), Side::Right, 13.0, theme.faint, &(k + 1).to_string())?;
        at += 46.0;
    }
    let most = comparison.blocks.iter().flat_map(|block| &block.norms).copied().fold(0.0, f64::max);
    let step = nice(most / 3.0);
    let height = |norm: f64| BARS * norm / most.max(f64::MIN_POSITIVE);
    for k in 0_u32.. {
        let norm = step * f64::from(k);
        if norm > most || most == 0.0 {
            break;
        }
        let y = bottom - height(norm);
        canvas.line(&[(left, y), (right, y)], theme.grid, 1)?;
        canvas.text((left - 8.0, y), Side::Left, 12.0, theme.faint, &plain(norm))?;
    }
    let slot = ((right - left) / count.max(1) as f64).min(64.0);
    let bar = (slot * 0.8 / n as f64).max(1.0);
    let rows: [(&str, At); 2] =
        [("conflicts", (bottom + 6.0, bottom + 22.0)), ("kept", (bottom + 25.0, bottom + 41.0))];
    for (name, (from, to)) in rows {
        canvas.text((left - 8.0, f64::midpoint(from, to)), Side::Left, 12.0, theme.faint, name)?;
    }
    for (k, block) in comparison.blocks.iter().enumerate() {
        let start = left + k as f64 * slot;
        for (i, norm) in block.norms.iter().enumerate() {
            let x = start + slot * 0.1 + i as f64 * bar;
            let color = theme.series[i % theme.series.len()];
            if *norm > 0.0 {
                canvas.area((x, bottom - height(*norm)), (x + bar, bottom), color)?;
            }
        }
        let pairs = (0..n).flat_map(|i| (0..i).map(move |j| (i, j)));
        let conflict = pairs.map(|(i, j)| block.sign_conflicts[i][j]).fold(0.0, f64::max);
        // From −1, where nothing is left, to 1, where all of two add up.
        let figures = [
            (conflict, conflicts(theme, conflict)),
            (block.kept, theme.diverging((block.kept - 1.0) / 0.42)),
        ];
        for ((_, (from, to)), (x, ground)) in rows.iter().zip(figures) {
            canvas.area((start + 0.5, *from), (start + slot - 1.0, *to), ground)?;
            if slot >= 28.0 {
                let at = (start + slot / 2.0, f64::midpoint(*from, *to));
                canvas.text(at, Side::Middle, 11.0, Theme::on(ground), &figure(x, 2))?;
            }
        }
        let every = (14.0 / slot).ceil() as usize;
        if k.is_multiple_of(every) {
            canvas.upright(
                (start + slot / 2.0, bottom + 48.0),
                Side::Left,
                12.0,
                theme.text,
                &block.block,
            )?;
        }
    }
    Ok(())
}

/// 1, 2 or 5 times a power of ten, no smaller than `x`.
fn nice(x: f64) -> f64 {
    let power = 10_f64.powf(x.max(1e-30).log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|step| step * power).find(|step| *step >= x).unwrap_or(x)
}

/// A number of an axis.
fn plain(x: f64) -> String {
    match x {
        0.0 => "0".to_owned(),
        x if (1e-3..1e5).contains(&x) => {
            let digits = (2.0 - x.log10().floor()).clamp(0.0, 5.0) as usize;
            let text = format!("{x:.digits$}");
            let text =
                if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
            text.to_owned()
        }
        x => format!("{x:.0e}"),
    }
}
