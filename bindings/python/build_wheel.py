"""Builds the shared library and the command with cargo and puts both into the wheel: the library beside the package's
modules, the command among the environment's executables.

LYCOMERGE_GLIBC=2.17 builds for systems from that version of glibc on, with zig as the linker; without it the wheel is
for systems that have this machine's. Either way its tag says what the binaries need.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from packaging.tags import platform_tags

CRATE = Path(__file__).resolve().parents[2]
GLIBC = os.environ.get("LYCOMERGE_GLIBC")


def cargo_build() -> tuple[Path, Path]:
    """The shared library and the command."""
    command = ["cargo", "build", "--release", "--locked", "--message-format", "json-render-diagnostics"]
    if GLIBC:
        command[1:2] = ["zigbuild", "--target", f"{os.uname().machine}-unknown-linux-gnu.{GLIBC}"]
    done = subprocess.run(command, cwd=CRATE, stdout=subprocess.PIPE, text=True, check=True)
    messages = [json.loads(line) for line in done.stdout.splitlines()]
    artifacts = [m for m in messages if m["reason"] == "compiler-artifact" and m["target"]["name"] == "lycomerge"]
    executable = next(Path(artifact["executable"]) for artifact in artifacts if artifact["executable"])
    files = [Path(file) for artifact in artifacts for file in artifact["filenames"]]
    return next(file for file in files if file.suffix in (".so", ".dylib", ".dll")), executable


def stripped(binary: Path, folder: str) -> Path:
    """A copy without line tables, which are four fifths of it; the binary itself where there is no tool for that."""
    if not (strip := shutil.which("strip")):
        return binary
    copy = Path(folder, binary.name)
    subprocess.run([strip, "-S", "-o", copy, binary], check=True)
    return copy


def platform(*binaries: Path) -> str:
    """The tag of the systems that the binaries run on."""
    tags = list(platform_tags())
    manylinux = next((tag for tag in tags if tag.startswith("manylinux_")), None)
    if manylinux is None:
        return tags[0]
    needed = (int(minor) for file in binaries for minor in re.findall(rb"\0GLIBC_2\.(\d+)", file.read_bytes()))
    return re.sub(r"_2_\d+", f"_2_{max(17, *needed)}", manylinux)


class BuildHook(BuildHookInterface[Any]):
    def dependencies(self) -> list[str]:
        return ["cargo-zigbuild==0.24.1", "ziglang==0.17.1"] if GLIBC else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        self._folder = tempfile.TemporaryDirectory()
        library, command = (stripped(binary, self._folder.name) for binary in cargo_build())
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform(library, command)}"
        build_data["force_include"][str(library)] = f"lycomerge/{library.name}"
        build_data["shared_scripts"][str(command)] = command.name

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        self._folder.cleanup()
