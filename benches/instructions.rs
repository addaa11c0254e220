//! The instructions that a few kernels take, against those of the committed table: a guard against work that creeps in
//! unnoticed. Callgrind counts them, so the answer is the same on a busy machine.
//!
//! ```text
//! .ci/instructions            # count and compare
//! .ci/instructions --renew    # count and write the table anew
//! ```
//!
//! The program runs itself under valgrind, once for each kernel. What a kernel works on is made beforehand and not
//! counted. Valgrind knows nothing wider than AVX2, so every x86-64 machine that has it takes the same path.

mod layers;

use std::collections::BTreeMap;
use std::error::Error;
use std::hint::black_box;
use std::process::{Command, ExitCode};
use std::{env, fs};

use lycomerge::delta::Delta;
use lycomerge::delta::joint::Joint;
use lycomerge::fit::Format;
use lycomerge::fit::certificate::Certificate;
use lycomerge::tensor::{Dtype, TensorView, encode};

use layers::{Kind, Noise, layer, one_of_each};

/// Times the table's count. Work done twice in a large part of a kernel is beyond this; other C libraries, processors
/// and caches (for which faer blocks products) stay well within.
const TOO_MANY: f64 = 1.3;
/// A count this far below the table's would hide what is gained and lost again.
const TOO_FEW: f64 = 0.75;

/// The numbers of one tensor to convert.
const NUMBERS: usize = 640 * 640;

const TABLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions.tsv");
const HEADER: &str = "# kernel\tthousands of instructions; written by `.ci/instructions --renew`\n";

/// What is made ready before, and then counted.
type Prepare = fn() -> Box<dyn FnOnce()>;

const KERNELS: [(&str, Prepare); 5] = [
    // Three LoKrs of one split to the nearest one.
    ("fit_lokr_1280", || fit_and_certify((Kind::Lokr, 1280), Format::Lokr, None)),
    // Three LoRAs of rank 32 to the nearest of rank 32.
    ("fit_lora_640", || fit_and_certify((Kind::Lora, 640), Format::Lora, Some(32))),
    // The largest entry of a sum of all families, as min_max_norm asks for it.
    ("peak_640", peak),
    // What every tensor goes through.
    ("read_f16", read),
    ("write_f16", write),
];

fn fit_and_certify(at: (Kind, usize), format: Format, rank: Option<usize>) -> Box<dyn FnOnce()> {
    let delta = layer::<f32>(at);
    Box::new(move || {
        let joint = Joint::new(black_box(&delta));
        let (term, scale) = layers::fit(&joint, at.1, format, 0.0, rank);
        black_box(Certificate::of(&Delta::of(scale, term), &joint));
    })
}

fn peak() -> Box<dyn FnOnce()> {
    const SIZE: usize = 640;
    let mut sum = Delta::<f32>::zero(SIZE, SIZE);
    one_of_each(SIZE).iter().for_each(|delta| sum.add_scaled(1.0, delta));
    Box::new(move || {
        black_box(black_box(&sum).peak());
    })
}

/// The numbers of a tensor, and the bytes of a file that are these numbers.
fn stored() -> (Vec<f32>, Vec<u8>) {
    let mut noise = Noise(1);
    let reals: Vec<f32> = (0..NUMBERS).map(|_| noise.next() as f32).collect();
    let mut data = Vec::new();
    encode(&reals, Dtype::F16, &mut data).expect("the numbers are small");
    (reals, data)
}

fn read() -> Box<dyn FnOnce()> {
    let (_, data) = stored();
    Box::new(move || {
        let view = TensorView { dtype: Dtype::F16, shape: &[NUMBERS], data: black_box(&data) };
        black_box(view.to_reals::<f32>());
    })
}

fn write() -> Box<dyn FnOnce()> {
    let (reals, mut data) = stored();
    Box::new(move || {
        data.clear();
        encode(black_box(&reals), Dtype::F16, &mut data).expect("the numbers are small");
        black_box(&data);
    })
}

