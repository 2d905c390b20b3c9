"""Mutated images of every format are captioned: no traceback, no photo unaccounted for, none that takes more than five
seconds, and the peak of memory is printed. Not part of the test run:

python tests/fuzz/fuzz_images.py 10000 --seed 0
"""

from __future__ import annotations

import argparse
import io
import random
import resource
import time
from collections import Counter
from collections.abc import Iterator

from PIL import Image

from captioner import Captioner, ImageError
from captioner.cli.streams import prepare

SLOW = 5.0  # seconds
FORMATS: dict[str, list[dict]] = {
    "JPEG": [{}, {"progressive": True}, {"quality": 30, "subsampling": 0}],
    "PNG": [{}, {"optimize": True}],
    "WEBP": [{}, {"lossless": True}],
    "GIF": [{}],
    "BMP": [{}],
    "TIFF": [{}, {"compression": "tiff_lzw"}, {"compression": "jpeg"}, {"compression": "tiff_deflate"}],
    "AVIF": [{}],
}
MODES = {"PNG": ("RGB", "RGBA", "LA", "P", "I;16", "1"), "TIFF": ("RGB", "L", "CMYK"), "GIF": ("P", "L")}


def originals() -> list[tuple[str, bytes]]:
    photo = Image.effect_mandelbrot((96, 64), (-2, -1.5, 1, 1.5), 30)
    exif = Image.Exif()
    exif[0x0112] = 6
    found = []
    for format, settings in FORMATS.items():
        for mode in MODES.get(format, ("RGB",)):
            for options in settings:
                if mode != "RGB" and options.get("compression") == "jpeg":
                    continue
                extra = {"exif": exif} if format in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF") else {}
                photo.convert(mode).save(file := io.BytesIO(), format, **options, **extra)
                found.append((f"{format}-{mode}", file.getvalue()))
    return found


def mutate(data: bytes, random: random.Random) -> bytes:
    mutated = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 4, 16))):
        # mostly the header, where a byte has the largest effect
        at = random.randrange(len(mutated) if random.random() < 0.5 else min(len(mutated), 200))
        match random.randrange(6 if random.random() < 0.3 else 3):
            case 0:
                mutated[at] ^= 1 << random.randrange(8)
            case 1:
                mutated[at] = random.choice((0, 1, 0x7F, 0x80, 0xFF))
            case 2:
                mutated[at : at + 4] = random.randbytes(4)
            case 3:
                del mutated[at : at + random.randrange(1, 64)]
            case 4:
                mutated[at:at] = mutated[at : at + random.randrange(1, 64)]
            case 5:
                del mutated[max(1, at) :]
        if not mutated:
            return b"\0"
    return bytes(mutated)


def photos(number: int, seed: int) -> Iterator[tuple[str, bytes]]:
    known = originals()
    for i in range(number):
        stream = random.Random(f"{seed}-{i}")
        kind, data = stream.choice(known)
        yield f"{i}-{kind}", mutate(data, stream)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("number", type=int, nargs="?", default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--decode-only", action="store_true", help="do not caption, which takes most of the time")
    arguments = parser.parse_args()
    prepare()
    captioner = Captioner.load(backend="onnx")
    outcomes: Counter[str] = Counter()
    slow = []
    for name, data in photos(arguments.number, arguments.seed):
        stream = io.BytesIO(data)
        stream.name = name
        start = time.monotonic()
        try:
            if arguments.decode_only:
                captioner.preprocess.read(stream)
                outcomes["opened"] += 1
            else:
                (result,) = captioner.caption_many([stream])
                assert not isinstance(result, ImageError) or str(result).startswith(name), str(result)
                outcomes["refused" if isinstance(result, ImageError) else "captioned"] += 1
        except ImageError as error:
            assert str(error).startswith(name) and "\n" not in str(error), str(error)
            outcomes["refused"] += 1
        if time.monotonic() - start > SLOW:
            slow.append(f"{name}: {time.monotonic() - start:.1f} s")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    figures = f"{dict(outcomes)}; peak memory {peak:.0f} MB; slow: {', '.join(slow) or 'none'}"
    print(f"{arguments.number} images, seed {arguments.seed}: {figures}")
    assert sum(outcomes.values()) == arguments.number and not slow


if __name__ == "__main__":
    main()
