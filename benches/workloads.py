#!/usr/bin/env python3
"""Times lycomerge against the usual scripts and against copying, on files of real shapes.

    workloads.py [--only 'sdxl-*'] [--runs 5] [--threads 1 2 8] [--check 8] [--json FILE]

For each workload of the table: makes the inputs if they are missing, then runs the contenders in
turn, one process at a time, round after round (so that a slow minute of the machine hits all of
them), with the inputs in the page cache. Prints medians, and the medians of each round's ratio of
lycomerge to the others. README.md says how to read them.
"""

import argparse
import fnmatch
import importlib.util
import json
import os
import platform
import re
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

import measure
from measure import Run

HERE = Path(__file__).parent
ROOT = HERE.parent


@dataclass(frozen=True)
class Inputs:
    """So many files of a kind; they differ in their seeds."""

    architecture: str
    algorithm: str
    dim: int
    count: int
    factor: int | None = None

    def stem(self) -> str:
        factor = "" if self.factor is None else f"-f{self.factor}"
        return f"{self.architecture}-{self.algorithm}-d{self.dim}{factor}"

    def make(self, folder: Path) -> list[Path]:
        paths = [folder / f"{self.stem()}-{seed}.safetensors" for seed in range(1, self.count + 1)]
        for seed, path in enumerate(paths, 1):
            if not path.exists():
                command = [sys.executable, str(HERE / "make_workload.py"), self.architecture, self.algorithm]
                command += [str(path), "--dim", str(self.dim), "--seed", str(seed)]
                command += [] if self.factor is None else ["--factor", str(self.factor)]
                measure.run(command)
        return paths


@dataclass(frozen=True)
class Workload:
    name: str
    inputs: tuple[Inputs, ...]
    options: str  # of `lycomerge merge`, or bake
    rank: int  # at which torch's delta-space merge stores the same sum
    check: str = ""  # dense_check.py's options: the optimum of the format, and what is merged
    checkpoint: str = ""  # the architecture of a model to bake into

    def base(self, folder: Path) -> list[Path]:
        """The checkpoint, made if it is missing; none for a merge."""
        if not self.checkpoint:
            return []
        path = folder / f"{self.checkpoint}-checkpoint.safetensors"
        if not path.exists():
            shapes = HERE / "shapes" / f"{self.checkpoint}.tsv"
            measure.run([sys.executable, str(HERE / "make_checkpoint.py"), str(shapes), str(path)])
        return [path]


SDXL_LOKR = Inputs("sdxl", "lokr", 16, 3, factor=8)
SDXL_LOHA = Inputs("sdxl", "loha", 8, 3)
SDXL_LORA = Inputs("sdxl", "lora", 32, 3)
SD15_LOKR = Inputs("sd15", "lokr", 16, 3, factor=8)
SD15_LOHA = Inputs("sd15", "loha", 8, 3)
SD15_LORA = Inputs("sd15", "lora", 32, 3)
SDXL_MIXED = (
    Inputs("sdxl", "lora", 16, 1),
    replace(SDXL_LOHA, count=1),
    replace(SDXL_LOKR, count=1),
)
FLUX_LORA = Inputs("flux", "lora", 32, 2)
FLUX_LOKR = Inputs("flux", "lokr", 16, 2, factor=8)

