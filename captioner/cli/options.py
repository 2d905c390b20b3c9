"""What the verbs of the command line share: the application, common options, and how a checkpoint or a list of photos
is found."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import Field, asdict, dataclass, fields, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args, get_type_hints

import tyro

from captioner.backends.choose import Backend
from captioner.decoding import Decoding

if TYPE_CHECKING:
    import io

    from captioner.captioner import Captioner
    from captioner.data.records import Record

app = tyro.extras.SubcommandApp()
EMPTY = "standard input is empty"  # what stands for the paths on it

OptionalFile = Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")]
OptionalFolder = Annotated[Path | None, tyro.conf.arg(metavar="DIRECTORY", help_behavior_hint="")]
OptionalSplit = Annotated[str | None, tyro.conf.arg(metavar="SPLIT", help_behavior_hint="")]
Checkpoint = Annotated[Path | None, tyro.conf.arg(metavar="DIRECTORY", help_behavior_hint="")]
Paths = Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="PATH ...", help_behavior_hint="")]
Output = Annotated[Path, tyro.conf.arg(aliases=["-o"])]


def _option(setting: Field) -> tuple[str, Any, None]:
    """A setting of `Decoding` as an option whose default is None: not given, so the checkpoint's value holds."""
    kind = get_type_hints(Decoding)[setting.name]
    metavar = "{" + ",".join(get_args(kind)) + "}" if get_args(kind) else kind.__name__.upper()
    default = f"(default: as the checkpoint was saved, else {setting.default})"
    told = tyro.conf.arg(metavar=metavar, help=setting.metadata["help"], help_behavior_hint=default)
    return setting.name, Annotated[kind | None, told], None


_Options: Any = make_dataclass("_Options", map(_option, fields(Decoding)), frozen=True)


@dataclass(frozen=True)
class DecodingOptions(_Options):
    """How captions are found. What is not given is as the checkpoint has it."""

    def over(self, saved: Decoding) -> Decoding:
        return saved.override(**asdict(self))


Options = Annotated[DecodingOptions, tyro.conf.arg(name="")]
AS_SAVED = DecodingOptions()


@dataclass(frozen=True)
class ModelOptions:
    """Which model captions, and what runs it."""

    checkpoint: Annotated[
        tyro.conf.UseAppendAction[tuple[Path, ...]],
        tyro.conf.arg(
            metavar="MODEL",
            help="Directory of a model, the name of a shipped one (flickr8k), or hf://owner/name[@revision] on the "
            "Hugging Face Hub. Repeat the option for an ensemble, which averages the word probabilities.",
            help_behavior_hint="",
        ),
    ] = ()
    device: str = "auto"
    """auto, cpu, cuda, mps."""
    backend: Backend = "auto"
    """onnx runs exported models on a CPU without torch; torch runs any model; auto takes the faster one."""

    def load(self) -> Captioner:
        directories = self.checkpoint or (None,)
        members = [load_captioner(directory, self.device, self.backend) for directory in directories]
        return members[0] if len(members) == 1 else members[0].ensemble(members)


Model = Annotated[ModelOptions, tyro.conf.arg(name="")]
SHIPPED = ModelOptions()


def find_photos(paths: Iterable[str], recursive: bool) -> tuple[list[Path], int]:
    """The photos, and how many folders cannot be listed; these are reported. Raises ValueError if there is no photo."""
    from captioner.images import find_images

    unlisted = []

    def report(line: str) -> None:
        unlisted.append(line)
        print(f"captioner: {line}", file=sys.stderr)

    paths = list(paths)
    given = list(_with_standard_input(paths))
    photos = find_images(given, recursive, report)
    if not photos:
        raise no_photos(given or ([EMPTY] if "-" in paths else []), recursive)
    return photos, len(unlisted)


def no_photos(given: Sequence[str], recursive: bool) -> ValueError:
    """The error if there is no photo at these paths."""
    shallow = not recursive and any(os.path.isdir(path) for path in given)
    deeper = " Add --recursive to include subfolders." if shallow else ""
    return ValueError(f"no photos: {', '.join(given) or 'nothing was given'}.{deeper}")


def leave_out_damaged(records: Sequence[Record]) -> list[Record]:
    """The records whose photos can be read; the others are reported. Raises ValueError if they are too many."""
    from captioner.data.checks import find_damaged, shortened

    damaged = find_damaged(records)
    for problem in shortened([*damaged.values()], "photos"):
        print(f"captioner: {problem}", file=sys.stderr)
    if damaged:
        print(f"captioner: {len(damaged)} of {len(records)} photos cannot be read and are left out.", file=sys.stderr)
    return [record for number, record in enumerate(records) if number not in damaged]


def keep_photos(photos: Iterable[Path], *outputs: Path) -> None:
    """Raise ValueError if a photo would be overwritten."""
    originals = {photo.resolve() for photo in photos}
    for path in outputs:
        if path.resolve() in originals:
            raise ValueError(f"{path} is one of the photos and would be overwritten. Choose another name or folder.")


def _with_standard_input(paths: Iterable[str]) -> Iterator[str]:
    from captioner.bulk.listing import read_list

    for path in paths:
        if path == "-":
            yield from read_list(cast("io.BufferedReader", sys.stdin.buffer))
        elif path.strip():
            yield path


def load_captioner(checkpoint: Path | None, device: str, backend: Backend = "auto") -> Captioner:
    from captioner.captioner import Captioner

    return Captioner.load(checkpoint, device, backend)


def print_json(entry: Any) -> None:
    """One line of JSON, which is valid in any encoding."""
    unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    print(json.dumps(entry, ensure_ascii=not unicode), flush=True)
