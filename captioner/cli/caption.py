"""The verb caption: a sentence about each photo, on standard output or into a file."""

from __future__ import annotations

import re
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Literal, cast

import tyro

from captioner.cli.options import (
    AS_SAVED,
    EMPTY,
    SHIPPED,
    DecodingOptions,
    Model,
    ModelOptions,
    OptionalFile,
    Options,
    Paths,
    app,
    no_photos,
    print_json,
)

if TYPE_CHECKING:
    import io

    from captioner.bulk.listing import Photo, Report
    from captioner.bulk.progress import Bar
    from captioner.captioner import Captioner
    from captioner.decoding import Decoding
    from captioner.images import Source


@dataclass(frozen=True)
class ListingOptions:
    """Which photos there are."""

    recursive: Annotated[bool, tyro.conf.arg(aliases=["-r"])] = False
    """Include photos in subfolders."""
    follow_links: bool = False
    """Follow symbolic links to folders."""
    null: Annotated[bool, tyro.conf.arg(aliases=["-0"])] = False
    """Paths on standard input are separated by NUL, as written by find -print0."""

    def photos(self, paths: Iterable[str], report: Report) -> Iterator[Photo]:
        """Raises ValueError if there is no photo."""
        from captioner.bulk.listing import Photo, is_photo, list_photos, read_list

        given: list[str] = []

        def found() -> Iterator[Photo]:
            for path in paths:
                if path != "-":
                    given.append(path)
                    yield from list_photos([path], self.recursive, self.follow_links, report)
                    continue
                stream = cast("io.BufferedReader", sys.stdin.buffer)
                start = stream.peek(16)
                given.append("standard input" if start.strip(b"\0\r\n ") else EMPTY)
                if is_photo(start):
                    photo = stream.read()
                    yield Photo("-", photo, len(photo), time.time_ns())
                else:
                    listed = read_list(stream, b"\0" if self.null else b"\n")
                    yield from list_photos(listed, self.recursive, self.follow_links, report)

        photos = found()
        if (first := next(photos, None)) is None:
            raise no_photos(given, self.recursive)
        return chain([first], photos)

    def can_count(self, paths: Iterable[str]) -> bool:
        """Whether the photos can be listed a second time, and no network is asked for it."""
        from captioner.bulk.remote import is_address

        return not any(path == "-" or is_address(path) for path in paths)

    def count(self, paths: Iterable[str]) -> int:
        from captioner.bulk.listing import count_photos

        return count_photos(paths, self.recursive, self.follow_links)


@dataclass(frozen=True)
class FileOptions:
    """Captions in a file. Run the same command again to continue where it was interrupted; new and changed photos are
    added."""

    output: Annotated[OptionalFile, tyro.conf.arg(aliases=["-o"], metavar="FILE", help_behavior_hint="")] = None
    """Write to this file: .jsonl, .csv, .parquet, .sqlite (which `captioner search` searches), or .html (a gallery)."""
    redo: bool = False
    """Start over, and discard the captions in the file."""
    retry_errors: bool = False
    """Retry photos that could not be captioned."""
    embed: bool = False
    """Embed small copies of the photos in the gallery, so that it can be moved and shared."""
    sidecar: Annotated[Literal["txt"] | None, tyro.conf.arg(metavar="txt", help_behavior_hint="")] = None
    """Write PHOTO.txt beside each photo, unless there is one already."""
    overwrite: bool = False
    """Write PHOTO.txt even if there is one already."""
    quiet: bool = False
    """Print no progress bar and no summary."""


@dataclass(frozen=True)
class ClusterOptions:
    """A run on a Ray cluster (pip install 'captioner[ray]'). FILE is then a directory, with the table in its parts/."""

    engine: Literal["local", "ray"] = "local"
    """local: this process. ray: worker processes, on this machine or a cluster."""
    address: Annotated[str | None, tyro.conf.arg(metavar="HOST:PORT", help_behavior_hint="")] = None
    """Address of the cluster, or auto. By default, Ray is started on this machine."""
    workers: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="(default: one per CPU or GPU)")] = (
        None
    )
    """Number of worker processes; each loads the model once."""
    gpus: float = 0.0
    """GPUs per worker."""
    part_size: int = 1000
    """Photos per worker task, and rows per file in parts/."""


