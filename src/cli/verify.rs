//! What `--verify` prints: the stored tensors of every layer, and the certificate.

use lycomerge::Report;
use lycomerge::error::one_line;

use super::table::{Side, Table};
use super::text::{count, percent, shape};

/// The table and the certificate of the file.
pub(crate) fn print(report: &Report) -> String {
    let mut table = Table::new([
        ("Layer", Side::Left),
        ("Shape", Side::Left),
        ("Family", Side::Left),
        ("Rank", Side::Right),
        ("Error", Side::Right),
        ("Tensor", Side::Left),
        ("Mean", Side::Right),
        ("Std", Side::Right),
        ("Min", Side::Right),
        ("Max", Side::Right),
        ("Norm", Side::Right),
    ]);
    for layer in &report.layers {
        let name = match layer.param {
            "weight" => layer.name.clone(),
            param => format!("{} ({param})", layer.name),
        };
        let rank = layer.rank.map_or_else(|| "-".to_owned(), |rank| rank.to_string());
        let mut cells = [name, shape(&layer.shape), layer.family.to_owned(), rank, percent(layer.error)];
        // alpha says again what the rank says.
        for tensor in layer.tensors.iter().filter(|tensor| tensor.suffix != ".alpha") {
            let [name, extents, family, rank, error] = std::mem::take(&mut cells);
            let [mean, std, min, max, norm] =
                [tensor.mean, tensor.std, tensor.min, tensor.max, tensor.norm].map(|x| format!("{x:.3e}"));
            let suffix = tensor.suffix.trim_start_matches('.').to_owned();
            table.push([name, extents, family, rank, error, suffix, mean, std, min, max, norm]);
        }
    }
    format!("{table}\n{}", certificate(report))
}

/// How exact the file is.
fn certificate(report: &Report) -> String {
    let worst = report.layers.iter().max_by(|a, b| a.error.total_cmp(&b.error));
    let worst = worst.map(|layer| format!("{} in {}", percent(layer.error), one_line(&layer.name)));
    let over = report.layers.iter().filter(|layer| layer.error > 0.01).count();
    let lines = [
        ("Error", Some(format!("{} of the norm of the true merge", percent(report.error)))),
        (
            "Direction error",
            Some(format!("{}, which no scaling could mend", percent(report.direction_error))),
        ),
        ("Norm", report.norm_ratio.map(|ratio| format!("{} of the true merge's", percent(ratio)))),
        ("Worst layer", worst),
        ("Above 1 %", Some(format!("{over} of {}", count(report.layers.len(), "layer")))),
        ("Tolerance", report.tolerance.map(|x| format!("{}, to fit the size", percent(x)))),
    ];
    let lines = lines.into_iter().filter_map(|(name, value)| Some(format!("  {name:17}{}\n", value?)));
    format!("Certificate\n{}", lines.collect::<String>())
}
