"""What a person does on the page, done in a real browser. Who has a page to show makes tests of it: `test_page.py` the
one on its own, the WebUI's tests the one in its tab."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import unittest
from pathlib import Path
from typing import ClassVar

import lycomerge

ADAPTERS = Path(os.environ["LYCOMERGE_ADAPTERS"])
LOKR, LOHA, LORA = (f"{name}.safetensors" for name in ("invert.lokr4", "italic.loha", "italic.lora"))
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
#: How long, in milliseconds, a busy machine may take.
PATIENCE = 30_000

try:
    import gradio  # noqa: F401
    from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

    MISSING = None if BROWSER else "there is no Chromium"
except ImportError as error:
    MISSING = f"there is no {error.name}"


def adapters_in(folder: Path) -> None:
    """Trained adapters, one that is broken, one whose name is code, and two that take long to merge."""
    import numpy

    for name in (LOKR, LOHA, LORA):
        shutil.copy(ADAPTERS / name, folder)
    (folder / "broken.safetensors").write_bytes(b"no adapter")
    shutil.copy(ADAPTERS / LORA, folder / "<img src=x onerror=document.title='run'>.safetensors")
    random = numpy.random.default_rng(7)
    for name in ("large1", "large2"):
        tensors = {}
        for layer in range(24):
            module = f"lora_unet_input_blocks_{layer % 8 + 1}_1_transformer_blocks_{layer // 8}_ff_net_2"
            for suffix, shape in (("lora_down.weight", (48, 1280)), ("lora_up.weight", (1280, 48))):
                tensors[f"{module}.{suffix}"] = random.standard_normal(shape).astype("float16")
        lycomerge.Adapter.from_state_dict(tensors, {"ss_base_model_version": "sdxl_base_v1-0"}).save(
            folder / f"{name}.safetensors"
        )


class Driven(unittest.TestCase):
    """A page in a browser, and the folder that it shows."""

    address: ClassVar[str]
    folder: ClassVar[Path]
    browser: ClassVar[Browser]

    @classmethod
    def setUpClass(cls) -> None:
        temporary = tempfile.TemporaryDirectory()
        cls.addClassCleanup(temporary.cleanup)
        cls.folder = Path(temporary.name) / "adapters"
        cls.folder.mkdir()
        adapters_in(cls.folder)
        cls.address = cls.start()
        playwright = sync_playwright().start()
        cls.addClassCleanup(playwright.stop)
        cls.browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        cls.addClassCleanup(cls.browser.close)

    @classmethod
    def start(cls) -> str:
        """Starts the server; its address."""
        raise NotImplementedError

    def setUp(self) -> None:
        self.elsewhere: list[str] = []
        self.page = self.open("light", 1280)

    def tearDown(self) -> None:
        self.assertEqual(self.elsewhere, [], "the page asked other servers")

    def open(self, scheme: str, width: int) -> Page:
        context = self.browser.new_context(
            color_scheme="dark" if scheme == "dark" else "light",
            viewport={"width": width, "height": 900},
            accept_downloads=True,
        )
        self.addCleanup(context.close)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("request", lambda request: self._heard(request.url))
        page.goto(self.address)
        self.to_page(page)
        expect(page.locator("#lm-merge")).to_be_visible(timeout=PATIENCE)
        return page

    def to_page(self, page: Page) -> None:
        """Goes where the page is, in a host that has others."""

    def _heard(self, url: str) -> None:
        if not url.startswith((self.address, "data:", "blob:")):
            self.elsewhere.append(url)

    def choose(self, page: Page, *names: str) -> None:
        box = page.locator("#lm-adapters input").first
        for name in names:
            row = page.locator(".lm-name b", has_text=name.removesuffix(".safetensors"))
            box.click()
            box.fill(name)
            page.locator("#lm-adapters li, #lm-adapters [role=option]").filter(has_text=name).first.click()
            expect(row).to_be_visible(timeout=PATIENCE)
        box.press("Escape")

    def pick(self, page: Page, part: str, title: str) -> None:
        """Chooses from a menu."""
        box = page.locator(f"{part} input").first
        box.click()
        box.fill(title)
        page.locator(f"{part} li, {part} [role=option]").filter(has_text=title).first.click()

    @staticmethod
    def field(page: Page, part: str) -> Locator:
        return page.locator(f"{part} textarea, {part} input").first

    def merge(self, page: Page, name: str) -> None:
        self.field(page, "#lm-name").fill(name)
        page.locator("#lm-merge").click()

    def told(self, page: Page, text: str) -> None:
        expect(page.locator("#lm-status").first).to_contain_text(text, timeout=PATIENCE)
        page.wait_for_timeout(500)  # While the rest of an answer is on its way, gradio hears of no other click.

    def test_adapters_are_chosen_weighed_merged_and_downloaded(self) -> None:
        page = self.page
        self.choose(page, LOKR, LORA, LOHA)
        self.field(page, "#lm-weight-0").fill("0.6")
        self.field(page, "#lm-weight-2").fill("-0.4")
        self.field(page, "#lm-blocks-2").fill("OUT=0.5")
        self.field(page, "#lm-blocks-2").blur()
        # Those that stay keep what was said of them.
        box = page.locator("#lm-adapters .token, #lm-adapters [class*=token]").filter(has_text=LORA).first
        box.locator("[class*=remove]").first.click()
        expect(page.locator(".lm-name b", has_text="italic.lora")).to_be_hidden(timeout=PATIENCE)
        expect(self.field(page, "#lm-weight-1")).to_have_value("-0.4", timeout=PATIENCE)
        self.merge(page, "both")
        result = page.locator("#lm-result").first
        expect(result).to_contain_text("both.safetensors", timeout=PATIENCE)
        expect(result).to_contain_text("97 layers")
        stored = lycomerge.Adapter.open(self.folder / "both.safetensors")
        expected, report = lycomerge.Merge().add(ADAPTERS / LOKR, 0.6).add(ADAPTERS / LOHA, -0.4, "OUT=0.5").run()
        self.assertEqual(list(stored.tensors()), list(expected.tensors()))
        self.assertIn(f"{100 * report.relative_error:.2g} %", result.inner_text())
        with page.expect_download() as download:
            page.locator("#lm-download a").first.click()
        self.assertEqual(Path(download.value.path()).read_bytes(), stored.to_bytes())

    def test_a_strategy_is_chosen_with_its_parameters(self) -> None:
        page = self.page
        self.choose(page, LOKR, LOHA)
        self.pick(page, "#lm-strategy", "Model Breadcrumbs, TIES")
        gamma = page.get_by_label("Gamma")
        expect(gamma).to_be_visible(timeout=PATIENCE)
        gamma.fill("0.02")
        self.field(page, "#lm-option-rank").fill("12")
        self.merge(page, "crumbs")
        expect(page.locator("#lm-result").first).to_contain_text("crumbs.safetensors", timeout=PATIENCE)
        recipe = str(lycomerge.Adapter.open(self.folder / "crumbs.safetensors").metadata("lycomerge_recipe"))
        self.assertIn('"strategy":"breadcrumbs_ties"', recipe)
        self.assertIn('"options":{"gamma":"0.02","rank":"12"}', recipe)

    def test_the_curve_and_the_matrix_are_seen_before_the_merge(self) -> None:
        for scheme, width in (("light", 1280), ("dark", 390)):
            page = self.open(scheme, width)
            self.choose(page, LOKR, LOHA)
            page.locator("#lm-look").click()
            pictures = page.locator("#lm-pictures")
            for title in ("Size against error", "How alike the adapters are"):
                picture = pictures.locator(".lm-card", has_text=title).locator(f".lm-only-{scheme}")
                expect(picture).to_be_visible(timeout=PATIENCE)
                self.assertGreater(picture.evaluate("image => image.naturalWidth"), 100)
            self.assertEqual(pictures.locator("img:visible").count(), 2)
            self.assertGreater(pictures.locator(".lm-advice li").count(), 0)
            expect(page.locator("#lm-option-quality")).to_contain_text(re.compile(r"compact \(.*B, error .*%\)"))
            self.assertLessEqual(
                page.evaluate("document.documentElement.scrollWidth"), width, "it is wider than the screen"
            )

    def test_a_run_shows_how_far_it_is_and_is_stopped(self) -> None:
        page = self.page
        self.choose(page, "large1.safetensors", "large2.safetensors")
        self.pick(page, "#lm-strategy", "PCB-merging")
        self.pick(page, "#lm-option-format", "full")
        before = sorted(os.listdir(self.folder))
        self.merge(page, "stopped")
        expect(page.locator("#lm-status [role=progressbar]")).to_contain_text("of 24 modules", timeout=PATIENCE)
        expect(page.locator("#lm-merge")).to_be_disabled()
        page.locator("#lm-stop").click()
        self.told(page, "Stopped. Nothing was written.")
        self.assertEqual(sorted(os.listdir(self.folder)), before)
        expect(page.locator("#lm-merge")).to_be_enabled()
        self.assertEqual(page.locator("#lm-result").first.inner_text().strip(), "")

    def test_wrong_input_is_told_and_nothing_is_written(self) -> None:
        page = self.page
        before = sorted(os.listdir(self.folder))
        self.merge(page, "x")
        self.told(page, "Choose one adapter at least")
        self.choose(page, LOKR)
        for name, message in (
            ("../x", "can't be the name"),
            ("/tmp/x", "can't be the name"),
            (" ", "Give the result a name"),
            ("invert.lokr4", "invert.lokr4.safetensors exists"),
            ("none/x", "There is no folder"),
        ):
            self.merge(page, name)
            self.told(page, message)
        self.field(page, "#lm-blocks-0").fill("NOWHERE=1")
        self.merge(page, "x")
        self.told(page, "NOWHERE")
        self.field(page, "#lm-blocks-0").fill("")
        self.field(page, "#lm-option-rank").fill("many")
        self.merge(page, "x")
        self.told(page, "rank")
        self.field(page, "#lm-option-rank").fill("")
        self.choose(page, "broken.safetensors")
        expect(page.locator(".lm-fact.lm-bad")).to_be_visible(timeout=PATIENCE)
        self.merge(page, "x")
        self.told(page, "broken.safetensors")
        self.assertNotIn("Traceback", page.content())
        self.assertEqual(sorted(os.listdir(self.folder)), before)

    def test_a_file_name_is_text(self) -> None:
        self.choose(self.page, "<img src=x onerror=document.title='run'>.safetensors")
        self.merge(self.page, "plain")
        expect(self.page.locator("#lm-result").first).to_contain_text("plain.safetensors", timeout=PATIENCE)
        self.assertNotEqual(self.page.title(), "run")