@app.command
def caption(
    paths: Paths = (),
    /,
    file: Annotated[FileOptions, tyro.conf.arg(name="")] = FileOptions(),
    listing: Annotated[ListingOptions, tyro.conf.arg(name="")] = ListingOptions(),
    cluster: Annotated[ClusterOptions, tyro.conf.arg(name="")] = ClusterOptions(),
    model: Model = SHIPPED,
    json: bool = False,
    min_confidence: Annotated[float, tyro.conf.arg(metavar="P", help_behavior_hint="")] = 0.0,
    options: Options = AS_SAVED,
    batch_size: int = 32,
) -> int:
    """Write a sentence about each photo. (unsure) marks a sentence that is more likely wrong than right.

    Args:
        paths: Photos, folders, .tar shards, URLs (https://, s3://), or - for a photo or a list on standard input.
        json: One JSON object per line, for programs.
        min_confidence: Leave out captions whose confidence is below this (0 to 1), and say so in the file or output.
        batch_size: Photos per batch.
    """
    from captioner.bulk.progress import Bar
    from captioner.images import printable

    unlisted = []

    def report(line: str) -> None:
        unlisted.append(line)
        bar.print(f"captioner: {printable(line)}")

    into_file = file.output is not None or file.sidecar is not None
    _check(file, cluster, json, into_file, min_confidence)
    shown = not file.quiet and (into_file or not sys.stdout.isatty())
    with Bar(shown, partial(listing.count, paths) if listing.can_count(paths) else None) as bar:
        photos = listing.photos(paths, report)
        if cluster.engine == "ray":
            _write_on_ray(photos, model, options, batch_size, file, cluster, bar)
            return _end(file, into_file, bar, unlisted)
        captioner = model.load()
        if min_confidence and captioner.confidence is None:
            raise ValueError(
                "this model gives no confidence. Leave --min-confidence out, or run captioner calibrate on the model."
            )
        decoding = options.over(captioner.decoding)
        if into_file:
            _write(photos, captioner, decoding, batch_size, min_confidence, file, bar)
        else:
            _print(photos, captioner, decoding, batch_size, json, min_confidence, bar)
    return _end(file, into_file, bar, unlisted)


def _end(file: FileOptions, into_file: bool, bar: Bar, unlisted: list[str]) -> int:
    if not file.quiet:
        _last_line(file, into_file, bar)
    return 1 if bar.counts.failed or bar.counts.failed_before or unlisted else 0


def _check(file: FileOptions, cluster: ClusterOptions, json: bool, into_file: bool, min_confidence: float) -> None:
    """Raise ValueError for an option that would be ignored."""
    from captioner.bulk.run import check_table

    if not 0 <= min_confidence <= 1:
        raise ValueError(f"--min-confidence is {min_confidence:g}; expected a probability, from 0 to 1.")
    gallery = file.output is not None and file.output.suffix.lower() == ".html"
    on_ray = cluster.engine == "ray"
    for option, ignored, remedy in (
        ("--engine ray", on_ray and file.output is None, "writes to a directory. Add -o DIRECTORY"),
        ("--sidecar", on_ray and file.sidecar is not None, "does not work with --engine ray. Leave it out"),
        ("--address", not on_ray and cluster.address is not None, "is for a cluster. Add --engine ray"),
        ("--workers", not on_ray and cluster.workers is not None, "is for a cluster. Add --engine ray"),
        ("--part-size", not on_ray and cluster.part_size != 1000, "is for a cluster. Add --engine ray"),
        ("--gpus", not on_ray and cluster.gpus > 0, "is for a cluster. Add --engine ray"),
        ("--json", json and into_file, "is for standard output. Leave it out, or write a .jsonl file"),
        (
            "--min-confidence",
            min_confidence > 0 and on_ray,
            "does not work with --engine ray. The parts have a confidence column",
        ),
        ("--redo", file.redo and file.output is None, "starts a file over. Add -o FILE"),
        ("--retry-errors", file.retry_errors and file.output is None, "reads the errors in a file. Add -o FILE"),
        ("--embed", file.embed and not gallery, "is for a gallery. Write an .html file: -o FILE.html"),
        ("--overwrite", file.overwrite and file.sidecar is None, "is for text files. Add --sidecar txt"),
    ):
        if ignored:
            raise ValueError(f"{option} {remedy}.")
    if on_ray and file.output is not None and (file.output.suffix or file.output.is_file()):
        raise ValueError(f"{file.output}: --engine ray writes to a directory; expected a name without an ending.")
    if file.output is not None and not on_ray:
        check_table(file.output)


