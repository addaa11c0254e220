//! Plans and comparisons as pictures: SVG, PNG made of that, and reports that are one HTML page.
//!
//! Figures come in, bytes go out; nothing is computed here. Colours are those that people of any colour vision tell
//! apart (Okabe, Ito 2008), and never the only thing that tells two things apart. The feature `pictures` has all of it;
//! without, asking is an error.

#[cfg(feature = "pictures")]
mod canvas;
#[cfg(feature = "pictures")]
mod comparison;
#[cfg(feature = "pictures")]
mod page;
#[cfg(feature = "pictures")]
mod plan;
#[cfg(feature = "pictures")]
mod png;
#[cfg(feature = "pictures")]
mod words;

use std::str::FromStr;

use crate::error::{Error, Result};
use crate::merge::{Comparison, Plan};

/// What a picture is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Lines and text, for browsers and papers.
    Svg,
    /// Dots, twice as many as the SVG's size says, for everything else.
    Png,
    /// A page with the table and the pictures, light or dark as its reader's system is.
    Html,
}

impl Kind {
    /// Every kind with its name.
    pub const ALL: [(Self, &'static str); 3] = [(Self::Svg, "svg"), (Self::Png, "png"), (Self::Html, "html")];
}

impl FromStr for Kind {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        Self::ALL.iter().find(|(_, name)| *name == s).map(|(kind, _)| *kind).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|(_, name)| *name).collect();
            Error::option(format!("unknown kind of picture '{s}'; use one of {}", names.join(", ")))
        })
    }
}

impl Plan {
    /// Size against error of every format, in the merge's dtype.
    ///
    /// # Errors
    /// This build has no pictures.
    pub fn picture(&self, kind: Kind, dark: bool) -> Result<Vec<u8>> {
        #[cfg(feature = "pictures")]
        return drawn(kind, dark, |theme| plan::svg(self, theme), || page::plan(self));
        #[cfg(not(feature = "pictures"))]
        Err(missing(kind, dark))
    }
}

impl Comparison {
    /// How the inputs compare, and what they do in each block.
    ///
    /// # Errors
    /// This build has no pictures.
    pub fn picture(&self, kind: Kind, dark: bool) -> Result<Vec<u8>> {
        #[cfg(feature = "pictures")]
        return drawn(kind, dark, |theme| comparison::svg(self, theme), || page::comparison(self));
        #[cfg(not(feature = "pictures"))]
        Err(missing(kind, dark))
    }
}

#[cfg(feature = "pictures")]
fn drawn(
    kind: Kind,
    dark: bool,
    svg: impl Fn(&'static canvas::Theme) -> Result<String>,
    page: impl Fn() -> Result<String>,
) -> Result<Vec<u8>> {
    let theme = if dark { &canvas::DARK } else { &canvas::LIGHT };
    match kind {
        Kind::Svg => Ok(svg(theme)?.into_bytes()),
        Kind::Png => png::of_svg(&svg(theme)?),
        Kind::Html => Ok(page()?.into_bytes()),
    }
}

#[cfg(not(feature = "pictures"))]
fn missing(_: Kind, _: bool) -> Error {
    Error::unsupported("this build of lycomerge draws no pictures: its feature 'pictures' is off")
}
