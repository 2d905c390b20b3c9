"""The optional dependencies. `pip install captioner` captions, scores and shows; training and the web page need more. A
failed import of one becomes a one-line error that names the extra to install."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

EXTRAS = {  # the name that is imported: the extra that brings it
    **dict.fromkeys(("torch", "torchvision", "safetensors", "tensorboard", "onnx", "onnx_ir", "onnxscript"), "train"),
    **dict.fromkeys(("fastapi", "h11", "pydantic", "python_multipart", "starlette", "uvicorn"), "web"),
    **dict.fromkeys(("aiohttp", "fsspec"), "remote"),
    "huggingface_hub": "hub",
    "pillow_heif": "heic",
    "pyarrow": "parquet",
    "ray": "ray",
}


class MissingExtraError(ModuleNotFoundError):
    """A package that comes with an extra of captioner is missing."""


@contextmanager
def name_missing_extras() -> Iterator[None]:
    """Inside this context, a failed import of a package in `EXTRAS` raises MissingExtraError. The command line runs in
    it, and so do public functions that import such packages when called."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        hint = f"Install it with: pip install 'captioner[{EXTRAS[package]}]'"
        raise MissingExtraError(f"{package} is needed here but is not installed. {hint}", name=package) from None
