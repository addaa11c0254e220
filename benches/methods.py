#!/usr/bin/env python3
"""Prints a table of all merge methods on trained adapters of three families, as Markdown.

    methods.py [--runs 3] [--weights W W W] [--only METHOD...] [INPUT...] [-- OPTION...]

What stands behind `--` goes to `lycomerge merge`, such as `--set beta=0.3` or `--format lora --rank 8`. The methods are
those that the command itself names. Columns, over the whole file:

time      the command from start to end, median of the runs
size      of the output
norm      ‖merge‖ / ‖Σ wᵢ Δᵢ‖: below 1 it does less than the weighted sum
cosine    between the merge and the weighted sum: 1 differs in strength only
error     of the stored output against the merge itself, as the report says it

Norm and cosine are of the stored output, written out densely in float64 (adapters.py). A method that takes fewer models
is given the first ones, and compared with the sum of these.
"""

import argparse
import json
import math
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import numpy as np

import measure
from adapters import Adapter

ROOT = Path(__file__).parent.parent
REAL = ROOT / "tests" / "data" / "real" / "adapters"
STYLES = ("italic.lora", "invert.loha", "dots.lokr4")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="*", metavar="INPUT", type=Path)
    parser.add_argument("--weights", nargs="+", type=float, help="one per input; 1 each by default")
    parser.add_argument("--only", nargs="+", metavar="METHOD")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--lycomerge", type=Path, default=ROOT / "target" / "release" / "lycomerge")
    own = sys.argv[1 : sys.argv.index("--")] if "--" in sys.argv else sys.argv[1:]
    arguments = parser.parse_args(own)
    arguments.options = sys.argv[len(own) + 2 :]
    arguments.inputs = arguments.inputs or [REAL / f"{style}.safetensors" for style in STYLES]
    arguments.weights = arguments.weights or [1.0] * len(arguments.inputs)
    if len(arguments.weights) != len(arguments.inputs):
        parser.error(f"{len(arguments.weights)} weights for {len(arguments.inputs)} inputs")
    return arguments


def methods(command: Path, some: Path) -> list[str]:
    """What the command says when it is asked for a method that there isn't."""
    wrong = [command, "merge", some, some, "--strategy", "?", "-o", "unused.safetensors"]
    said = subprocess.run(wrong, capture_output=True, text=True).stderr
    match = re.search(r"use one of ([a-z0-9_, ]+)", said)
    if not match:
        raise SystemExit(f"{command} names no methods:\n{said}")
    return match[1].strip().split(", ")


class Sum:
    """The weighted sum of inputs, densely."""

    def __init__(self, inputs: list[Adapter]) -> None:
        self.deltas: dict[tuple[str, str], np.ndarray] = {}
        for adapter in inputs:
            for name in adapter.parameters():
                part = adapter.delta(*name)
                self.deltas[name] = self.deltas[name] + part if name in self.deltas else part

    def compare(self, merged: Adapter) -> tuple[float, float]:
        """Norm and cosine of a merge."""
        along = square = own = 0.0
        names = set(merged.parameters())
        for name, delta in self.deltas.items():
            own += np.vdot(delta, delta)
            if name in names:
                made = merged.delta(*name)
                along += np.vdot(made, delta)
                square += np.vdot(made, made)
        norm = math.sqrt(square / own)
        return norm, along / (norm * own) if norm else 0.0


def percent(share: float) -> str:
    return f"{share:.2%}" if share >= 5e-5 else f"{100 * share:.0e} %"


def row(arguments: argparse.Namespace, method: str, sums: dict[int, Sum], out: Path) -> str:
    command, report = arguments.lycomerge, out.with_suffix(".json")
    said = ""
    for count in range(len(arguments.inputs), 0, -1):
        words = [command, "merge", *arguments.inputs[:count], "--strategy", method, *arguments.options]
        words += ["--weights", *(str(weight) for weight in arguments.weights[:count])]
        words += ["--quiet", "--yes", "--metadata", report, "-o", out]
        # Warnings are not failures, and a method that takes other numbers of models fails at once.
        tried = subprocess.run([str(word) for word in words], capture_output=True, text=True)
        if tried.returncode == 0:
            break
        said = said or tried.stderr.strip()
    else:
        return f"| `{method}` | {said.replace('|', ' ')} | | | | |"
    wall = median(measure.run([str(word) for word in words]).wall for _ in range(arguments.runs))
    norm, cosine = sums[count].compare(Adapter(str(out)))
    name = f"`{method}`" + ("" if count == len(arguments.inputs) else f" ({count} models)")
    size, error = out.stat().st_size / 1e6, json.loads(report.read_text())["error"]
    return f"| {name} | {wall:.2f} s | {size:.1f} MB | {norm:.3f} | {cosine:.3f} | {percent(error)} |"


def main() -> None:
    arguments = parse_arguments()
    known = methods(arguments.lycomerge, arguments.inputs[0])
    if wrong := set(arguments.only or ()) - set(known):
        raise SystemExit(f"no method {', '.join(sorted(wrong))}; there are {', '.join(known)}")
    read = [Adapter(str(path), weight) for path, weight in zip(arguments.inputs, arguments.weights)]
    sums = {count: Sum(read[:count]) for count in range(1, len(read) + 1)}
    print("| method | time | size | norm | cosine | error |\n| --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for method in arguments.only or known:
            print(row(arguments, method, sums, Path(folder) / "out.safetensors"), flush=True)


if __name__ == "__main__":
    main()
