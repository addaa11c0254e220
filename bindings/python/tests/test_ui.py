"""The page's own logic, which needs neither gradio nor a browser: which files, which merge, which words."""

import contextlib
import io
import os
import re
import subprocess
import sys
import tempfile
import threading
import unittest
from html.parser import HTMLParser
from pathlib import Path

import lycomerge
from lycomerge.progress import Listener
from lycomerge.ui import __main__, show
from lycomerge.ui.host import Host, WrongInput, chosen, files_in, result_path
from lycomerge.ui.request import FIRST, Request, Row, all_strategies, parameters, rows_for, storing, words_of
from lycomerge.ui.run import Run, Stopped

ADAPTERS = Path(os.environ["LYCOMERGE_ADAPTERS"])
LOKR, LOHA = "invert.lokr4.safetensors", "italic.loha.safetensors"


class Temporary(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)


class Files(Temporary):
    def test_adapters_are_listed_by_their_place_in_the_folder(self) -> None:
        (self.folder / "styles").mkdir()
        (self.folder / ".hidden").mkdir()
        for name in (
            "b.safetensors",
            "A.pt",
            "styles/c.SAFETENSORS",
            "notes.txt",
            ".hidden/d.safetensors",
            ".e.safetensors",
        ):
            (self.folder / name).touch()
        (self.folder / "styles" / "again").symlink_to(self.folder)
        self.assertEqual(list(files_in(self.folder)), ["A.pt", "b.safetensors", "styles/c.SAFETENSORS"])
        self.assertEqual(files_in(self.folder / "nowhere"), {})

    def test_only_what_is_listed_can_be_chosen(self) -> None:
        host = Host.of_folder(ADAPTERS)
        self.assertEqual(chosen(host.adapters(), LOKR), ADAPTERS / LOKR)
        for name in ("../base.safetensors", str(ADAPTERS / LOKR), "", "."):
            with self.assertRaises(WrongInput):
                chosen(host.adapters(), name)

    def test_a_result_stays_in_the_folder(self) -> None:
        (self.folder / "styles").mkdir()
        (self.folder / "there.safetensors").touch()
        for typed, name in (
            ("x", "x.safetensors"), (" x.safetensors ", "x.safetensors"), ("a.b", "a.b.safetensors"),
            ("styles/x", "styles/x.safetensors"), ("styles\\x", "styles/x.safetensors"), ("水墨", "水墨.safetensors"),
        ):  # fmt: skip
            self.assertEqual(result_path(self.folder, typed, False), self.folder / name)
        outside = (
            "../x",
            "/x",
            "\\x",
            "styles/../../x",
            "C:x",
            "C:\\x",
            "x/",
            ".",
            "..",
            "a/ /b",
            "a\0b",
            "a\nb",
            "no/x",
            "",
            " ",
            ".safetensors",
        )
        for typed in outside:
            with self.assertRaises(WrongInput, msg=typed):
                result_path(self.folder, typed, True)
        with self.assertRaisesRegex(WrongInput, "exists"):
            result_path(self.folder, "there", False)
        self.assertEqual(result_path(self.folder, "there", True), self.folder / "there.safetensors")


