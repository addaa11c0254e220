"""Runs one process at a time and says what it took: wall, CPU and peak memory, its start included.

Nothing big may be imported here: until a child has called exec, it is its parent's size, and Linux
counts that in the child's peak.
"""

import hashlib
import os
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

BLOCK = 1 << 20
# Seconds between two looks at a process's memory.
SAMPLED = 0.002


@dataclass(frozen=True)
class Run:
    wall: float  # seconds
    cpu: float  # seconds, user and system
    peak: int  # bytes resident at most, pages of mapped files among them
    output: str  # what it printed


def run(command: list[str]) -> Run:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0), err.seek(0)
        if process.returncode:
            message = err.read().decode(errors="replace")
            raise SystemExit(f"{' '.join(command)}\nfailed with {process.returncode}:\n{message}")
        # Linux counts in KiB.
        return Run(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, out.read().decode())


def private_peak(command: list[str]) -> int:
    """The most memory of its own, without pages of mapped files, in bytes: sampled, so not in a timed run."""
    most = 0
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while process.poll() is None:
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                most = max(most, int(line.split()[1]) * 1024)
        time.sleep(SAMPLED)
    return most


def read(paths: list[Path]) -> str:
    """The SHA-256 of the files' bytes, which are in the page cache afterwards."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            while block := file.read(BLOCK):
                digest.update(block)
    return digest.hexdigest()


def settle(written: Path) -> None:
    """Leaves nothing of an earlier run for the next one to pay for: no old file, no dirty pages."""
    written.unlink(missing_ok=True)
    os.sync()


def medians(runs: list[Run]) -> Run:
    return Run(
        median(r.wall for r in runs), median(r.cpu for r in runs), int(median(r.peak for r in runs)), ""
    )
