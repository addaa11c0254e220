#!/usr/bin/env python3
"""The nodes in a real ComfyUI, on the CPU: run by ComfyUI's own Python, with lycomerge installed.

    python real_host.py COMFYUI --checkpoint model.safetensors --lokr A --loha B --lora C

COMFYUI is a checkout. The checkpoint has a diffusion model, text encoders and a VAE, and the three adapters are for it;
small ones do. Starts a server on 127.0.0.1 over a folder of its own, and needs a few minutes.
"""

# mypy: ignore-errors

import argparse
import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

PACK = Path(__file__).resolve().parents[1]
NODES = ("Loader", "Stack", "Merge", "Apply", "Save", "Compare")
WEIGHTS = {"lokr": (0.8, 0.5), "loha": (1.0, 1.0), "lora": (-0.3, 0.0)}


def check(what, holds, saw=""):
    print(f"{'ok  ' if holds else 'FAIL'} {what}" + (f": {saw}" if saw else ""), flush=True)
    if not holds:
        sys.exit(1)


def furnish(given, base):
    """The folder that the server works in."""
    for folder in ("custom_nodes", "models/checkpoints", "models/loras", "input", "output", "temp", "user"):
        (base / folder).mkdir(parents=True)
    (base / "custom_nodes/lycomerge").symlink_to(PACK)
    (base / "models/checkpoints/model.safetensors").symlink_to(Path(given.checkpoint).resolve())
    for name in WEIGHTS:
        shutil.copy(getattr(given, name), base / f"models/loras/{name}.safetensors")


def workflow(name, **changes):
    """A workflow of the examples, with some inputs set: NUMBER_INPUT=VALUE."""
    prompt = json.loads((PACK / "tests/workflows" / f"{name}.json").read_text())
    for key, value in changes.items():
        number, _, given = key.removeprefix("n").partition("_")
        prompt[number]["inputs"][given] = value
    return prompt


class Server:
    """A running ComfyUI."""

    def __init__(self, session, port):
        self.session, self.url = session, f"http://127.0.0.1:{port}"

    async def get(self, path):
        async with self.session.get(self.url + path) as answer:
            return answer.status, await answer.read()

    async def json(self, path):
        return json.loads((await self.get(path))[1])

    async def run(self, prompt, stop_at=None):
        """Runs a workflow; what became of it. `stop_at`: the node at whose first progress the run is interrupted."""
        client = uuid.uuid4().hex
        found = {"cached": [], "text": {}, "images": {}, "progress": {}, "end": None}
        async with self.session.ws_connect(f"{self.url}/ws?clientId={client}", max_msg_size=0) as socket_:
            asked, start = None, time.monotonic()
            async with self.session.post(f"{self.url}/prompt", json={"prompt": prompt, "client_id": client}) as answer:
                queued = await answer.json()
            if "prompt_id" not in queued or queued.get("node_errors"):
                return {**found, "end": "refused", "error": json.dumps(queued)}
            async for message in socket_:
                if message.type.name != "TEXT":
                    continue
                event = json.loads(message.data)
                kind, data = event["type"], event.get("data", {})
                if kind == "execution_cached":
                    found["cached"] = data["nodes"]
                elif kind == "progress":
                    found["progress"][data["node"]] = (data["value"], data["max"])
                    if data["node"] == stop_at and asked is None:
                        asked = time.monotonic()
                        await self.session.post(f"{self.url}/interrupt")
                elif kind == "executed" and data.get("output"):
                    found["text"][data["node"]] = "\n".join(data["output"].get("text", []))
                    found["images"][data["node"]] = data["output"].get("images", [])
                elif kind in ("execution_success", "execution_error", "execution_interrupted"):
                    found["end"] = kind.removeprefix("execution_")
                    found["node"] = data.get("node_id")
                    found["error"] = data.get("exception_message", "")
                    found["seconds"] = time.monotonic() - (asked or start)
                    return found


