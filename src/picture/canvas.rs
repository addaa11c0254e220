//! Lines, areas and words on an SVG, in units of a dot on a plain screen.

use plotters::coord::Shift;
use plotters::prelude::{
    Circle, DrawingArea, FontTransform, IntoDrawingArea, IntoFont, PathElement, Polygon, RGBColor, Rectangle,
    SVGBackend, Text,
};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, ShapeStyle};

use crate::error::{Error, Result};

/// The font that PNGs have; browsers take what they have if they lack it.
pub(super) const FONT: &str = "Roboto";
const FONTS: &str = "Roboto, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif";

/// A place: from the left, and from the top.
pub(super) type At = (f64, f64);

/// The colours of a picture.
pub(super) struct Theme {
    pub(super) ground: RGBColor,
    pub(super) text: RGBColor,
    pub(super) faint: RGBColor,
    pub(super) grid: RGBColor,
    /// Of things side by side.
    pub(super) series: [RGBColor; 6],
    /// Of figures below zero, near it and above.
    pub(super) diverging: [RGBColor; 3],
    /// Of figures from nothing to all.
    pub(super) rising: [RGBColor; 2],
}

pub(super) static LIGHT: Theme = Theme {
    ground: RGBColor(255, 255, 255),
    text: RGBColor(32, 36, 42),
    faint: RGBColor(94, 102, 112),
    grid: RGBColor(226, 229, 233),
    series: [
        RGBColor(0, 114, 178),
        RGBColor(213, 94, 0),
        RGBColor(0, 140, 102),
        RGBColor(190, 85, 145),
        RGBColor(199, 138, 0),
        RGBColor(70, 160, 215),
    ],
    diverging: [RGBColor(178, 60, 10), RGBColor(247, 247, 247), RGBColor(12, 92, 158)],
    rising: [RGBColor(247, 247, 247), RGBColor(96, 60, 140)],
};

pub(super) static DARK: Theme = Theme {
    ground: RGBColor(22, 25, 30),
    text: RGBColor(230, 233, 237),
    faint: RGBColor(158, 167, 178),
    grid: RGBColor(52, 58, 66),
    series: [
        RGBColor(86, 180, 233),
        RGBColor(240, 130, 60),
        RGBColor(60, 200, 155),
        RGBColor(225, 140, 190),
        RGBColor(235, 185, 60),
        RGBColor(150, 160, 250),
    ],
    diverging: [RGBColor(222, 104, 42), RGBColor(40, 45, 52), RGBColor(60, 150, 220)],
    rising: [RGBColor(40, 45, 52), RGBColor(172, 132, 226)],
};

impl Theme {
    /// The colour of a figure from −1 to 1.
    pub(super) fn diverging(&self, x: f64) -> RGBColor {
        let [below, zero, above] = self.diverging;
        mixed(zero, if x < 0.0 { below } else { above }, x.abs())
    }

    /// The colour of a figure from 0 to 1.
    pub(super) fn rising(&self, x: f64) -> RGBColor {
        mixed(self.rising[0], self.rising[1], x)
    }

    /// The colour of words on a ground: of black and white the one that is further from it.
    pub(super) fn on(ground: RGBColor) -> RGBColor {
        let RGBColor(r, g, b) = ground;
        let light = 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
        if light > 0.22 { RGBColor(24, 26, 30) } else { RGBColor(255, 255, 255) }
    }
}

/// The light of a part of a colour.
fn linear(x: u8) -> f64 {
    (f64::from(x) / 255.0).powf(2.2)
}

fn mixed(RGBColor(r, g, b): RGBColor, RGBColor(s, h, c): RGBColor, share: f64) -> RGBColor {
    let share = share.clamp(0.0, 1.0);
    let mix = |x: u8, y: u8| (f64::from(x) + share * (f64::from(y) - f64::from(x))).round() as u8;
    RGBColor(mix(r, s), mix(g, h), mix(b, c))
}

/// Where a text stands beside its place.
#[derive(Clone, Copy)]
pub(super) enum Side {
    Left,
    Middle,
    Right,
}

/// Which marks a series has.
#[derive(Clone, Copy)]
pub(super) enum Mark {
    Circle,
    Square,
    Triangle,
    Diamond,
    Star,
}

/// A picture that is being drawn.
pub(super) struct Canvas<'a> {
    area: DrawingArea<SVGBackend<'a>, Shift>,
    pub(super) theme: &'static Theme,
}

