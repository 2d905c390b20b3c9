"""What the verbs of the command line share: the application that they join, options in common, and how a checkpoint
or a list of photos is found."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from captioner.backends.choose import Backend
from captioner.decoding import Decoding

if TYPE_CHECKING:
    from captioner.captioner import Captioner

app = tyro.extras.SubcommandApp()

OptionalFile = Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")]
Checkpoint = Annotated[Path | None, tyro.conf.arg(metavar="DIRECTORY", help_behavior_hint="")]
Paths = Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="PATH ...", help_behavior_hint="")]
Output = Annotated[Path, tyro.conf.arg(aliases=["-o"])]


def _unset(metavar: str, help: str) -> object:
    """A setting of the decoding that, if it is not given, is as the checkpoint has it."""
    return tyro.conf.arg(metavar=metavar, help=help, help_behavior_hint="")


@dataclass(frozen=True)
class DecodingOptions:
    """How captions are found; what is not given is as the checkpoint has it."""

    method: Annotated[
        Literal["beam", "sample"] | None,
        _unset("{beam,sample}", "The most probable caption, or one drawn at random."),
    ] = None
    beam_size: Annotated[int | None, _unset("INT", "Hypotheses that beam search keeps; 1 is greedy.")] = None
    max_length: Annotated[int | None, _unset("INT", "Longest caption, in words.")] = None
    length_penalty: Annotated[
        float | None, _unset("FLOAT", "Scores are divided by length to this power: 0 favours short captions.")
    ] = None
    no_repeat_ngram: Annotated[int | None, _unset("INT", "No sequence of so many words comes twice; 0: off.")] = None
    temperature: Annotated[float | None, _unset("FLOAT", "Sampling: below 1 is tame, above 1 is wild.")] = None
    top_k: Annotated[int | None, _unset("INT", "Sampling: from so many most probable words only; 0: all.")] = None
    top_p: Annotated[float | None, _unset("FLOAT", "Sampling: from the fewest words with this probability.")] = None
    seed: Annotated[int | None, _unset("INT", "Sampling: the same seed gives the same captions.")] = None
    num_captions: Annotated[int | None, _unset("INT", "Captions a photo, best first.")] = None

    def over(self, decoding: Decoding) -> Decoding:
        given = {name: value for name, value in asdict(self).items() if value is not None}
        wanted = given.get("num_captions", 1)
        if given.get("method", decoding.method) == "beam" and "beam_size" not in given:
            given["beam_size"] = max(decoding.beam_size, wanted)
        return Decoding(**{**asdict(decoding), **given})


Options = Annotated[DecodingOptions, tyro.conf.arg(name="")]
AS_SAVED = DecodingOptions()


@dataclass(frozen=True)
class ModelOptions:
    """Which model captions, and what runs it."""

    checkpoint: Annotated[
        Path | None,
        tyro.conf.arg(
            metavar="DIRECTORY", help="Directory of the model; the shipped one if not given.", help_behavior_hint=""
        ),
    ] = None
    device: str = "auto"
    """auto, cpu, cuda, mps."""
    backend: Backend = "auto"
    """The ONNX runtime (exported models on a CPU, without torch), or torch; auto takes the faster one."""

    def load(self) -> Captioner:
        return load_captioner(self.checkpoint, self.device, self.backend)


Model = Annotated[ModelOptions, tyro.conf.arg(name="")]
SHIPPED = ModelOptions()


def find_photos(paths: Iterable[str], recursive: bool) -> list[Path]:
    from captioner.images import find_images

    given = [path for path in _with_standard_input(paths) if path.strip()]
    photos = find_images(given, recursive=recursive)
    if not photos:
        deeper = "" if recursive or not given else " Add --recursive to look into folders' folders, too."
        raise ValueError(f"no photos: {', '.join(given) or 'nothing was given'}.{deeper}")
    return photos


def keep_photos(photos: Iterable[Path], *outputs: Path) -> None:
    """Raise ValueError if a photo would be overwritten."""
    originals = {photo.resolve() for photo in photos}
    for path in outputs:
        if path.resolve() in originals:
            raise ValueError(f"{path} is one of the photos; it would be lost. Choose another name or folder.")


def _with_standard_input(paths: Iterable[str]) -> Iterator[str]:
    for path in paths:
        if path == "-":
            yield from (line.rstrip("\r\n") for line in sys.stdin)
        else:
            yield path


def load_captioner(checkpoint: Path | None, device: str, backend: Backend = "auto") -> Captioner:
    from captioner.captioner import Captioner

    return Captioner.load(checkpoint, device, backend)


def print_json(entry: Any) -> None:
    print(json.dumps(entry, ensure_ascii=False), flush=True)
