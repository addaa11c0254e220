"""Writes src/lycomerge/_abi.py, the ctypes declarations, from include/lycomerge.h. With --check, writes nothing and
fails if the committed file is another."""

from __future__ import annotations

import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
HEADER = HERE.parents[1] / "include" / "lycomerge.h"
OUTPUT = HERE / "src" / "lycomerge" / "_abi.py"

NUMBERS = {
    "uint8_t": "c_uint8",
    "uint32_t": "c_uint32",
    "uint64_t": "c_uint64",
    "size_t": "c_size_t",
    "double": "c_double",
    "int": "c_int",
}


def code(header: str) -> str:
    """The declarations for a C compiler: no comments, no preprocessor."""
    header = re.sub(r"/\*.*?\*/|//[^\n]*", "", header, flags=re.S)
    return re.sub(r"^#.*$", "", header, flags=re.M)


def ctype(declaration: str, structs: set[str], callbacks: set[str], enums: set[str]) -> str:
    """The ctypes spelling of a type such as `const lyco_adapter *`."""
    stars = declaration.count("*")
    name = re.sub(r"\bconst\b|\bstruct\b|\*", " ", declaration).split()[0]
    if name == "void":
        return "c_void_p" if stars else "None"
    if name == "char":
        stars, base = stars - 1, "c_char_p"
    elif name in callbacks:
        base = name
    elif name in enums:
        base = "c_uint32"
    elif name in structs or name in NUMBERS:
        base = NUMBERS.get(name, name)
    else:
        stars, base = stars - 1, "c_void_p"  # an opaque handle
    return "POINTER(" * stars + base + ")" * stars


def split(field: str) -> tuple[str, str]:
    """`const char *name` as its type and its name."""
    match = re.fullmatch(r"(.*?[\s*])(\w+)", " ".join(field.split()))
    assert match, field
    return match[1], match[2]


def arguments(text: str) -> list[tuple[str, str]]:
    return [] if text.strip() == "void" else [split(part) for part in text.split(",")]


def generate(header: str) -> str:
    text = code(header)
    enums = re.findall(r"enum (lyco_\w+)[^{;]*\{([^}]*)\}", text)
    structs = re.findall(r"typedef struct \{([^}]*)\} (lyco_\w+);", text)
    callbacks = re.findall(r"typedef (\w+) \(\*(lyco_\w+)\)\(([^)]*)\);", text)
    functions = re.findall(r"^([\w ]+?[ *]+)(lyco_\w+)\(([^)]*)\);", text, flags=re.M)
    names = {name for _, name in structs}, {name for _, name, _ in callbacks}, {name for name, _ in enums}
    abi = re.search(r"#define LYCO_ABI_VERSION (\d+)", header)
    assert abi and enums and structs and callbacks and functions

    lines = [
        '"""What include/lycomerge.h declares, for ctypes. make_abi.py writes this file."""',
        "",
        "from ctypes import (",
        "    CDLL,",
        "    CFUNCTYPE,",
        "    POINTER,",
        "    Structure,",
        *(f"    {name}," for name in ["c_char_p", *sorted(NUMBERS.values()), "c_void_p"]),
        ")",
        "",
        f"ABI_VERSION = {abi[1]}",
    ]
    for name, body in enums:
        lines.append("")
        for value in re.findall(r"(LYCO_\w+) = (\d+)", body):
            lines.append("{} = {}".format(*value))
    for body, name in structs:
        lines += ["", "", f"class {name}(Structure):", "    _fields_ = ["]
        for declaration in filter(str.strip, body.split(";")):
            kind, field = split(declaration)
            lines.append(f'        ("{field}", {ctype(kind, *names)}),')
        lines.append("    ]")
    for result, name, body in callbacks:
        spelled = [ctype(kind, *names) for kind, _ in arguments(body)]
        lines += ["", f"{name} = CFUNCTYPE({', '.join([ctype(result, *names), *spelled])})"]
    lines += ["", "", "def declare(library: CDLL) -> None:", '    """Gives every function its types."""']
    for result, name, body in functions:
        types = ", ".join(ctype(kind, *names) for kind, _ in arguments(body))
        lines.append(f"    library.{name}.argtypes = [{types}]")
        lines.append(f"    library.{name}.restype = {ctype(result, *names)}")
    return "\n".join(lines) + "\n"


def main() -> None:
    made = generate(HEADER.read_text())
    if sys.argv[1:] == ["--check"]:
        if OUTPUT.read_text() != made:
            sys.exit(f"{OUTPUT} is not what make_abi.py makes of {HEADER}: run it and commit the result")
    elif sys.argv[1:]:
        sys.exit("usage: make_abi.py [--check]")
    else:
        OUTPUT.write_text(made)


if __name__ == "__main__":
    main()
