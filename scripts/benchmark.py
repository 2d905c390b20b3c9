"""The speed of captioner. Each figure and its baseline are measured in turns, in one run:

    python scripts/benchmark.py FOLDER_OF_PHOTOS [--only bulk warm …] [--output benchmark.json]

    bulk       captions from photo files in batches, beam 3, against the CNN alone in the same runtime
    table      the same into a file, against captions that are thrown away
    warm       one photo with the model loaded, against the CNN alone
    cold       `captioner caption PHOTO` as a new process
    install    size and time of `pip install .` and `pip install ".[train]"`, each in a new environment (minutes)
    decoder    a training step of the decoder, against a decoder that attends step by step (Show, Attend and Tell)
    beam       beam search over a batch, against one photo at a time
    joint      a joint training step, against forward and backward of the CNN alone
    scale      time and memory for 100, 1,000 and 10,000 photos (minutes)

Prints a table of medians, with the smallest and largest time in brackets. Leave the machine idle otherwise.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from captioner import Captioner
from captioner.bulk.listing import list_photos
from captioner.bulk.run import caption_into

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Figure:
    name: str
    unit: str
    ours: list[float]
    other: list[float]  # the baseline; may be empty
    against: str = ""

    def row(self) -> str:
        shown = f"| {self.name} | {spread(self.ours)} {self.unit} "
        if not self.other:
            return shown + "| | |"
        ratio = statistics.median(self.ours) / statistics.median(self.other)
        said = f"{ratio:.2f} times as long" if ratio > 1 else f"{1 / ratio:.1f} times as fast"
        return shown + f"| {self.against}: {spread(self.other)} {self.unit} | {said} |"


def spread(values: Sequence[float]) -> str:
    middle = f"{statistics.median(values):.3g}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.3g} to {max(values):.3g})"


def take_turns(rounds: int, *works: Callable[[], Any], scale: float = 1.0) -> list[list[float]]:
    """The seconds, times `scale`, of each function in each round, after a warm-up round."""
    times: list[list[float]] = [[] for _ in works]
    for number in range(rounds + 1):
        for work, measured in zip(works, times, strict=True):
            start = time.perf_counter()
            work()
            if number:
                measured.append((time.perf_counter() - start) * scale)
    return times


def bulk(photos: list[Path]) -> list[Figure]:
    captioner = Captioner.load()
    many = list(itertools.islice(itertools.cycle(photos), 320))
    pixels = np.stack([captioner.preprocess.read(photo)[0] for photo in many])

    def cnn() -> None:
        captioner.backend.encode(pixels)

    ours, alone = take_turns(5, lambda: list(captioner.caption_many(many)), cnn, scale=1000 / len(many))
    return [Figure("bulk: files to captions, beam 3", "ms per photo", ours, alone, "the CNN alone")]


def table(photos: list[Path]) -> list[Figure]:
    captioner = Captioner.load()
    many = list(itertools.islice(itertools.cycle(photos), 320))
    with tempfile.TemporaryDirectory() as folder:
        names = [Path(folder, f"{number:03}{photo.suffix}") for number, photo in enumerate(many)]
        for name, photo in zip(names, many, strict=True):
            name.symlink_to(photo.resolve())

        def alone() -> None:
            list(captioner.caption_many(names))

        def into(ending: str) -> None:
            caption_into(Path(folder, f"captions{ending}"), list_photos([folder]), captioner, redo=True)

        endings = (".jsonl", ".csv", ".parquet", ".sqlite")
        without, *times = take_turns(5, alone, *(partial(into, ending) for ending in endings), scale=1000 / len(names))
    return [
        Figure(f"table: bulk into {ending}", "ms per photo", ours, without, "without a file")
        for ending, ours in zip(endings, times, strict=True)
    ]


def warm(photos: list[Path]) -> list[Figure]:
    captioner = Captioner.load()
    turn = itertools.cycle(photos)
    pixels = captioner.preprocess.read(photos[0])[0][None]
    ours, alone = take_turns(
        40, lambda: captioner.caption(next(turn)), lambda: captioner.backend.encode(pixels), scale=1000
    )
    return [Figure("warm: one photo, file to caption", "ms", ours, alone, "the CNN alone")]


def cold(photos: list[Path]) -> list[Figure]:
    command = [sys.executable, "-m", "captioner", "caption", str(photos[0])]
    (ours,) = take_turns(7, lambda: subprocess.run(command, check=True, capture_output=True))
    return [Figure("cold: the command, one photo", "s", ours, [])]


def install(photos: list[Path]) -> list[Figure]:
    figures = []
    for name, what in (("light", str(ROOT)), ("with training", f"{ROOT}[train]")):
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            subprocess.run([sys.executable, "-m", "venv", folder], check=True)
            bare = size_of(Path(folder))
            subprocess.run([f"{folder}/bin/pip", "install", "-q", what], check=True, capture_output=True)
            figures.append(Figure(f"install, {name}: time", "s", [time.perf_counter() - start], []))
            figures.append(Figure(f"install, {name}: size", "MB", [size_of(Path(folder)) - bare], []))
    return figures


def size_of(folder: Path) -> float:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir()) / 1e6


def decoder(photos: list[Path]) -> list[Figure]:
    import torch
    from torch import nn
    from torch.nn import functional as F

    from captioner.decoder import Decoder
    from captioner.device import autocast
    from captioner.encoder import Features
    from captioner.vocabulary import PAD

    class StepByStep(nn.Module):
        """Xu et al. 2015, "Show, Attend and Tell", section 3.1.2 and appendix: at each step additive attention by the
        last hidden state, a gate, an LSTM over word and context, and a word from all three (eq. 7). Each caption
        has its own copy of the grid, and padding is computed like words, as is usual."""

        def __init__(self, vocabulary: int, D: int, E: int, H: int):
            super().__init__()
            self.embedding = nn.Embedding(vocabulary, E)
            self.start_h, self.start_c = nn.Linear(D, H), nn.Linear(D, H)
            self.key, self.query, self.score = nn.Linear(D, H), nn.Linear(H, H), nn.Linear(H, 1)
            self.gate = nn.Linear(H, D)
            self.cell = nn.LSTMCell(E + D, H)
            self.from_state, self.from_context = nn.Linear(H, E), nn.Linear(D, E)
            self.output = nn.Linear(E, vocabulary)
            self.dropout = nn.Dropout(0.4)

        def forward(self, grid: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
            words, mean = self.embedding(tokens), grid.mean(1)  # (N, T, E), (N, D)
            h, c = torch.tanh(self.start_h(mean)), torch.tanh(self.start_c(mean))
            keys = self.key(grid)  # (N, R, H)
            logits = []
            for t in range(tokens.shape[1]):
                weights = self.score(torch.tanh(keys + self.query(h)[:, None])).softmax(1)  # (N, R, 1)
                context = torch.sigmoid(self.gate(h)) * (weights * grid).sum(1)  # (N, D)
                h, c = self.cell(torch.cat([words[:, t], context], 1), (h, c))
                mixed = words[:, t] + self.from_state(h) + self.from_context(context)
                logits.append(self.output(self.dropout(mixed)))
            return torch.stack(logits, 1)

    B, C, D, E, H = 16, 5, 1280, 300, 512
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(8, 19, (B * C,), generator=generator)  # with the end token; captions of Flickr8k have 12
    T = int(lengths.max())
    figures = []
    for V in (2500, 10_000):
        tokens = torch.randint(4, V, (B * C, T + 1), generator=generator).to(device)
        tokens[:, 1:][torch.arange(T) >= lengths[:, None]] = PAD
        inputs, targets = tokens[:, :-1], tokens[:, 1:]
        real = targets != PAD
        features = Features(torch.randn(B, D).to(device), torch.randn(B, 49, D).to(device))
        ours, baseline = Decoder(V, D, D, E, H, dropout=0.4).to(device), StepByStep(V, D, E, H).to(device)

        def step(model: nn.Module, forward: Callable[[], torch.Tensor], synchronise: bool = device.type == "cuda"):
            optimizer = torch.optim.AdamW(model.parameters())

            def run() -> None:
                with autocast(device):
                    loss = forward()
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                if synchronise:
                    torch.cuda.synchronize()

            return run

        def our_loss(model=ours, features=features, inputs=inputs, targets=targets, real=real) -> torch.Tensor:
            logits, _, _ = model(inputs, model.prepare(features), real=real)
            return F.cross_entropy(logits.float(), targets[real])

        def their_loss(model=baseline, features=features, inputs=inputs, targets=targets) -> torch.Tensor:
            logits = model(features.grid.repeat_interleave(C, 0), inputs)
            return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=PAD)

        fast, slow = take_turns(7, step(ours, our_loss), step(baseline, their_loss), scale=1000)
        name = f"decoder: training step, 16 photos × 5 captions, V = {V:,}"
        figures.append(Figure(name, "ms", fast, slow, "step-by-step additive attention"))
    return figures


def beam(photos: list[Path]) -> list[Figure]:
    figures = []
    for backend in ("onnx", "torch") if importlib.util.find_spec("torch") else ("onnx",):
        captioner = Captioner.load(backend=backend)
        pixels = np.stack([captioner.preprocess.read(photo)[0] for photo in photos[:80]])
        together = captioner.backend.encode(pixels)
        apart = [captioner.backend.encode(each[None]) for each in pixels]

        def batched(captioner=captioner, together=together, pixels=pixels) -> None:
            captioner.search(together, len(pixels), captioner.decoding)

        def one_by_one(captioner=captioner, apart=apart) -> None:
            for memory in apart:
                captioner.search(memory, 1, captioner.decoding)

        fast, slow = take_turns(5, batched, one_by_one, scale=1000 / len(pixels))
        figures.append(
            Figure(f"beam: batched search, beam 3, {backend}", "ms per photo", fast, slow, "one photo at a time")
        )
    return figures


def joint(photos: list[Path]) -> list[Figure]:
    import torch

    from captioner.device import autocast
    from captioner.training.objectives.cross_entropy import cross_entropy
    from captioner.training.optim import build_optimizer

    model = Captioner.load(backend="torch").model
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(4, 2500, (80, 13), generator=generator).to(model.device)
    real = (torch.arange(13) < torch.randint(8, 14, (80, 1), generator=generator)).to(model.device)
    images = torch.randn(16, 3, 224, 224).to(model.device, memory_format=torch.channels_last)
    figures = []
    for block in ("features.14", "features.0"):
        model.encoder.unfreeze_from(block)
        model.train()
        optimizer = build_optimizer([(model.decoder, 4e-4), (model.encoder, 1e-4)], 0.01)

        def step(optimizer=optimizer) -> None:
            with autocast(model.device):
                logits, _, _ = model(images, inputs, real)
                loss = cross_entropy(logits, inputs[real], 0.1) / real.sum()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()

        def cnn() -> None:
            model.zero_grad(set_to_none=True)
            with autocast(model.device):
                features = model.encoder(images)
            (features.pooled.float().sum() + features.grid.float().sum()).backward()

        ours, alone = take_turns(5, step, cnn, scale=1000 / len(images))
        name = f"joint: training step, CNN from {block} up"
        figures.append(Figure(name, "ms per photo", ours, alone, "forward and backward of the CNN alone"))
    return figures


MANY = """
import itertools, json, sys, time
from pathlib import Path
from captioner import Captioner
photos, count = sys.argv[2:], int(sys.argv[1])
captioner = Captioner.load()
start = time.perf_counter()
for _ in captioner.caption_many(itertools.islice(itertools.cycle(photos), count)):
    pass
