"""The plan of the house, held: who may import whom, what needs no torch, and how long a file may be.

Files are read, not run (but for one test), so imports inside functions count. Within a floor imports go one way:
no two rooms and no two files import each other, by whatever detour.
"""

from __future__ import annotations

import ast
import graphlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = (
    (
        *("extras", "vocabulary", "config", "images", "pixels", "decoders", "step", "decoding", "metrics", "visualize"),
        *("confidence", "caption", "lock"),
        *("checkpoint.hub", "checkpoint.manifest", "checkpoint.weights", "checkpoint.card"),
    ),
    ("pretrained", "encoder", "decoder", "device", "distributed"),
    ("model",),
    ("data", "checkpoint"),
    ("backends", "captioner", "language_model", "calibrate", "evaluate", "inside", "diagnose", "bulk"),
    ("training", "web"),
    ("cli", "__main__", ""),  # "" is captioner/__init__.py
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
WITHOUT_TORCH = (
    *FLOORS[0],
    *("data.readers", "data.sources", "data.objects", "data.toy", "data.synthetic", "data.augment", "backends.choose"),
    *("backends.graph_check", "backends.signature", "backends.onnx_backend", "training.config"),
)
WITHOUT_TORCH_ITSELF = ("checkpoint", "data", "backends", "training")  # their `__init__.py` runs before what is inside
AT_FIRST_WITHOUT = ("captioner", "calibrate", "evaluate", "web")  # torch comes when a model is loaded that needs it
LONGEST = 400
NO_NAMES = {"utils", "helpers", "common", "misc", "legacy"}


class Package:
    """The files in a folder `captioner`. Modules go by names without that word: data.toy, and "" for the top."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.files: dict[str, Path] = {}
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            self.files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path

    def imports(self, module: str) -> Iterator[str]:
        """Full names of all that a module imports; of the command line's, only those outside functions."""
        path = self.files[module]
        package = [self.folder.name, *path.relative_to(self.folder).parts[:-1]]
        nodes: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"), str(path))]
        while nodes:
            node = nodes.pop()
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = package[: len(package) + 1 - node.level] if node.level else []
                base = base + (node.module.split(".") if node.module else [])
                yield from (".".join([*base, alias.name]) for alias in node.names)
            elif room(module) != "cli" or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                nodes.extend(ast.iter_child_nodes(node))

    def own_imports(self, module: str) -> set[str]:
        """The modules of this package that a module imports, also rooms not built yet."""
        found = set()
        for name in self.imports(module):
            first, *parts = name.split(".")
            if first == self.folder.name and parts != ["__version__"]:
                while parts and ".".join(parts) not in self.files and (len(parts) > 1 or parts[0] not in FLOOR):
                    parts.pop()  # a name inside a module
                found.add(".".join(parts))
        return found - {module}

    def where(self, module: str) -> str:
        return self.files[module].relative_to(self.folder.parent).as_posix()


def room(module: str) -> str:
    """A folder or a file of the top; a file with a floor of its own is a room of its own."""
    return module if module in FLOOR else module.split(".")[0]


def without_torch(module: str) -> bool:
    inside = (module == name or module.startswith(name + ".") for name in WITHOUT_TORCH)
    return module in WITHOUT_TORCH_ITSELF or any(inside)


def wrong_floors(package: Package) -> list[str]:
    homeless = [package.where(module) for module in package.files if room(module) not in FLOOR]
    wrong = [f"{path} stands in no room of the design: give it a floor, there and here" for path in homeless]
    modules = {module: package.own_imports(module) for module in package.files}
    rooms: dict[str, set[str]] = {}
    for module, targets in modules.items():
        rooms.setdefault(room(module), set()).update({room(target) for target in targets} - {room(module)})
        for target in sorted(targets):
            if FLOOR.get(room(target), 0) > FLOOR.get(room(module), len(FLOORS)):
                wrong.append(f"{package.where(module)} imports captioner.{target}, which is on a floor above")
    for graph in (modules, rooms):
        try:
            graphlib.TopologicalSorter(graph).prepare()
        except graphlib.CycleError as error:
            wrong.append(f"imports go in a circle: {' <- '.join(error.args[1])}")
    return wrong


def torch_where_none_may_be(package: Package) -> list[str]:
    """In the modules that need no torch, and in all that they lead to."""
    wrong = []
    trail = {module: module for module in package.files if without_torch(module)}
    ahead = list(trail)
    while ahead:
        module = ahead.pop()
        for name in package.imports(module):
            if room(name) in ("torch", "torchvision") or name.startswith("safetensors.torch"):
                wrong.append(f"{package.where(module)} imports {name}; torch-free: {trail[module]}")
        for target in (package.own_imports(module) & set(package.files)) - set(trail):
            trail[target] = f"{trail[module]} -> {target}"
            ahead.append(target)
    return wrong


def long_files(package: Package) -> list[str]:
    lines = {module: path.read_text(encoding="utf-8").count("\n") for module, path in package.files.items()}
    return [f"{package.where(module)} has {n} lines" for module, n in lines.items() if n > LONGEST]


def empty_names(package: Package) -> list[str]:
    return [package.where(module) for module in package.files if NO_NAMES & set(module.split("."))]


RULES = (wrong_floors, torch_where_none_may_be, long_files, empty_names)


@pytest.mark.parametrize("rule", RULES)
def test_the_package_keeps(rule):
    package = Package(ROOT / "captioner")
    assert package.files
    assert rule(package) == []


def test_torch_is_not_imported_at_run_time():
    package = Package(ROOT / "captioner")
    names = [
        f"captioner.{module}"
        for module in package.files
        if (room(module) == "cli" and module != "cli.__main__")
        or without_torch(module)
        or room(module) in AT_FIRST_WITHOUT
    ]
    assert len(names) > 3
    code = f"""
import importlib, sys
for name in {names}:
    importlib.import_module(name)
    found = {{"torch", "torchvision"}} & set(sys.modules)
    assert not found, f"importing {{name}} imports {{found}}"
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr


SOUND = {
    "__init__.py": "def __getattr__(name):\n    from captioner.captioner import Captioner",
    "vocabulary.py": "import re",
    "decoding.py": "from captioner.vocabulary import EOS",
    "metrics/__init__.py": "from .bleu import bleu",
    "metrics/bleu.py": "from ..vocabulary import tokenize",
    "encoder.py": "import torch\nfrom . import __version__",
    "model.py": "from . import decoding, encoder",
    "data/__init__.py": "",
    "data/readers.py": "from captioner.data import toy",
    "data/toy.py": "from captioner.images import open_image",
    "data/cache.py": "import torch",
    "checkpoint/__init__.py": "",
    "checkpoint/tensors.py": "from captioner.data.readers import Record",
    "captioner.py": "from captioner.model import CaptionModel",
    "cli.py": "from captioner.config import ModelConfig\ndef f():\n    from captioner.training.train import train",
}
FLOOR_RULE, TORCH_RULE, LENGTH_RULE, NAME_RULE = RULES


def write(folder: Path, files: dict[str, str]) -> Package:
    for name, text in files.items():
        path = folder / "captioner" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return Package(folder / "captioner")


@pytest.mark.parametrize(
    "rule, file, text, complaint",
    [
        (FLOOR_RULE, "encoder.py", "import captioner.model", "captioner/encoder.py imports captioner.model,"),
        (FLOOR_RULE, "encoder.py", "from captioner.data.toy import x", "imports captioner.data.toy, which"),
        (
            FLOOR_RULE,
            "encoder.py",
            "from captioner import training",
            "captioner.training, which is on a floor above",
        ),
        (FLOOR_RULE, "encoder.py", "def f():\n  from .captioner import g", "imports captioner.captioner,"),
        (FLOOR_RULE, "model.py", "from captioner import Captioner", "model.py imports captioner., which"),
        (FLOOR_RULE, "model.py", "import captioner.scores", "model.py imports captioner., which"),
        (
            FLOOR_RULE,
            "metrics/bleu.py",
            "from ..data import toy",
            "bleu.py imports captioner.data.toy, which",
        ),
        (FLOOR_RULE, "vocabulary.py", "import captioner.decoding", "in a circle: "),
        (FLOOR_RULE, "data/toy.py", "from .readers import Record", "in a circle: "),
        (FLOOR_RULE, "data/cache.py", "from captioner.checkpoint import tensors", "in a circle: "),
        (FLOOR_RULE, "scores.py", "", "captioner/scores.py stands in no room"),
        (TORCH_RULE, "images.py", "def f():\n  import torch.nn", "captioner/images.py imports torch.nn;"),
        (TORCH_RULE, "metrics/bleu.py", "from torchvision.io import f", "imports torchvision.io.f;"),
        (TORCH_RULE, "data/toy.py", "import torch as t", "captioner/data/toy.py imports torch;"),
        (TORCH_RULE, "data/__init__.py", "from .cache import f", "torch-free: data -> data.cache"),
        (
            TORCH_RULE,
            "config.py",
            "from safetensors.torch import f",
            "config.py imports safetensors.torch.f;",
        ),
        (LENGTH_RULE, "decoder.py", "\n" * 401, "captioner/decoder.py has 401 lines"),
        (NAME_RULE, "data/utils.py", "", "captioner/data/utils.py"),
        (NAME_RULE, "web/common/a.py", "", "captioner/web/common/a.py"),
    ],
)
def test_a_fault_is_found(tmp_path, rule, file, text, complaint):
    sound = write(tmp_path, SOUND)
    assert [each(sound) for each in RULES] == [[]] * len(RULES)
    found = rule(write(tmp_path, {file: text}))
    assert any(complaint in line for line in found), found


def test_only_the_command_line_may_hide_imports_in_functions(tmp_path):
    text = "import captioner.data\ndef f():\n    import captioner.model"
    package = write(tmp_path, {"cli.py": text, "train.py": text})
    assert package.own_imports("cli") == {"data"}
    assert package.own_imports("train") == {"data", "model"}
