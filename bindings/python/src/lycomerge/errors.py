"""What can go wrong, an exception per status."""

from __future__ import annotations

from . import _abi


class LycomergeError(Exception):
    """A call failed. `message` says what is wrong and what to do; `file` and `layer` say where, or are None."""

    def __init__(self, message: str, file: str | None = None, layer: str | None = None) -> None:
        super().__init__(": ".join(part for part in (file, layer, message) if part))
        self.message = message
        self.file = file
        self.layer = layer


class IoError(LycomergeError, OSError):
    """The operating system refused to read or write."""


class FormatError(LycomergeError, ValueError):
    """A file is not what it claims to be."""


class UnsupportedError(LycomergeError):
    """It is sound, but asks for something that this version doesn't do."""


class MismatchError(LycomergeError, ValueError):
    """Inputs, or tensors of one layer, don't fit together."""


class NumberError(LycomergeError, ValueError):
    """A number is not finite, or overflows what the output can store."""


class OptionError(LycomergeError, ValueError):
    """The name or value of an option, or a weight, is wrong."""


class Cancelled(LycomergeError):
    """The progress callback asked to stop."""


_BY_STATUS: dict[int, type[LycomergeError]] = {
    _abi.LYCO_STATUS_IO: IoError,
    _abi.LYCO_STATUS_FORMAT: FormatError,
    _abi.LYCO_STATUS_UNSUPPORTED: UnsupportedError,
    _abi.LYCO_STATUS_MISMATCH: MismatchError,
    _abi.LYCO_STATUS_VALUE: NumberError,
    _abi.LYCO_STATUS_OPTION: OptionError,
    _abi.LYCO_STATUS_CANCELLED: Cancelled,
}


def error_for(status: int, message: str, file: str | None, layer: str | None) -> LycomergeError:
    """The exception for a status."""
    return _BY_STATUS.get(status, LycomergeError)(message, file, layer)
