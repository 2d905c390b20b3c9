"""Photos in, sentences out, and a picture of where the model looked for each word.

from captioner import Captioner
print(Captioner.load().caption("photo.jpg"))

Names are imported when they are first used, so that `captioner --help` is instant."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from captioner.caption import Caption
    from captioner.captioner import Captioner
    from captioner.checkpoint.manifest import CheckpointError
    from captioner.decoding import Decoding
    from captioner.images import ImageError

__all__ = ["Caption", "Captioner", "CheckpointError", "Decoding", "ImageError"]
__version__ = "0.1.0"

_MODULES = {
    "Caption": "caption",
    "Captioner": "captioner",
    "CheckpointError": "checkpoint.manifest",
    "Decoding": "decoding",
    "ImageError": "images",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