WORKLOADS = (
    Workload("sdxl-lokr3-lokr", (SDXL_LOKR,), "--format lokr", 64, "--optimal-lokr"),
    Workload("sdxl-lokr3-lora64", (SDXL_LOKR,), "--format lora --rank 64", 64, "--optimal-rank 64"),
    Workload("sdxl-lokr3-good", (SDXL_LOKR,), "--quality good", 64),
    Workload("sdxl-lokr3-auto", (SDXL_LOKR,), "--format auto", 256),
    Workload("sdxl-lokr8-lokr", (replace(SDXL_LOKR, count=8),), "--format lokr", 64, "--optimal-lokr"),
    Workload(
        "sdxl-lokr3-minmax",
        (SDXL_LOKR,),
        "--strategy min_max_norm --format lokr",
        64,
        "--optimal-lokr --peak 1",
    ),
    Workload("sdxl-loha3-auto", (SDXL_LOHA,), "--format auto", 192),
    Workload("sdxl-lora3-lora32", (SDXL_LORA,), "--format lora --rank 32", 32, "--optimal-rank 32"),
    Workload("sdxl-mixed3-lora64", SDXL_MIXED, "--format lora --rank 64", 64, "--optimal-rank 64"),
    Workload("sd15-lokr3-lokr", (SD15_LOKR,), "--format lokr", 64, "--optimal-lokr"),
    Workload("sd15-lokr3-lora64", (SD15_LOKR,), "--format lora --rank 64", 64, "--optimal-rank 64"),
    Workload("sd15-loha3-auto", (SD15_LOHA,), "--format auto", 192),
    Workload("sd15-lora3-lora32", (SD15_LORA,), "--format lora --rank 32", 32, "--optimal-rank 32"),
    Workload("flux-lora2-lora32", (FLUX_LORA,), "--format lora --rank 32", 32, "--optimal-rank 32"),
    Workload("flux-lokr2-lokr", (FLUX_LOKR,), "--format lokr", 64, "--optimal-lokr"),
    Workload("sdxl-bake-lokr1", (replace(SDXL_LOKR, count=1),), "", 0, checkpoint="sdxl"),
    Workload("sdxl-bake-lora1", (replace(SDXL_LORA, count=1),), "", 0, checkpoint="sdxl"),
    Workload("sdxl-bake-lora3", (SDXL_LORA,), "", 0, checkpoint="sdxl"),
)

OURS = "lycomerge"


@dataclass(frozen=True)
class Contender:
    name: str
    command: list[str]
    output: Path
    extrapolates: bool = False  # prints what delta_svd.py prints
    once: bool = False  # too slow for more


@dataclass(frozen=True)
class Setting:
    """What to compare with, and where."""

    binary: Path
    folder: Path
    threads: list[int]
    baselines: bool
    svd_layers: int
    full_svd_layers: int


def output(folder: Path, contender: str) -> Path:
    """Each contender has a folder, because a merged file's name is in its metadata and so in its bytes."""
    return folder / "out" / re.sub(r"[^a-z0-9]+", "-", contender) / "merged.safetensors"


def with_threads(count: int) -> str:
    return f"{OURS} --threads {count}"


def contenders(workload: Workload, paths: list[Path], setting: Setting) -> list[Contender]:
    """Ours comes first: the floor copies its output."""
    files = [str(path) for path in paths]

    def written(name: str) -> Path:
        return output(setting.folder, name)

    def ours(name: str, *more: str) -> Contender:
        verb = "bake" if workload.checkpoint else "merge"
        merge = [str(setting.binary), verb, *files, *workload.options.split(), *more, "-o"]
        return Contender(name, [*merge, str(written(name))], written(name))

    def torch(name: str, script: str, *more: str, layers: int = 0, once: bool = False) -> Contender:
        sample = ["--layers", str(layers)] if layers else []
        command = [sys.executable, str(HERE / script), str(written(name)), *files, *more, *sample]
        return Contender(name, command, written(name), extrapolates=layers > 0, once=once)

    def floor(name: str, after: str) -> Contender:
        # Quoting is the shell's business: the paths are its arguments.
        # A bake's output is its first input with other numbers, which cp reads anyway.
        script = f'from=$1 to=$2; shift {3 if workload.checkpoint else 2}; cat "$@" > /dev/null; cp "$from" "$to"{after}'
        command = ["sh", "-c", script, "sh", str(written(OURS)), str(written(name)), *files]
        return Contender(name, command, written(name))

    found = [ours(OURS)]
    if setting.baselines and workload.checkpoint:
        found.append(torch("torch, all in memory", "bake_torch.py"))
    elif setting.baselines:
        rank = ("--rank", str(workload.rank))
        found.append(torch("a: torch, keys summed", "keywise.py"))
        found.append(torch("b: torch, svd_lowrank", "delta_svd.py", *rank, layers=setting.svd_layers))
        if setting.full_svd_layers:
            layers = setting.full_svd_layers
            found.append(torch("torch, full SVD", "delta_svd.py", *rank, "--full-svd", layers=layers, once=True))
    found.append(floor("c: cat and cp", ""))
    # lycomerge doesn't end before its output is on the disk; cp does.
    found.append(floor("cat, cp and sync", '; sync "$to"'))
    found += [ours(with_threads(count), "--threads", str(count)) for count in setting.threads]
    return found


