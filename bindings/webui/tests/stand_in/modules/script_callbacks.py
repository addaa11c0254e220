"""Who asked to be asked for tabs."""

from collections.abc import Callable
from typing import Any

tabs: list[Callable[[], list[tuple[Any, str, str]]]] = []


def on_ui_tabs(callback: Callable[[], list[tuple[Any, str, str]]]) -> None:
    """As the WebUI's."""
    tabs.append(callback)