class Forms(Temporary):
    def request(self, *rows: Row, strategy: str = "Weighted sum", **given: str) -> Request:
        both: list[lycomerge.Parameter | lycomerge.Option] = [*all_strategies()[strategy].parameters, *storing()]
        items = {item.name.replace("-", "_"): item for item in both}
        return Request(rows, None, all_strategies()[strategy], {items[name]: text for name, text in given.items()})

    def test_every_option_and_parameter_of_the_library_has_one_place(self) -> None:
        names = {option.name for option in storing()} | {parameter.name for parameter in parameters()}
        every = {option.name for option in lycomerge.options()} | {
            p.name for s in lycomerge.strategies() for p in s.parameters
        }
        self.assertEqual(
            {name.replace("-", "_") for name in names}, {name.replace("-", "_") for name in every - {"strategy"}}
        )
        self.assertEqual([option.name for option in storing()[: len(FIRST)]], list(FIRST))
        self.assertEqual(len(all_strategies()), len(lycomerge.strategies()))
        for parameter in parameters():
            if words := words_of(parameter):
                self.assertIn(parameter.default, words)

    def test_every_label_of_a_menu_stands_for_a_value_that_the_library_takes(self) -> None:
        for option in storing():
            for label, value in show.choices(option, {}) if option.choices or option.value is None else ():
                self.assertEqual(value == "", "default" in label)
                lycomerge.Merge(**{option.name: value or None})

    def test_what_stands_at_its_default_is_not_set(self) -> None:
        request = self.request(
            strategy="TIES", density=" 0.3 ", normalize="true", format="lora", rank="", dtype="float16"
        )
        self.assertEqual(request.settings(), {"strategy": "ties", "density": "0.3", "format": "lora"})

    def test_parameters_of_another_strategy_count_for_nothing(self) -> None:
        density = next(parameter for parameter in parameters() if parameter.name == "density")
        request = Request([], None, all_strategies()["Weighted sum"], {density: "7"})
        self.assertEqual(request.settings(), {"strategy": "weighted_sum"})

    def test_a_request_is_the_merge_that_the_library_makes_of_it(self) -> None:
        host = Host.of_folder(ADAPTERS)
        request = self.request(Row(LOKR, 0.6), Row(LOHA, -0.4, " OUT=0.5 "), strategy="TIES", density="0.4", rank="8")
        made, _ = request.merge(host).run()
        expected = (
            lycomerge.Merge(strategy="ties", density=0.4, rank=8)
            .add(ADAPTERS / LOKR, 0.6)
            .add(ADAPTERS / LOHA, -0.4, "OUT=0.5")
        )
        self.assertEqual(list(made.tensors()), list(expected.run()[0].tensors()))

    def test_what_cannot_be_merged_is_told(self) -> None:
        host = Host.of_folder(ADAPTERS)
        for request, message in (
            (self.request(), "Choose one"),
            (self.request(Row("../x")), "not in the folder"),
            (self.request(Row(LOKR, None)), "weight"),
            (self.request(Row(LOKR, float("nan"))), "weight"),
            (self.request(Row(LOKR), rank="many"), "rank"),
            (self.request(Row(LOKR, 1, "NOWHERE=1")), "NOWHERE"),
        ):
            with self.assertRaisesRegex(ValueError, message):
                request.merge(host).run()

    def test_an_adapter_keeps_its_weight_while_others_come_and_go(self) -> None:
        before = [Row("a", 0.5, "te=0"), Row("b", 2)]
        self.assertEqual(rows_for(["b", "c", "a"], before), [before[1], Row("c"), before[0]])


