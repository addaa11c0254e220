//! Reports: one HTML page with the figures and the pictures in it, that asks for nothing from elsewhere.

use std::fmt::Write;

use super::canvas::{DARK, LIGHT, escaped};
use super::words::{percent, size};
use super::{comparison as compared, plan as planned};
use crate::error::Result;
use crate::merge::{Comparison, Plan};

const STYLE: &str = "\
:root{color-scheme:light dark;--ground:#fff;--text:#20242a;--faint:#5e6670;--line:#e2e5e9}
@media(prefers-color-scheme:dark){:root{--ground:#16191e;--text:#e6e9ed;--faint:#9ea7b2;--line:#343a42}}
body{margin:0;background:var(--ground);color:var(--text);font:16px/1.5 Roboto,'Segoe UI','Helvetica Neue',Arial,sans-serif}
main{max-width:1000px;margin:0 auto;padding:24px 16px 48px}
h1{font-size:24px;margin:0 0 4px}h2{font-size:18px;margin:32px 0 8px}p{margin:4px 0}
.faint{color:var(--faint)}
.wide{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:4px 14px 4px 0;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th{font-weight:600;color:var(--faint)}th:first-child,td:first-child{text-align:left}
tr.group td{padding-top:16px;font-weight:600}
code{font:14px ui-monospace,Menlo,Consolas,monospace}
svg{max-width:100%;min-width:720px;height:auto;display:block;margin-top:12px}
.dark{display:none}@media(prefers-color-scheme:dark){.light{display:none}.dark{display:block}}
";

/// A page of that title and body.
fn page(title: &str, body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\">\n<title>{}</title>\n<style>\n{STYLE}</style>\n<main>\n{body}</main>\n</html>\n",
        escaped(title)
    )
}

/// The picture in both themes, of which the reader's system shows one.
fn both(light: &str, dark: &str) -> String {
    format!("<div class=\"light wide\">{light}</div>\n<div class=\"dark wide\">{dark}</div>\n")
}

/// A row of a table; the cells are HTML.
fn row(tag: &str, cells: &[String]) -> String {
    let cells: String = cells.iter().map(|cell| format!("<{tag}>{cell}</{tag}>")).collect();
    format!("<tr>{cells}</tr>\n")
}

fn heads(names: &[&str]) -> String {
    row("th", &names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
}

pub(super) fn plan(plan: &Plan) -> Result<String> {
    let names: Vec<&str> = plan.inputs.iter().map(|input| input.name.as_str()).collect();
    let title = format!("Plan of {}", names.join(" + "));
    let mut body = format!("<h1>{}</h1>\n", escaped(&title));
    let looked_at = match plan.sampled < plan.layers {
        true => format!("estimated from {} of {} layers", plan.sampled, plan.layers),
        false => format!("from all {} layers", plan.layers),
    };
    let _ = writeln!(body, "<p class=\"faint\">What the merge comes to in every format, {looked_at}.</p>");
    body += &both(&planned::svg(plan, &LIGHT)?, &planned::svg(plan, &DARK)?);
    body += "<h2>Inputs</h2>\n<div class=\"wide\"><table>\n";
    body += &heads(&["file", "size"]);
    for input in &plan.inputs {
        body += &row("td", &[escaped(&input.name), size(input.bytes as f64)]);
    }
    body += "</table></div>\n<h2>Ways to store it</h2>\n<div class=\"wide\"><table>\n";
    body += &heads(&["options of <code>lycomerge merge</code>", "size", "error", "rank"]);
    let cells = |options: &str, bytes: u64, error: f64, rank: Option<usize>| {
        let rank = rank.map_or(String::new(), |rank| rank.to_string());
        row("td", &[format!("<code>{}</code>", escaped(options)), size(bytes as f64), percent(error), rank])
    };
    for way in &plan.qualities {
        body += &cells(&way.options, way.bytes, way.error, Some(way.rank));
    }
    for curve in &plan.curves {
        let _ = writeln!(
            body,
            "<tr class=\"group\"><td colspan=\"4\">{} in {}</td></tr>",
            curve.format, curve.dtype
        );
        for point in &curve.points {
            body += &cells(&point.options, point.bytes, point.error, point.rank);
        }
    }
    body += "</table></div>\n";
    Ok(page(&title, &body))
}

pub(super) fn comparison(comparison: &Comparison) -> Result<String> {
    let names: Vec<&str> = comparison.inputs.iter().map(|input| input.name.as_str()).collect();
    let title = format!("Comparison of {}", names.join(", "));
    let mut body = format!("<h1>{}</h1>\n", escaped(&title));
    for sentence in &comparison.advice {
        let _ = writeln!(body, "<p>{}</p>", escaped(sentence));
    }
    body += &both(&compared::svg(comparison, &LIGHT)?, &compared::svg(comparison, &DARK)?);
    body += "<h2>Inputs</h2>\n<div class=\"wide\"><table>\n";
    body += &heads(&["file", "weight", "norm", "layers"]);
    for input in &comparison.inputs {
        body += &row(
            "td",
            &[
                escaped(&input.name),
                input.weight.to_string(),
                format!("{:.4}", input.norm),
                input.layers.to_string(),
            ],
        );
    }
    body += "</table></div>\n<h2>Layers that cancel most</h2>\n<div class=\"wide\"><table>\n";
    let numbers: Vec<String> = (1..=names.len()).map(|k| format!("norm of {k}")).collect();
    let columns: Vec<&str> =
        ["layer", "kept"].into_iter().chain(numbers.iter().map(String::as_str)).collect();
    body += &heads(&columns);
    for layer in comparison.cancelling().into_iter().take(20) {
        let mut cells = vec![escaped(&layer.name), format!("{:.2}", layer.kept)];
        cells.extend(layer.norms.iter().map(|norm| format!("{norm:.4}")));
        body += &row("td", &cells);
    }
    body += "</table></div>\n";
    Ok(page(&title, &body))
}
