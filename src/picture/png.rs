//! PNG of SVG.

use std::sync::{Arc, LazyLock};

use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::fontdb::Database;
use resvg::usvg::{Options, Tree};

use super::canvas::FONT;
use crate::error::{Error, Result};

/// Dots for each unit of the SVG, so that text is sharp on every screen.
const SCALE: f32 = 2.0;

/// Our font first; those of the system have the letters that it lacks.
static FONTS: LazyLock<Arc<Database>> = LazyLock::new(|| {
    let mut fonts = Database::new();
    fonts.load_font_data(include_bytes!("font/Roboto-Regular.ttf").to_vec());
    fonts.load_system_fonts();
    fonts.set_sans_serif_family(FONT);
    Arc::new(fonts)
});

pub(super) fn of_svg(svg: &str) -> Result<Vec<u8>> {
    let wrong = |what: &dyn std::fmt::Display| Error::internal(format!("a picture can't be drawn: {what}"));
    let options = Options { fontdb: Arc::clone(&FONTS), ..Options::default() };
    let tree = Tree::from_str(svg, &options).map_err(|e| wrong(&e))?;
    let size = tree.size().to_int_size();
    let dots = |extent: u32| (extent as f32 * SCALE) as u32;
    let mut image =
        Pixmap::new(dots(size.width()), dots(size.height())).ok_or_else(|| wrong(&"it has no size"))?;
    resvg::render(&tree, Transform::from_scale(SCALE, SCALE), &mut image.as_mut());
    image.encode_png().map_err(|e| wrong(&e))
}