def measure_workload(workload: Workload, paths: list[Path], setting: Setting, runs: int) -> dict:
    found = contenders(workload, paths, setting)
    taken: dict[str, list[Run]] = {contender.name: [] for contender in found}
    hashes: set[str] = set()
    for turn in range(runs):
        for contender in found:
            if contender.once and turn:
                continue
            contender.output.parent.mkdir(parents=True, exist_ok=True)
            measure.settle(contender.output)
            measure.read(paths)
            run = measure.run(contender.command)
            if contender.extrapolates:
                all_layers = json.loads(run.output)
                run = replace(run, wall=all_layers["total_seconds"], cpu=all_layers["total_cpu_seconds"])
            taken[contender.name].append(run)
            if contender.name.startswith(OURS):
                hashes.add(measure.read([contender.output]))
            if contender.name != OURS:
                contender.output.unlink()
    measure.settle(found[0].output)
    private = measure.private_peak(found[0].command)
    ours = taken[OURS]
    rows = {}
    for contender in found:
        others = taken[contender.name]
        rows[contender.name] = {
            "extrapolated": contender.extrapolates,
            "median": numbers(measure.medians(others)),
            "ours_to_it": median(a.wall / b.wall for a, b in zip(ours, others)),
            "runs": [numbers(run) for run in others],
        }
    return {
        "workload": asdict(workload),
        "bytes_in": sum(path.stat().st_size for path in paths),
        "bytes_out": found[0].output.stat().st_size,
        "private_peak": private,
        "identical": len(hashes) == 1,
        "rows": rows,
    }


def numbers(run: Run) -> dict:
    return {"wall": round(run.wall, 4), "cpu": round(run.cpu, 4), "peak": run.peak}


def check(workload: Workload, paths: list[Path], setting: Setting, layers: int) -> list[str]:
    """Merges once more for the report, then compares a sample of layers with dense float64 arithmetic."""
    out = output(setting.folder, OURS)
    report = out.with_name("report.json")
    files = [str(path) for path in paths]
    merge = [str(setting.binary), "merge", *files, *workload.options.split()]
    measure.run([*merge, "-o", str(out), "--metadata", str(report)])
    dense = [sys.executable, str(HERE / "dense_check.py"), str(out), *files, *workload.check.split()]
    return measure.run([*dense, "--sample", str(layers), "--report", str(report)]).output.splitlines()


def megabytes(size: float) -> str:
    return f"{size / 1e6:,.1f} MB" if size < 1e8 else f"{size / 1e6:,.0f} MB"


def print_workload(result: dict) -> None:
    workload = result["workload"]
    print(f"\n{workload['name']}: {workload['options']}")
    sizes = (megabytes(result[field]) for field in ("bytes_in", "bytes_out", "private_peak"))
    print("  {} in, {} out, {} at most without mapped files".format(*sizes))
    print(f"  {'':24} {'wall':>10} {'CPU':>10} {'peak':>9}  ours is")
    for name, row in result["rows"].items():
        middle, ratio = row["median"], row["ours_to_it"]
        about = "~" if row["extrapolated"] else ""
        wall, cpu = (f"{about}{middle[field]:.2f} s" for field in ("wall", "cpu"))
        relation = f"1/{1 / ratio:.1f} of it" if ratio < 1 else f"{ratio:.2f} × it"
        print(
            f"  {name:24} {wall:>10} {cpu:>10} {middle['peak'] / 1e6:6.0f} MB"
            f"  {'' if name == OURS else relation}"
        )
    if not result["identical"]:
        print("  THE OUTPUTS DIFFER between runs or numbers of threads")
    for line in result.get("check", []):
        print(f"  {line}")


