//! Pages that must say what the code says.

use std::fmt::Write;
use std::fs;

use lycomerge::merge::compare::{self, Threshold};
use lycomerge::merge::strategy::{self, Parameter, Row};

const BEGIN: &str = "<!-- begin: made by `UPDATE_DOCS=1 cargo test --release --test docs` -->\n";
const END: &str = "<!-- end -->\n";

/// That a page has this table between its marks, or puts it there if that is asked for. Gives what comes behind it.
fn keeps(path: &str, table: &str) -> String {
    let page = fs::read_to_string(path).unwrap();
    let (before, rest) = page.split_once(BEGIN).expect("the table begins with a mark");
    let (found, after) = rest.split_once(END).expect("the table ends with a mark");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(path, format!("{before}{BEGIN}{table}{END}{after}")).unwrap();
    } else {
        assert!(found == table, "{path} is not what the code says; see its mark");
    }
    after.to_owned()
}

/// The registry as Markdown.
fn strategies() -> String {
    let mut text = String::from(
        "| name | what it does | parameters | models | source |\n| --- | --- | --- | --- | --- |\n",
    );
    for row in strategy::ALL {
        let Row { name, help, paper, inputs: (least, most), parameters, .. } = row;
        let models = match (least, most) {
            (1, &usize::MAX) => "any".to_owned(),
            (least, &usize::MAX) => format!("{least} or more"),
            (least, most) if least == most => least.to_string(),
            (least, most) => format!("{least} to {most}"),
        };
        let parameter = |Parameter { name, kind, default, help }: &Parameter| {
            format!("`{name}={default}`: {help} ({})", kind.takes())
        };
        let parameters: Vec<_> = parameters.iter().map(parameter).collect();
        let cells =
            [format!("`{name}`"), (*help).to_owned(), parameters.join("<br>"), models, (*paper).to_owned()];
        let cells = cells.map(|cell| cell.replace('|', "\\|"));
        writeln!(text, "| {} |", cells.join(" | ")).unwrap();
    }
    text
}

/// The thresholds of advice as Markdown.
fn thresholds() -> String {
    let mut text = String::from("| figure | from | called |\n| --- | --- | --- |\n");
    for Threshold { figure, value, meaning } in &compare::THRESHOLDS {
        writeln!(text, "| {figure} | {value} | {meaning} |").unwrap();
    }
    text
}

#[test]
fn the_page_of_choosing_has_the_thresholds_of_advice() {
    keeps("docs/choosing.md", &thresholds());
}

#[test]
fn the_page_of_strategies_has_the_registry() {
    let after = keeps("docs/strategies.md", &strategies());
    for row in strategy::ALL {
        assert!(after.contains(&format!("**`{}`", row.name)), "{} isn't explained", row.name);
    }
}