async def serve(given, base, port):
    """Everything that needs a server."""
    import aiohttp

    async with aiohttp.ClientSession() as session:
        server = Server(session, port)
        for _ in range(600):
            try:
                known = await server.json("/object_info")
                break
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.5)
        else:
            check("the server starts", False)
        missing = [name for name in NODES if f"Lycomerge{name}" not in known]
        check(
            "all nodes are registered",
            not missing,
            missing or ", ".join(known[f"Lycomerge{n}"]["display_name"] for n in NODES),
        )
        check("the editor gets its script", "/extensions/lycomerge/lycomerge.js" in await server.json("/extensions"))
        check("help pages are served", (await server.get("/extensions/lycomerge/docs/LycomergeMerge/zh.md"))[0] == 200)
        named = (await server.json("/i18n"))["zh"]["nodeDefs"]
        check("node names are translated", named["LycomergeMerge"]["display_name"] == "合并适配器")
        shown = (await server.json("/workflow_templates")).get("lycomerge", [])
        check("example workflows are listed", len(shown) == 2, shown)

        small = {"n10_width": 64, "n10_height": 64, "n11_steps": 2}
        first = await server.run(workflow("merge_apply_and_save", **small))
        check(
            "merging, applying and sampling works",
            first["end"] == "success",
            first.get("error") or f"{first['seconds']:.1f} s",
        )
        check("an image is made", len(first["images"]["13"]) == 1)
        for node in ("1", "5", "7", "14"):
            print("    " + first["text"][node].replace("\n", "\n    "))
        print(f"    progress of node 7, Apply: {first['progress'].get('7')}")
        saved = workflow(
            "merge_apply_and_save", **small, n14_quality="as set", n14_filename="made/exact", n5_tolerance=0.001
        )
        second = await server.run(saved)
        check(
            "saving works", second["end"] == "success", second.get("error") or second["text"]["14"].replace("\n", "; ")
        )
        check("nothing is loaded or made twice", {"1", "2", "3", "4", "6"} <= set(second["cached"]))
        smaller = {**saved, "14": workflow("merge_apply_and_save", n14_quality="good", n14_filename="good")["14"]}
        good = await server.run(smaller)
        check(
            "a quality is saved, without applying anew",
            good["end"] == "success" and "7" in good["cached"],
            good["error"] or good["text"]["14"].replace("\n", "; "),
        )

        again = await server.run(smaller)
        check("the same again takes everything from the cache", set(again["cached"]) == set(smaller), again["cached"])
        os.utime(base / "models/loras/loha.safetensors")
        changed = await server.run(smaller)
        ran = sorted(set(smaller) - set(changed["cached"]), key=int)
        check(
            "a changed file is noticed",
            changed["end"] == "success" and {"2", "5", "7"} <= set(ran) and not {"1", "3", "6"} & set(ran),
            f"ran {ran}",
        )

        slow = workflow("merge_apply_and_save", **small, n5_strategy="ties", n5_format="full")
        stopped = await server.run(slow, stop_at="7")
        check("a merge stops between layers", stopped["end"] == "interrupted" and stopped["node"] == "7",
              f"{1000 * stopped['seconds']:.0f} ms after it was asked, at {stopped['progress']['7']}")  # fmt: skip
        finished = await server.run(slow)
        check("and goes through afterwards", finished["end"] == "success", f"{finished['seconds']:.1f} s")

        wrong = await server.run(workflow("merge_apply_and_save", **small, n5_settings="density=0.3"))
        check(
            "a wrong setting is an error on its node",
            wrong["end"] == "error" and wrong["node"] == "5",
            wrong["error"].strip(),
        )
        (base / "models/loras/loha.safetensors").rename(base / "loha")
        gone = await server.run(saved)
        check("a missing file is an error on its node", gone["end"] == "refused", gone["end"])
        said = json.loads(gone["error"])["node_errors"]["2"]["errors"][0]["details"]
        check("which says what is missing", "loha.safetensors: there is no such file" in said, said)
        (base / "models/loras/loha.safetensors").write_bytes(b"nothing")
        damaged = await server.run(saved)
        check(
            "a damaged file is an error on its node",
            damaged["end"] == "error" and damaged["node"] == "2",
            damaged["error"].strip(),
        )
        (base / "loha").replace(base / "models/loras/loha.safetensors")

        compared = await server.run(workflow("inspect_and_compare"))
        check("comparing works", compared["end"] == "success", compared.get("error") or f"{compared['seconds']:.1f} s")
        print("    " + compared["text"]["5"].replace("\n", "\n    "))
        for node in ("6", "7"):
            image = compared["images"][node][0]
            status, png = await server.get(f"/view?filename={image['filename']}&type={image['type']}")
            check("a picture is shown", status == 200 and png.startswith(b"\x89PNG"), f"{len(png)} bytes")
            if given.keep:
                Path(given.keep, f"compare-{node}.png").write_bytes(png)


