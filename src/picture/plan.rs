//! Size against error, both by their orders of magnitude: a line for each format, a star for each named quality.

use super::canvas::{At, Canvas, Mark, Side, Theme, draw, width};
use super::words::{percent, short, size};
use crate::error::Result;
use crate::merge::Plan;
use crate::merge::trade::TradeCurve;

const SIZE: (u32, u32) = (860, 540);

/// The edges of the plot: left, top, right, bottom.
const PLOT: [f64; 4] = [72.0, 84.0, 836.0, 476.0];

/// An axis by orders of magnitude.
struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Axis {
    /// Over `values`, with a little room at both ends.
    fn over(values: impl Iterator<Item = f64>, (from, to): (f64, f64)) -> Self {
        let (low, high) = values.fold((f64::INFINITY, 0.0), |(low, high), x| (x.min(low), x.max(high)));
        let (low, high) = if low <= high { (low, high) } else { (1.0, 10.0) };
        let room = (high / low).powf(0.06).max(1.15);
        Self { low: low / room, high: high * room, from, to }
    }

    fn at(&self, x: f64) -> f64 {
        let share = (x / self.low).ln() / (self.high / self.low).ln();
        self.from + share * (self.to - self.from)
    }

    /// 1, 2 and 5 times the powers of ten, or the powers alone where those are many.
    fn ticks(&self) -> Vec<f64> {
        let steps: &[f64] = match (self.high / self.low).log10() {
            decades if decades < 1.2 => &[1.0, 1.5, 2.0, 3.0, 5.0, 7.0],
            decades if decades < 3.0 => &[1.0, 2.0, 5.0],
            _ => &[1.0],
        };
        let decades = self.low.log10().floor() as i32..=self.high.log10().ceil() as i32;
        let all = decades.flat_map(|decade| steps.iter().map(move |step| step * 10_f64.powi(decade)));
        all.filter(|x| (self.low..=self.high).contains(x)).collect()
    }
}

/// Left, top, right and bottom of something.
type Area = [f64; 4];

/// Areas that are taken, so that no label hides another, nor a mark, nor a line if it can be helped.
struct Labels<'c, 'a> {
    canvas: &'c Canvas<'a>,
    taken: Vec<Area>,
    lines: Vec<Area>,
}

impl Labels<'_, '_> {
    const SIZE: f64 = 13.0;

    fn take(&mut self, at: At, radius: f64) {
        self.taken.push(around(at, radius));
    }

    /// Takes note of a line, a short piece after the other.
    fn cross(&mut self, line: &[At]) {
        for pair in line.windows(2) {
            let ((x0, y0), (x1, y1)) = (pair[0], pair[1]);
            let pieces = ((x1 - x0).hypot(y1 - y0) / 4.0).ceil().max(1.0);
            let piece = |k: f64| around((x0 + k / pieces * (x1 - x0), y0 + k / pieces * (y1 - y0)), 2.0);
            self.lines.extend((0..=pieces as usize).map(|k| piece(k as f64)));
        }
    }

    /// Puts a label beside its place, if there is room.
    fn put(&mut self, (x, y): At, text: &str, color: plotters::style::RGBColor) -> Result<()> {
        let wide = width(text, Self::SIZE);
        let high = Self::SIZE * 0.62;
        let beside = [
            (10.0, -10.0, Side::Right),
            (10.0, 11.0, Side::Right),
            (0.0, -17.0, Side::Middle),
            (-10.0, 11.0, Side::Left),
            (-10.0, -10.0, Side::Left),
            (0.0, 18.0, Side::Middle),
        ];
        let places = beside.map(|(dx, dy, side)| {
            let left = match side {
                Side::Right => x + dx,
                Side::Middle => x + dx - wide / 2.0,
                Side::Left => x + dx - wide,
            };
            ((x + dx, y + dy), side, [left, y + dy - high, left + wide, y + dy + high])
        });
        let is_free = |own: &Area, of: &[Area]| {
            let [left, top, right, bottom] = PLOT;
            let inside = own[0] >= left && own[1] >= top && own[2] <= right && own[3] <= bottom;
            inside && !of.iter().any(|other| overlap(own, other))
        };
        let best = places.iter().find(|(_, _, own)| is_free(own, &self.taken) && is_free(own, &self.lines));
        let Some((at, side, own)) =
            best.or_else(|| places.iter().find(|(_, _, own)| is_free(own, &self.taken)))
        else {
            return Ok(());
        };
        self.canvas.text(*at, *side, Self::SIZE, color, text)?;
        self.taken.push(*own);
        Ok(())
    }
}

fn around((x, y): At, radius: f64) -> Area {
    [x - radius, y - radius, x + radius, y + radius]
}

fn overlap(one: &Area, other: &Area) -> bool {
    one[0] <= other[2] && other[0] <= one[2] && one[1] <= other[3] && other[1] <= one[3]
}

/// The number and mark of a format's series, the same in every picture.
fn series(format: &str) -> (usize, Mark) {
    match format {
        "auto" => (0, Mark::Circle),
        "lora" => (1, Mark::Square),
        "lokr" => (2, Mark::Triangle),
        "loha" => (3, Mark::Diamond),
        _ => (4, Mark::Square),
    }
}