/// Where callgrind starts and stops counting: known to it by this name, so it must stay a function.
#[inline(never)]
fn counted(kernel: Box<dyn FnOnce()>) {
    kernel();
}

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    match &args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--run", name] => {
            let (_, prepare) = KERNELS.iter().find(|(other, _)| other == name).ok_or("no such kernel")?;
            counted(prepare());
            Ok(ExitCode::SUCCESS)
        }
        // `cargo bench` adds `--bench`; `cargo test --benches` doesn't, and has nothing to ask here.
        [] => Ok(ExitCode::SUCCESS),
        [.., "--bench"] if !comparable() => {
            println!("not counted: the table is for x86-64 with AVX2, FMA and F16C");
            Ok(ExitCode::SUCCESS)
        }
        ["--bench"] => compare(),
        ["--renew", "--bench"] => renew(),
        _ => Err("usage: .ci/instructions [--renew]".into()),
    }
}

/// Whether this machine takes the code paths that were counted. Wider instructions than these don't matter, because
/// valgrind has none.
fn comparable() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

fn compare() -> Result<ExitCode, Box<dyn Error>> {
    let expected = read_table()?;
    let (mut more, mut fewer) = (Vec::new(), Vec::new());
    println!("{:<20} {:>10} {:>10} {:>6}", "1000 instructions", "expected", "counted", "ratio");
    for (name, _) in KERNELS {
        let expected = *expected.get(name).ok_or_else(|| format!("{name} is not in {TABLE}: --renew it"))?;
        let counted = count(name)?;
        let ratio = counted as f64 / expected as f64;
        println!("{name:<20} {expected:>10} {counted:>10} {ratio:>6.2}");
        if ratio > TOO_MANY {
            more.push(name);
        } else if ratio < TOO_FEW {
            fewer.push(name);
        }
    }
    if !fewer.is_empty() {
        println!("far fewer than expected: {}. Renew the table: .ci/instructions --renew", fewer.join(", "));
    }
    if more.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("more than {TOO_MANY} times the expected instructions: {}.", more.join(", "));
    eprintln!("Where they go: callgrind_annotate {}", profile(more[0]));
    eprintln!("If they are worth it: .ci/instructions --renew, and say in the commit why");
    Ok(ExitCode::FAILURE)
}

fn renew() -> Result<ExitCode, Box<dyn Error>> {
    let mut table = String::from(HEADER);
    for (name, _) in KERNELS {
        table += &format!("{name}\t{}\n", count(name)?);
    }
    print!("{table}");
    fs::write(TABLE, table)?;
    Ok(ExitCode::SUCCESS)
}

fn read_table() -> Result<BTreeMap<String, u64>, Box<dyn Error>> {
    let text = fs::read_to_string(TABLE)?;
    let rows = text.lines().filter(|line| !line.starts_with('#'));
    rows.map(|line| {
        let (name, count) = line.split_once('\t').ok_or_else(|| format!("{TABLE}: not a row: {line}"))?;
        Ok((name.to_owned(), count.parse()?))
    })
    .collect()
}

/// Where callgrind leaves what it saw of a kernel.
fn profile(name: &str) -> String {
    format!("{}/callgrind.{name}.out", env!("CARGO_TARGET_TMPDIR"))
}

/// Thousands of instructions of a kernel.
fn count(name: &str) -> Result<u64, Box<dyn Error>> {
    let profile = profile(name);
    let status = Command::new("valgrind")
        // Of `rep stosb` and `rep movsb`, every byte counts as an instruction: memory is better set and copied without.
        .env("GLIBC_TUNABLES", "glibc.cpu.hwcaps=-ERMS")
        .args(["--quiet", "--tool=callgrind", "--toggle-collect=instructions::counted*"])
        .arg(format!("--callgrind-out-file={profile}"))
        .arg(env::current_exe()?)
        .args(["--run", name])
        .status()
        .map_err(|e| format!("valgrind does not start: {e}"))?;
    if !status.success() {
        return Err(format!("{name} under valgrind: {status}").into());
    }
    let text = fs::read_to_string(&profile)?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
    match total.ok_or("callgrind wrote no total")?.trim().parse::<u64>()? {
        0 => Err("callgrind never saw the function that it was to count".into()),
        total => Ok(total.div_ceil(1000)),
    }
}
