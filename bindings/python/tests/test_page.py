"""The page on its own, in a real browser: needs gradio, playwright (both from PyPI) and a Chromium on the path."""

import subprocess
import sys
import unittest
import urllib.error
import urllib.request

from driven import MISSING, Driven


@unittest.skipIf(MISSING, f"SKIPPED, the page was not driven: {MISSING}")
class Page(Driven):
    @classmethod
    def start(cls) -> str:
        command = [sys.executable, "-m", "lycomerge.ui", "--folder", str(cls.folder), "--port", "0", "--no-browser"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        cls.addClassCleanup(server.wait)
        cls.addClassCleanup(server.terminate)
        assert server.stdout
        cls.addClassCleanup(server.stdout.close)
        said = server.stdout.readline()
        return said.split(" are at ")[1].split()[0]

    def test_other_sites_are_refused(self) -> None:
        host = self.address.removeprefix("http://")
        for headers in ({"Origin": "http://elsewhere.example"}, {"Host": "elsewhere.example"}, {"Origin": "null"}):
            with self.assertRaises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(urllib.request.Request(self.address, headers=headers))
            self.assertEqual(refused.exception.code, 403)
            refused.exception.close()
        with urllib.request.urlopen(
            urllib.request.Request(self.address, headers={"Origin": f"http://{host}"})
        ) as answer:
            page = answer.read().decode()
        for foreign in ('rel="preconnect"', 'src="https://', "fonts.googleapis"):
            self.assertNotIn(foreign, page)

    def test_files_outside_the_folder_are_not_served(self) -> None:
        secret = self.folder.parent / "secret.txt"
        secret.write_text("secret")
        for way in ("/file=", "/gradio_api/file="):
            with self.assertRaises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(self.address + way + str(secret))
            refused.exception.close()


# It is the scenario, not a test of its own.
del Driven

if __name__ == "__main__":
    unittest.main()
