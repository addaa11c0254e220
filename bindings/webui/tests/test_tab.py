"""The tab in a stand-in of the WebUI, in a real browser, with whichever gradio there is: needs playwright (from PyPI) and
a Chromium on the path. The scenario is that of the page on its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import unittest
from pathlib import Path
from urllib.parse import urlparse

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parents[1] / "python" / "tests"))

from driven import ADAPTERS, LORA, MISSING, Driven  # noqa: E402

try:
    from playwright.sync_api import Page, expect
except ImportError:
    pass  # MISSING says so

import lycomerge  # noqa: E402

BASE = ADAPTERS.parent / "base.safetensors"
#: What gradio's own page asks elsewhere for, which a tab can't help.
OF_GRADIO = ("fonts.googleapis.com", "fonts.gstatic.com", "cdnjs.cloudflare.com")


@unittest.skipIf(MISSING, f"SKIPPED, the tab was not driven: {MISSING}")
class Tab(Driven):
    @classmethod
    def start(cls) -> str:
        (cls.folder.parent / "LyCORIS").mkdir()
        dora = ADAPTERS / "italic.doralora.safetensors"
        (cls.folder.parent / "LyCORIS" / dora.name).symlink_to(dora)
        settings = {"STAND_IN_LORAS": str(cls.folder), "STAND_IN_BASE": str(BASE)}
        command = [
            sys.executable,
            str(HERE / "stand_in" / "webui.py"),
            str(HERE.parent / "scripts" / "lycomerge_tab.py"),
        ]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **settings})
        cls.addClassCleanup(server.wait)
        cls.addClassCleanup(server.terminate)
        assert server.stdout
        cls.addClassCleanup(server.stdout.close)
        return next(line for line in server.stdout if line.startswith("at ")).split()[1].rstrip("/")

    def to_page(self, page: Page) -> None:
        # gradio 3 gives its tabs no role.
        page.locator("button", has_text="Merge adapters").first.click()

    def tearDown(self) -> None:
        self.elsewhere = [url for url in self.elsewhere if urlparse(url).hostname not in OF_GRADIO]
        super().tearDown()

    def test_the_webui_lists_a_result_at_once_and_knows_its_model(self) -> None:
        self.choose(self.page, "large1.safetensors")
        self.merge(self.page, "fresh")
        expect(self.page.locator("#lm-result").first).to_contain_text("fresh.safetensors", timeout=60_000)
        listed = (self.folder.parent / "refreshed.lora").read_text(encoding="utf-8")
        self.assertIn("fresh.safetensors", listed.splitlines())
        version = lycomerge.Adapter.open(self.folder / "fresh.safetensors").metadata("ss_base_model_version")
        self.assertEqual(version, "sdxl_base_v1-0")

    def test_an_adapter_of_the_lycoris_folder_takes_its_base_from_the_checkpoints(self) -> None:
        page = self.page
        self.choose(page, "italic.doralora.safetensors", LORA)
        page.get_by_text("Base model", exact=True).click()
        self.pick(page, "#lm-base", BASE.name)
        self.merge(page, "based")
        expect(page.locator("#lm-result").first).to_contain_text("based.safetensors", timeout=60_000)
        recipe = json.loads(str(lycomerge.Adapter.open(self.folder / "based.safetensors").metadata("lycomerge_recipe")))
        self.assertEqual([each.get("base") for each in recipe["inputs"]], [BASE.name, None])


# It is the scenario, not a test of its own.
del Driven

if __name__ == "__main__":
    unittest.main()