def patches(given, base):
    """What is applied, weight by weight: by the nodes, by ComfyUI's own loader one adapter after the other, and by that
    loader from the file that the nodes saved."""
    sys.argv = sys.argv[:1]
    sys.path.insert(0, given.comfyui)
    import comfy.cli_args

    comfy.cli_args.args.cpu = True
    import importlib.util

    import comfy.model_management
    import comfy.sd
    import comfy.utils
    import folder_paths
    import torch

    folder_paths.add_model_folder_path("loras", str(base / "models/loras"), is_default=True)
    spec = importlib.util.spec_from_file_location("lycomerge_nodes", PACK / "__init__.py")
    pack = importlib.util.module_from_spec(spec)
    sys.modules["lycomerge_nodes"] = pack
    spec.loader.exec_module(pack)
    nodes = pack.NODE_CLASS_MAPPINGS

    wide = {"dtype": torch.float32}
    model, clip, *_ = comfy.sd.load_checkpoint_guess_config(
        given.checkpoint, output_vae=False, model_options=wide, te_model_options=wide
    )

    def by_host(files):
        applied = (model, clip)
        for name, (on_model, on_clip) in files.items():
            tensors = comfy.utils.load_torch_file(str(base / f"models/loras/{name}.safetensors"), safe_load=True)
            applied = comfy.sd.load_lora_for_models(*applied, tensors, on_model, on_clip)
        return applied

    def by_nodes():
        stack = [(f"{name}.safetensors", *weights) for name, weights in WEIGHTS.items()]
        recipe, _ = nodes["LycomergeMerge"]().prepare(stack, strategy="weighted_sum", format="auto")["result"]
        result = nodes["LycomergeApply"]().apply(model, recipe, 1.0, 1.0, clip)["result"]
        print("    " + result[2].replace("\n", "\n    "))
        return result[:2]

    @torch.no_grad()
    def changes(applied):
        """What every patched weight changes by."""
        found = {}
        for patcher in (applied[0], applied[1].patcher):
            before = {key: patcher.model.state_dict()[key].clone() for key in patcher.patches}
            comfy.model_management.load_models_gpu([patcher])
            now = patcher.model.state_dict()
            found |= {key: now[key] - weight for key, weight in before.items()}
            patcher.unpatch_model(torch.device("cpu"))
            comfy.model_management.unload_all_models()
            same = all(torch.equal(patcher.model.state_dict()[key], weight) for key, weight in before.items())
            check("weights are as before when the patches are gone", same)
        return found

    def apart(one, other):
        keys = one.keys() | other.keys()
        nothing = torch.zeros(())
        gap = sum(float((one.get(key, nothing) - other.get(key, nothing)).double().norm()) ** 2 for key in keys)
        return (gap / sum(float(delta.double().norm()) ** 2 for delta in other.values())) ** 0.5

    mine = changes(by_nodes())
    separately = changes(by_host(WEIGHTS))
    gap = apart(mine, separately)
    check(
        f"Apply changes {len(mine)} weights as ComfyUI's own loader does with the adapters one by one",
        gap < 1e-3,
        f"{gap:.1e}",
    )
    for name, limit in (("made/exact", 1e-3), ("good", 0.21)):
        stored = changes(by_host({name: (1.0, 1.0)}))
        gap = apart(stored, mine)
        check(f"the saved {name} does what Apply did", gap < limit and stored.keys() == mine.keys(), f"{gap:.1e}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comfyui", metavar="COMFYUI")
    parser.add_argument("--checkpoint", required=True)
    for name in WEIGHTS:
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--keep", help="a folder for the pictures")
    parser.add_argument("--patches", help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.comfyui = str(Path(given.comfyui).resolve())
    if given.patches:
        patches(given, Path(given.patches))
        return
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        furnish(given, base)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [
            sys.executable, "main.py", "--cpu", "--listen", "127.0.0.1", "--port", str(port),
            "--base-directory", folder,
            "--database-url", "sqlite:///:memory:", "--disable-auto-launch", "--disable-api-nodes", "--fp32-text-enc",
        ]  # fmt: skip
        with open(base / "log", "w+", encoding="utf-8", errors="replace") as log:
            server = subprocess.Popen(command, cwd=given.comfyui, stdout=log, stderr=subprocess.STDOUT)
            try:
                asyncio.run(serve(given, base, port))
            except BaseException:
                log.seek(0)
                sys.stderr.write("".join(log.readlines()[-60:]))
                raise
            finally:
                server.terminate()
                server.wait()
        files = [f"--{name}={base / 'models/loras' / name}.safetensors" for name in WEIGHTS]
        again = [sys.executable, __file__, given.comfyui, f"--checkpoint={Path(given.checkpoint).resolve()}", *files]
        subprocess.run([*again, f"--patches={folder}"], check=True)
    print("all of it holds")


if __name__ == "__main__":
    main()