pub(super) fn svg(plan: &Plan, theme: &'static Theme) -> Result<String> {
    let names: Vec<String> = plan.inputs.iter().map(|input| short(&input.name, 28)).collect();
    let title = format!("Size against error of {}", short(&names.join(" + "), 80));
    let dtype = plan.curves.first().map_or("", |curve| curve.dtype.as_str());
    let curves: Vec<&TradeCurve> = plan.curves.iter().filter(|curve| curve.dtype == dtype).collect();
    draw(SIZE, theme, &title, |canvas| {
        let [left, top, right, bottom] = PLOT;
        let points = || curves.iter().flat_map(|curve| &curve.points);
        let sizes = points().map(|point| point.bytes).chain(plan.qualities.iter().map(|way| way.bytes));
        let largest = plan.inputs.iter().map(|input| input.bytes).max().unwrap_or(0);
        let x = Axis::over(
            sizes.chain([largest]).filter(|bytes| *bytes > 0).map(|bytes| bytes as f64),
            (left, right),
        );
        let errors = points().map(|point| point.error).chain(plan.qualities.iter().map(|way| way.error));
        let y = Axis::over(errors.filter(|error| *error > 0.0), (bottom, top));

        canvas.text((left - 48.0, 24.0), Side::Right, 18.0, theme.text, &title)?;
        for tick in x.ticks() {
            let at = x.at(tick);
            canvas.line(&[(at, top), (at, bottom)], theme.grid, 1)?;
            canvas.text((at, bottom + 16.0), Side::Middle, 13.0, theme.faint, &size(tick))?;
        }
        for tick in y.ticks() {
            let at = y.at(tick);
            canvas.line(&[(left, at), (right, at)], theme.grid, 1)?;
            canvas.text((left - 8.0, at), Side::Left, 13.0, theme.faint, &percent(tick))?;
        }
        canvas.text(
            (f64::midpoint(left, right), bottom + 42.0),
            Side::Middle,
            14.0,
            theme.text,
            &format!("file size ({dtype})"),
        )?;
        canvas.upright(
            (18.0, f64::midpoint(top, bottom)),
            Side::Middle,
            14.0,
            theme.text,
            "error of the whole file",
        )?;

        let mut labels = Labels { canvas, taken: Vec::new(), lines: Vec::new() };
        let mut at = left;
        for curve in &curves {
            let (number, mark) = series(curve.format);
            canvas.mark(mark, (at + 6.0, 58.0), 5.0, theme.series[number])?;
            canvas.text((at + 18.0, 58.0), Side::Right, 14.0, theme.text, curve.format)?;
            at += 40.0 + width(curve.format, 14.0);
        }
        canvas.mark(Mark::Star, (at + 6.0, 58.0), 5.0, theme.text)?;
        canvas.text((at + 18.0, 58.0), Side::Right, 14.0, theme.text, "--quality")?;

        if largest > 0 {
            let at = x.at(largest as f64);
            canvas.line(&[(at, top), (at, bottom)], theme.faint, 1)?;
            let (side, dx) = if at > right - 110.0 { (Side::Left, -5.0) } else { (Side::Right, 5.0) };
            canvas.text((at + dx, bottom - 9.0), side, 12.0, theme.faint, "largest input")?;
            let (from, to) = match side {
                Side::Left => (at - 90.0, at),
                _ => (at, at + 90.0),
            };
            labels.taken.push([from, bottom - 18.0, to, bottom]);
            labels.cross(&[(at, top), (at, bottom)]);
        }
        let place = |bytes: u64, error: f64| (x.at(bytes.max(1) as f64), y.at(error.max(y.low)));
        for curve in &curves {
            let color = theme.series[series(curve.format).0];
            let line: Vec<At> = curve.points.iter().map(|point| place(point.bytes, point.error)).collect();
            canvas.line(&line, color, 2)?;
            labels.cross(&line);
        }
        for curve in &curves {
            let (number, mark) = series(curve.format);
            for point in &curve.points {
                let at = place(point.bytes, point.error);
                canvas.mark(mark, at, 4.0, theme.series[number])?;
                labels.take(at, 4.0);
            }
        }
        for way in &plan.qualities {
            let at = place(way.bytes, way.error);
            canvas.mark(Mark::Star, at, 7.0, theme.text)?;
            labels.take(at, 9.0);
        }
        for way in &plan.qualities {
            labels.put(place(way.bytes, way.error), way.quality, theme.text)?;
        }
        for curve in curves.iter().filter(|curve| curve.points.len() == 1 || curve.format != "auto") {
            let color = theme.series[series(curve.format).0];
            for (k, point) in curve.points.iter().enumerate() {
                let text = match point.rank.filter(|_| curve.points.len() > 1) {
                    Some(rank) if k == 0 => format!("rank {rank}"),
                    Some(rank) => rank.to_string(),
                    None => curve.format.to_owned(),
                };
                labels.put(place(point.bytes, point.error), &text, color)?;
            }
        }
        let looked_at = match plan.sampled < plan.layers {
            true => format!("estimated from {} of {} layers", plan.sampled, plan.layers),
            false => format!("from all {} layers", plan.layers),
        };
        canvas.text((right, bottom + 42.0), Side::Left, 12.0, theme.faint, &looked_at)
    })
}