/// Draws a picture of a size, with a description for those who don't see it.
pub(super) fn draw(
    (width, height): (u32, u32),
    theme: &'static Theme,
    title: &str,
    paint: impl FnOnce(&Canvas<'_>) -> Result<()>,
) -> Result<String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (width, height)).into_drawing_area();
        let canvas = Canvas { area, theme };
        done(canvas.area.fill(&theme.ground))?;
        paint(&canvas)?;
        done(canvas.area.present())?;
    }
    let title = escaped(title);
    Ok(svg.replacen("<svg ", "<svg role=\"img\" ", 1).replacen(
        ">\n",
        &format!(">\n<title>{title}</title>\n"),
        1,
    ))
}

/// A text between the tags of XML and HTML.
pub(super) fn escaped(text: &str) -> String {
    crate::error::one_line(text)
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// How wide a text is at most, about.
pub(super) fn width(text: &str, size: f64) -> f64 {
    let of = |c: char| match c {
        'i' | 'l' | 'j' | '.' | ',' | ' ' | '\'' | ':' | '|' => 0.3,
        'm' | 'w' | 'M' | 'W' | '%' => 0.85,
        c if c.is_ascii() => 0.57,
        c if (c as u32) < 0x2e80 => 0.6,
        _ => 1.0,
    };
    text.chars().map(of).sum::<f64>() * size
}

fn done<T, E: std::fmt::Display>(result: std::result::Result<T, E>) -> Result<T> {
    result.map_err(|error| Error::internal(format!("a picture can't be drawn: {error}")))
}

fn dots((x, y): At) -> (i32, i32) {
    (x.round() as i32, y.round() as i32)
}

impl Canvas<'_> {
    pub(super) fn text(&self, at: At, side: Side, size: f64, color: RGBColor, text: &str) -> Result<()> {
        self.words(at, side, size, color, text, FontTransform::None)
    }

    /// A text that is read from below.
    pub(super) fn upright(&self, at: At, side: Side, size: f64, color: RGBColor, text: &str) -> Result<()> {
        self.words(at, side, size, color, text, FontTransform::Rotate270)
    }

    fn words(
        &self,
        at: At,
        side: Side,
        size: f64,
        color: RGBColor,
        text: &str,
        turned: FontTransform,
    ) -> Result<()> {
        let side = match side {
            Side::Left => HPos::Right,
            Side::Middle => HPos::Center,
            Side::Right => HPos::Left,
        };
        let font = (FONTS, size).into_font().transform(turned).color(&color);
        let style = font.pos(Pos::new(side, VPos::Center));
        done(self.area.draw(&Text::new(crate::error::one_line(text).into_owned(), dots(at), style)))
    }

    pub(super) fn area(&self, from: At, to: At, color: RGBColor) -> Result<()> {
        done(self.area.draw(&Rectangle::new([dots(from), dots(to)], color.filled())))
    }

    pub(super) fn line(&self, points: &[At], color: RGBColor, width: u32) -> Result<()> {
        let points: Vec<_> = points.iter().map(|at| dots(*at)).collect();
        done(self.area.draw(&PathElement::new(points, color.stroke_width(width))))
    }

    pub(super) fn mark(&self, mark: Mark, at: At, radius: f64, color: RGBColor) -> Result<()> {
        let (x, y) = at;
        let corners = |turns: &[(f64, f64)]| -> Vec<(i32, i32)> {
            turns.iter().map(|(dx, dy)| dots((x + dx * radius, y + dy * radius))).collect()
        };
        let filled: ShapeStyle = color.filled();
        let polygon = match mark {
            Mark::Circle => {
                return done(self.area.draw(&Circle::new(dots(at), radius.round() as i32, filled)));
            }
            Mark::Square => corners(&[(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)]),
            Mark::Triangle => corners(&[(0.0, -1.2), (1.1, 0.9), (-1.1, 0.9)]),
            Mark::Diamond => corners(&[(0.0, -1.3), (1.3, 0.0), (0.0, 1.3), (-1.3, 0.0)]),
            Mark::Star => {
                let point = |k: usize| {
                    let (angle, far) =
                        (std::f64::consts::PI * k as f64 / 5.0, if k.is_multiple_of(2) { 1.7 } else { 0.75 });
                    (far * angle.sin(), -far * angle.cos())
                };
                corners(&(0..10).map(point).collect::<Vec<_>>())
            }
        };
        done(self.area.draw(&Polygon::new(polygon, filled)))
    }
}