seconds = time.perf_counter() - start
lines = Path("/proc/self/status").read_text().splitlines()  # getrusage would include the parent's memory
print(json.dumps([seconds, next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))]))
"""


def scale(photos: list[Path]) -> list[Figure]:
    figures = []
    found = []
    for count in (100, 1_000, 10_000):
        command = [sys.executable, "-c", MANY, str(count), *map(str, photos)]
        seconds, megabytes = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        found.append((count, seconds, megabytes))
        figures.append(Figure(f"scale: {count:,} photos", "s", [seconds], []))
        figures.append(Figure(f"scale: {count:,} photos, most memory", "MB", [megabytes], []))
    (few, first, before), (many, last, after) = found[0], found[-1]
    figures.append(Figure("scale: slope of time", "ms per photo", [1000 * (last - first) / (many - few)], []))
    figures.append(Figure("scale: slope of memory", "KB per photo", [1000 * (after - before) / (many - few)], []))
    return figures


WORKS = (bulk, table, warm, cold, install, decoder, beam, joint, scale)


def machine() -> dict[str, str]:
    names = ("captioner", "numpy", "onnxruntime", "pillow", "torch", "torchvision")
    installed = {name: importlib.metadata.version(name) for name in names if importlib.util.find_spec(name.lower())}
    return {"processor": processor(), "cores": str(os.cpu_count()), "python": platform.python_version(), **installed}


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="a folder of photos")
    parser.add_argument("--only", nargs="+", choices=[work.__name__ for work in WORKS], metavar="NAME")
    parser.add_argument("--output", type=Path, help="also write the figures here, as JSON")
    arguments = parser.parse_args()
    photos = sorted(path for path in arguments.photos.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not photos:
        parser.error(f"no photos (.jpg, .jpeg, .png) in {arguments.photos}")
    about = machine()
    print(", ".join(f"{key} {value}" for key, value in about.items()), f"\n{len(photos)} photos\n", flush=True)
    print("| task | captioner | baseline | captioner is |\n|---|---|---|---|", flush=True)
    figures = []
    for work in WORKS:
        if not arguments.only or work.__name__ in arguments.only:
            for figure in work(photos):
                figures.append(figure)
                print(figure.row(), flush=True)
    if arguments.output:
        found = {"machine": about, "photos": len(photos), "figures": [asdict(figure) for figure in figures]}
        arguments.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
