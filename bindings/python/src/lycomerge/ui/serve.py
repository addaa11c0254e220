"""The page on its own: served on this machine, for this machine."""

from __future__ import annotations

import os
import re
import socket
import threading
import webbrowser
from pathlib import Path
from typing import Any

# Before gradio is there, which asks for it once.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio  # noqa: E402
import uvicorn  # noqa: E402
from fastapi import FastAPI  # noqa: E402

from .host import Host  # noqa: E402
from .page import page  # noqa: E402

ADDRESS = "127.0.0.1"

#: What the page may load and ask: what this server has.
_POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; connect-src 'self' ws: data: blob:; "
    "frame-ancestors 'self'; form-action 'self'"
)

#: What gradio's page has from elsewhere: connections made beforehand, fonts, scripts.
_FOREIGN = re.compile(rb"<link\b[^>]*\bhref=\"https?://[^>]*>|<script\b[^>]*\bsrc=\"https?://[^>]*>\s*</script>")


class Guard:
    """Between the server and gradio: refuses what other sites ask in a visitor's name, and keeps the page from asking
    other sites anything."""

    def __init__(self, app: Any, own: set[str]) -> None:
        self._app = app
        self._own = own

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serves a request, as ASGI has it."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
        origin = headers.get("origin")
        foreign = origin is not None and origin.partition("://")[2] not in self._own
        if foreign or headers.get("host") not in self._own:
            await _refuse(scope, send)
            return
        await self._app(scope, receive, _Answer(send))


async def _refuse(scope: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"this page serves its own machine only\n"})


class _Answer:
    """What gradio sends, with the policy; pages wait until they are whole, and lose what is from elsewhere."""

    def __init__(self, send: Any) -> None:
        self._send = send
        self._start: Any = None
        self._body = b""

    async def __call__(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), (b"content-security-policy", _POLICY.encode())]
            if any(
                key.lower() == b"content-type" and value.startswith(b"text/html") for key, value in message["headers"]
            ):
                self._start = message
                return
        if self._start is None or message["type"] != "http.response.body":
            await self._send(message)
            return
        self._body += message.get("body", b"")
        if message.get("more_body"):
            return
        body = _FOREIGN.sub(b"", self._body)
        kept = [(key, value) for key, value in self._start["headers"] if key.lower() != b"content-length"]
        await self._send({**self._start, "headers": [*kept, (b"content-length", str(len(body)).encode())]})
        await self._send({"type": "http.response.body", "body": body})


def application(folder: Path, port: int) -> Guard:
    """The page for a folder, as it answers under this port."""
    version = int(gradio.__version__.partition(".")[0])
    theme = gradio.themes.Default(
        primary_hue="teal", secondary_hue="teal", neutral_hue="slate",
        font=["ui-sans-serif", "system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"],
    ).set(
        button_primary_background_fill="*primary_700", button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700", button_primary_background_fill_hover_dark="*primary_600",
        button_primary_text_color="white", button_primary_text_color_dark="white",
    )  # fmt: skip
    # From version 6 on, a theme is the server's; before, the page's.
    own, served = ({}, {"theme": theme}) if version >= 6 else ({"theme": theme}, {})
    with gradio.Blocks(title="lycomerge", analytics_enabled=False, **own) as blocks:
        gradio.HTML("<style>footer { display: none !important }</style>")
        page(Host.of_folder(folder))
    blocks.queue()
    if version >= 4:
        served["allowed_paths"] = [str(folder)]
    app = gradio.mount_gradio_app(FastAPI(), blocks, path="/", **served)
    return Guard(app, {f"{name}:{port}" for name in (ADDRESS, "localhost")})


def serve(folder: Path, port: int, browse: bool) -> None:
    """Serves the page until it is stopped."""
    with socket.create_server((ADDRESS, port)) as listening:
        port = listening.getsockname()[1]
        address = f"http://{ADDRESS}:{port}"
        server = uvicorn.Server(uvicorn.Config(application(folder, port), log_level="warning"))
        print(f"The adapters of {folder} are at {address} (Ctrl-C ends it)", flush=True)
        if browse:
            threading.Thread(target=webbrowser.open, args=[address], daemon=True).start()
        server.run(sockets=[listening])
