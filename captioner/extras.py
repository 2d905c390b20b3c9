"""What a light installation leaves out. `pip install captioner` captions, scores and shows; training and the web page
need more, and whoever reaches for an absent part is told in one line how to get it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.util import find_spec
from types import ModuleType

EXTRAS = {  # what comes with an extra, by the name that is imported
    **dict.fromkeys(("torch", "torchvision", "safetensors", "tensorboard", "onnx", "onnx_ir", "onnxscript"), "train"),
    **dict.fromkeys(("fastapi", "python_multipart", "starlette", "uvicorn"), "web"),
    "pycocoevalcap": "java-metrics",
}
ROOMS = {  # which rooms cannot be entered without them
    **dict.fromkeys(("backends.torch_backend", "backends.export", "checkpoint.tensors", "data.cache"), "torch"),
    **dict.fromkeys(("data.datasets", "decoder", "device", "diagnose", "encoder", "inside", "model"), "torch"),
    **dict.fromkeys(("pretrained", "training.objectives.cross_entropy", "training.optim", "training.run"), "torch"),
    **dict.fromkeys(("training.loop", "training.train", "training.validate"), "torch"),
    "backends.quantize": "onnx",
    "web": "fastapi",
}


class MissingPartError(ModuleNotFoundError):
    """Something of captioner's needs a package that was not installed with it."""


def remedy(error: ModuleNotFoundError) -> str | None:
    """What to tell somebody who ran into it; None if the missing package is none of ours."""
    part = (error.name or "").split(".")[0]
    if isinstance(error, MissingPartError) or part not in EXTRAS:
        return str(error) if isinstance(error, MissingPartError) else None
    return f"{part} is not installed. It comes with: pip install 'captioner[{EXTRAS[part]}]'"


class _Doorkeeper(MetaPathFinder):
    """Looks at each import of one of our rooms, and says what is absent where a long traceback would."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        package, _, inner = name.partition(".")
        part = ROOMS.get(inner) if package == "captioner" else None
        if part and find_spec(part) is None:
            extra = EXTRAS[part]
            line = f"{name} needs {part}, which is not installed. It comes with: pip install 'captioner[{extra}]'"
            raise MissingPartError(line, name=part)


def watch_imports() -> None:
    if not any(isinstance(finder, _Doorkeeper) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Doorkeeper())