def _print(
    photos: Iterable[Photo],
    captioner: Captioner,
    decoding: Decoding,
    batch_size: int,
    json: bool,
    min_confidence: float,
    bar: Bar,
) -> None:
    from captioner.bulk.listing import as_utf8
    from captioner.bulk.progress import Counts
    from captioner.confidence import why_left_out
    from captioner.images import ImageError, printable

    names: deque[str] = deque()

    def sources() -> Iterator[Source]:
        for photo in photos:
            names.append(photo.name)
            yield photo.source

    counts = Counts()
    for result in captioner.caption_many(sources(), decoding, batch_size):
        name = names.popleft()
        if isinstance(result, ImageError):
            counts.failed += 1
            bar.print(f"captioner: {as_utf8(str(result))}")
        else:
            counts.captioned += 1
            reason = why_left_out(result.confidence, min_confidence)
            if reason and json:
                print_json({"path": name, "confidence": result.to_dict()["confidence"], "left_out": reason})
            elif reason:
                bar.print(f"captioner: {as_utf8(name)}: left out, {reason}.")
            elif json:
                print_json({"path": name, **result.to_dict()})
            else:
                shown = printable(name)
                marks = f"{'' if result.finished else ' ...'}{' (unsure)' if result.is_unsure else ''}"
                lines = [f"{shown}: {printable(result.text)}{marks}"]
                lines += [f"{' ' * len(shown)}  {printable(other.text)}" for other in result.other_captions]
                print(*lines, sep="\n", flush=True)
        bar.show(counts)


def _write(
    photos: Iterable[Photo],
    captioner: Captioner,
    decoding: Decoding,
    batch_size: int,
    min_confidence: float,
    file: FileOptions,
    bar: Bar,
) -> None:
    from captioner.bulk.run import caption_into

    try:
        caption_into(
            file.output,
            photos,
            captioner,
            decoding,
            batch_size=batch_size,
            redo=file.redo,
            retry_errors=file.retry_errors,
            embed=file.embed,
            sidecars=file.sidecar is not None,
            overwrite=file.overwrite,
            min_confidence=min_confidence,
            show=bar.show,
            report=lambda line: bar.print(f"captioner: {line}"),
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted: {bar.counts}. Run the same command to continue.") from None


def _write_on_ray(
    photos: Iterable[Photo],
    model: ModelOptions,
    options: DecodingOptions,
    batch_size: int,
    file: FileOptions,
    cluster: ClusterOptions,
    bar: Bar,
) -> None:
    import ray  # noqa: F401 - a missing package is reported before anything is written

    from captioner.bulk.cluster import caption_on_ray

    try:
        caption_on_ray(
            re.sub(r"^(\w{2,}):/+", r"\1://", str(file.output)),  # an address, from which a path takes a slash
            photos,
            model.load,
            options.over,
            workers=cluster.workers,
            gpus=cluster.gpus,
            part_size=cluster.part_size,
            redo=file.redo,
            retry_errors=file.retry_errors,
            batch_size=batch_size,
            address=cluster.address,
            show=bar.show,
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted: {bar.counts}. Run the same command to continue.") from None


def _last_line(file: FileOptions, into_file: bool, bar: Bar) -> None:
    counts = bar.counts
    if into_file:
        where = ""
        if file.output is not None and counts.failed + counts.failed_before:
            where = f" The errors are in {file.output}."
        left_out = f" Left out for low confidence: {counts.left_out:,}." if counts.left_out else ""
        print(f"captioner: {counts}.{left_out}{where}", file=sys.stderr)
    elif counts.failed:
        total = counts.captioned + counts.failed
        print(f"captioner: {counts.failed} of {total} photos could not be captioned.", file=sys.stderr)
