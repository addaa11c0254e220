"""Work that goes on while the page stays alive: how far it is, and a way to stop it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from ..progress import Listener

Result = TypeVar("Result")


class Stopped(Exception):
    """The user stopped it."""


@dataclass(frozen=True)
class State:
    """How far a run is: what it does, and how many modules of how many are through that."""

    stage: str
    done: int
    total: int


class Run(Generic[Result]):
    """Work in a thread of its own. What it is given to call tells how far it is, and ends it when it is to stop."""

    def __init__(self, work: Callable[[Listener], Result]) -> None:
        self.state = State("reading", 0, 0)
        self.begun = time.monotonic()
        self._stop = threading.Event()
        self._result: Result | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, args=[work], daemon=True)
        self._thread.start()

    def _work(self, work: Callable[[Listener], Result]) -> None:
        try:
            self._result = work(self._hear)
        except BaseException as error:  # It is the page's to tell.
            self._error = error

    def _hear(self, stage: str, done: int, total: int) -> None:
        if self._stop.is_set():
            raise Stopped
        self.state = State(stage, done, total)

    @property
    def seconds(self) -> float:
        """How long it has been at work."""
        return time.monotonic() - self.begun

    @property
    def stopping(self) -> bool:
        """Whether it was asked to stop."""
        return self._stop.is_set()

    def stop(self) -> None:
        """Ends it soon; nothing half-written stays."""
        self._stop.set()

    def wait(self, seconds: float) -> bool:
        """Whether it ends within this time."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def result(self) -> Result:
        """What it came to; raises what it raised."""
        if self._error is not None:
            raise self._error
        assert self._result is not None
        return self._result
