//! Pages that must say what the code says.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

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

/// All pages for users.
fn pages() -> Vec<PathBuf> {
    let in_folder = |folder: &str| {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.extension().is_some_and(|ending| ending == "md")).collect::<Vec<_>>()
    };
    [".", "docs", "bindings/python"].into_iter().flat_map(in_folder).collect()
}

#[test]
fn links_between_pages_lead_somewhere() {
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
            let file = link.split('#').next().unwrap_or(link);
            let is_ours = !file.is_empty() && !file.contains("://") && !file.contains(' ');
            let folder = page.parent().unwrap();
            assert!(!is_ours || folder.join(file).exists(), "{}: {link} leads nowhere", page.display());
        }
    }
}

#[test]
fn commands_on_pages_have_the_options_that_they_are_shown_with() {
    let mut help: BTreeMap<String, String> = BTreeMap::new();
    let mut seen = 0;
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for line in text.lines() {
            let Some(line) = line.trim_start().strip_prefix("lycomerge ") else { continue };
            let Some(subcommand) = line.split_whitespace().next().filter(|word| !word.starts_with('-'))
            else {
                continue;
            };
            let help = help.entry(subcommand.to_owned()).or_insert_with(|| {
                let run = Command::new(env!("CARGO_BIN_EXE_lycomerge")).args([subcommand, "--help"]).output();
                String::from_utf8(run.unwrap().stdout).unwrap()
            });
            let place = format!("{}: {line}", page.display());
            assert!(help.contains("Usage: lycomerge"), "{place}: there is no such subcommand");
            for option in line.split_whitespace().filter(|word| word.starts_with("--")) {
                seen += 1;
                let option = option.split('=').next().unwrap();
                let is_there = |word: &str| word.trim_end_matches([',', '.']) == option;
                assert!(
                    help.split_whitespace().any(|word| is_there(word.split(['=', '[']).next().unwrap())),
                    "{place}: {option}"
                );
            }
        }
    }
    assert!(seen > 20, "the pages show commands");
}
