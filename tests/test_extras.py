"""A light installation: without torch and FastAPI, what needs them says in one line which extra to install."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from captioner.extras import EXTRAS, MissingExtraError, name_missing_extras

ROOT = Path(__file__).parents[1]
ABSENT = """
import sys
from importlib.machinery import PathFinder
find_spec = PathFinder.find_spec
absent = {"torch", "torchvision", "safetensors", "fastapi", "starlette", "uvicorn"}
PathFinder.find_spec = lambda name, *rest: None if name.split(".")[0] in absent else find_spec(name, *rest)
"""


def run(code: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-c", ABSENT + code], capture_output=True, text=True, env=environment)


@pytest.mark.parametrize(
    "verb, extra",
    [("train --data x --output y", "train"), ("export x", "train"), ("diagnose x --data y", "train"), ("web", "web")],
)
def test_a_verb_names_the_extra_that_it_needs(verb, extra):
    done = run(f"sys.argv = ['captioner', *{verb.split()!r}]\nfrom captioner.cli import main\nmain()")
    assert done.returncode == 2 and done.stdout == ""
    assert re.fullmatch(rf"captioner: \w+ is needed .* pip install 'captioner\[{extra}\]'\n", done.stderr), done.stderr


def test_python_names_the_extra_that_it_needs():
    done = run("from captioner import Captioner\nCaptioner.load(backend='torch')")
    last = done.stderr.splitlines()[-1]
    assert last.endswith("torch is needed here but is not installed. Install it with: pip install 'captioner[train]'")
    assert "During handling" not in done.stderr


def test_other_missing_modules_are_not_explained():
    with pytest.raises(ModuleNotFoundError, match="No module named 'torchy'") as caught, name_missing_extras():
        import torchy  # noqa: F401
    assert not isinstance(caught.value, MissingExtraError)


def test_each_import_is_required_or_belongs_to_an_extra():
    """Two lists, one truth: what the package imports, and what setup.py installs."""
    required, extras = {"pil", "mpl_toolkits"}, {}
    for statement in ast.parse((ROOT / "setup.py").read_text()).body:
        if isinstance(statement, ast.Assign):
            extras[statement.targets[0].id.lower()] = {*map(import_name, ast.literal_eval(statement.value))}
        elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
            (needs,) = (each.value for each in statement.value.keywords if each.arg == "install_requires")
            required |= {*map(import_name, ast.literal_eval(needs))}
    imported = set()
    for path in (ROOT / "captioner").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            imported |= {name.split(".")[0] for name in names}
    third_party = imported - sys.stdlib_module_names - {"captioner"}
    assert {name for name in third_party if name.lower() not in required} <= EXTRAS.keys()
    for extra in ("train", "web"):
        brought = {name for name, its_extra in EXTRAS.items() if its_extra == extra}
        assert extras[extra] <= brought, "setup.py lists more than extras.py"
        assert brought - extras[extra] <= {"onnx", "onnx_ir", "pydantic", "starlette", "h11"}, (
            "onnxscript, fastapi and uvicorn bring these"
        )


def import_name(requirement: str) -> str:
    return re.split(r"[<>=\[; ]", requirement)[0].lower().replace("-", "_")


def test_every_package_is_installed():
    listed = set(re.findall(r'^        "(captioner[\w.]*)",$', (ROOT / "setup.py").read_text(), re.MULTILINE))
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in ROOT.glob("captioner/**/__init__.py")}
    assert found == listed - {"captioner.shipped"}