def machine(binary: Path) -> dict:
    model = ""
    if (info := Path("/proc/cpuinfo")).exists():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = lines[0].partition(":")[2].strip() if lines else ""
    return {
        "cpu": model or platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.platform(),
        "python": platform.python_version(),
        "lycomerge": measure.run([str(binary), "--version"]).output.strip(),
        "load_before": os.getloadavg(),
    }


def start_up(binary: Path, runs: int) -> float:
    return median(measure.run([str(binary), "--version"]).wall for _ in range(4 * runs))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--list", action="store_true", help="print the workloads and end")
    parser.add_argument("--only", nargs="+", default=["*"], metavar="NAME", help="names, or patterns of them")
    parser.add_argument("--runs", type=int, default=5, help="rounds (default: 5)")
    parser.add_argument("--bin", type=Path, default=ROOT / "target/release/lycomerge", help="what to time")
    parser.add_argument("--dir", type=Path, default=ROOT / "target/bench", help="for inputs and outputs")
    parser.add_argument(
        "--threads", type=int, nargs="+", default=[], metavar="N", help="time each number of threads, too"
    )
    parser.add_argument("--no-baselines", action="store_true", help="leave the torch scripts out")
    parser.add_argument(
        "--svd-layers",
        type=int,
        default=48,
        metavar="N",
        help="layers that the svd_lowrank baseline does, to be extrapolated; 0 does all (default: 48)",
    )
    parser.add_argument(
        "--full-svd-layers", type=int, default=0, metavar="N", help="also sample so many full SVDs, once"
    )
    parser.add_argument("--check", type=int, metavar="N", help="compare N layers with dense arithmetic")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    chosen = [w for w in WORKLOADS if any(fnmatch.fnmatch(w.name, name) for name in arguments.only)]
    if arguments.list:
        for workload in chosen:
            print(f"{workload.name:20} {workload.options}")
        return
    if not chosen:
        raise SystemExit("no such workload; --list shows them")
    binary = arguments.bin.resolve()
    if not binary.exists():
        raise SystemExit(f"{binary} is missing: cargo build --release")
    missing = [name for name in ("torch", "safetensors") if not importlib.util.find_spec(name)]
    if missing and not arguments.no_baselines:
        print(f"{' and '.join(missing)} can't be imported: the torch baselines are skipped")
    setting = Setting(
        binary,
        arguments.dir.resolve(),
        arguments.threads,
        not missing and not arguments.no_baselines,
        arguments.svd_layers,
        arguments.full_svd_layers,
    )
    setting.folder.mkdir(parents=True, exist_ok=True)
    about = machine(binary) | {"start_up": start_up(binary, arguments.runs)}
    print(f"{about['lycomerge']} on {about['cores']} × {about['cpu']}, {arguments.runs} rounds")
    print(f"start-up: {1000 * about['start_up']:.1f} ms")
    results = []
    for workload in chosen:
        paths = workload.base(setting.folder)
        paths += [path for inputs in workload.inputs for path in inputs.make(setting.folder)]
        result = measure_workload(workload, paths, setting, arguments.runs)
        if arguments.check and not workload.checkpoint:
            result["check"] = check(workload, paths, setting, arguments.check)
        print_workload(result)
        results.append(result)
        if arguments.json:
            text = json.dumps({"machine": about, "workloads": results}, indent=1)
            arguments.json.write_text(text + "\n", encoding="utf-8")
    if not all(result["identical"] for result in results):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