class Runs(unittest.TestCase):
    def test_a_run_tells_how_far_it_is_and_what_it_came_to(self) -> None:
        go = threading.Event()

        def work(heard: Listener) -> int:
            heard("merging", 3, 7)
            go.wait()
            return 5

        run = Run(work)
        while not run.state.total:
            self.assertFalse(run.wait(0.01))
        self.assertIn('aria-valuenow="3"', show.progress(run))
        self.assertIn("3 of 7 modules", show.progress(run))
        go.set()
        self.assertTrue(run.wait(10))
        self.assertEqual(run.result(), 5)

    def test_a_run_that_is_stopped_leaves_nothing(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            begun, going = threading.Event(), threading.Event()

            def work(heard: Listener) -> lycomerge.Report:
                def hear(stage: str, done: int, total: int) -> None:
                    begun.set()
                    going.wait()
                    heard(stage, done, total)

                return lycomerge.Merge().add(ADAPTERS / LOKR).run_to(Path(folder, "x.safetensors"), hear)

            run = Run(work)
            begun.wait()
            run.stop()
            going.set()
            self.assertTrue(run.wait(60))
            with self.assertRaises(Stopped):
                run.result()
            self.assertEqual(os.listdir(folder), [])

    def test_what_a_run_raises_is_the_caller_s(self) -> None:
        def work(heard: Listener) -> int:
            raise WrongInput("no")

        run = Run(work)
        run.wait(10)
        with self.assertRaises(WrongInput):
            run.result()


class Balanced(HTMLParser):
    """Whether every tag is closed in its turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: object) -> None:
        if tag != "img":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


class Words(Temporary):
    def whole(self, html: str) -> str:
        found = Balanced(html)
        self.assertEqual((found.open, found.wrong), ([], []), html[:400])
        return re.sub(r"<[^>]*>", " ", html)

    def test_sizes_and_shares_are_as_people_say_them(self) -> None:
        sizes = [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (999_600, "1.0 MB"),
            (3_700_000, "3.7 MB"),
            (123_456_789, "123 MB"),
        ]
        self.assertEqual([show.size(count) for count, _ in sizes], [text for _, text in sizes])
        shares = [
            (0, "0 %"),
            (0.0076, "0.76 %"),
            (0.15, "15 %"),
            (1, "100 %"),
            (0.0996, "10 %"),
            (1.5, "150 %"),
            (2.3e-7, "2.3e-05 %"),
        ]
        self.assertEqual([show.percent(share) for share, _ in shares], [text for _, text in shares])

    def test_names_and_messages_are_text(self) -> None:
        evil = "<script>alert(1)</script>"
        for html in (
            show.note(evil),
            show.failure(WrongInput(evil)),
            show.adapter(evil, None),
            show.heading(1, evil, evil),
        ):
            self.assertNotIn("<script", html)
            self.assertIn("alert(1)", self.whole(html))

    def test_an_adapter_says_what_it_is_or_what_is_wrong_with_it(self) -> None:
        self.assertIn("LoKr · 209 kB · rank 8 · digits16_unet", self.whole(show.adapter(LOKR, ADAPTERS / LOKR)))
        broken = self.folder / "broken.safetensors"
        broken.write_bytes(b"nothing")
        self.assertIn("lm-bad", show.adapter("broken", broken))
        self.assertIn("lm-bad", show.adapter("gone", self.folder / "gone.safetensors"))

    def test_a_plan_and_a_comparison_show_their_figures_and_pictures(self) -> None:
        merge = lycomerge.Merge().add(ADAPTERS / LOKR).add(ADAPTERS / LOHA)
        plan, comparison = merge.plan(), merge.compare()
        shown = show.plan(plan)
        self.assertEqual(shown.count("data:image/svg+xml;base64,"), 2)
        self.assertIn("--format lora", self.whole(shown))
        self.assertEqual(set(show.qualities(plan)), {"exact", "good", "compact"})
        self.assertEqual(show.comparison(comparison).count("<li>"), len(comparison.data["advice"]))
        self.whole(show.comparison(comparison))

    def test_a_certificate_has_every_layer_the_least_exact_first(self) -> None:
        report = lycomerge.Merge().add(ADAPTERS / LOKR).add(ADAPTERS / LOHA).run_to(self.folder / "x.safetensors")
        shown = show.certificate(report, "x.safetensors", 1.25)
        said = self.whole(shown)
        self.assertEqual(shown.count("<tr>"), 1 + len(report.layers))
        self.assertIn(show.percent(report.relative_error), said)
        worst = max(report.layers, key=lambda layer: layer.relative_error)
        self.assertIn(worst.name, shown.split("<tr>")[2])


class Command(Temporary):
    def run_main(self, *arguments: str) -> tuple[int, str]:
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            return __main__.main(arguments), said.getvalue()

    def test_a_folder_that_is_not_there_is_told(self) -> None:
        code, said = self.run_main("--folder", str(self.folder / "nowhere"))
        self.assertEqual((code, said), (1, f"Error: there is no folder {self.folder / 'nowhere'}\n"))

    def test_without_gradio_it_says_how_to_get_it(self) -> None:
        without = "import sys; sys.modules['gradio'] = None; from lycomerge.ui.__main__ import main; sys.exit(main([]))"
        done = subprocess.run([sys.executable, "-c", without], capture_output=True, text=True)
        self.assertEqual(
            (done.returncode, done.stderr),
            (1, "Error: the page needs gradio; install it: pip install 'lycomerge[ui]'\n"),
        )


if __name__ == "__main__":
    unittest.main()
