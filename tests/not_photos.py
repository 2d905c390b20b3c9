"""Twenty images that are not photos, drawn otherwise than those that calibration sees: documents, screens, drawings and
patterns."""

import math
import random
from pathlib import Path

import numpy as np
from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont

LOREM = "lorem ipsum dolor sit amet consectetur adipiscing elit sed do eiusmod tempor incididunt ut labore".split()  # noqa: SIM905
NUMBERS = random.Random(7)


def page(width: int, height: int, colour: str = "white") -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", (width, height), colour)
    return image, ImageDraw.Draw(image)


def font(size: int, face: str = "DejaVuSans") -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(Path(get_data_path()) / "fonts" / "ttf" / f"{face}.ttf", size)


def words(count: int) -> str:
    return " ".join(NUMBERS.choice(LOREM) for _ in range(count))


def form() -> Image.Image:
    image, draw = page(600, 800)
    draw.text((40, 30), "Application form", "black", font(28))
    for row in range(10):
        draw.text((40, 100 + 64 * row), f"{words(1)}:", "black", font(16))
        draw.rectangle((220, 94 + 64 * row, 560, 126 + 64 * row), outline="grey", width=2)
    return image


def slide() -> Image.Image:
    image, draw = page(960, 540, "#123a5e")
    draw.text((60, 50), words(3).title(), "white", font(48, "DejaVuSans-Bold"))
    for row in range(4):
        draw.text((90, 170 + 80 * row), f"\u2022 {words(4)}", "white", font(28))
    return image


def receipt() -> Image.Image:
    image, draw = page(300, 700, "#fafafa")
    for row in range(24):
        line = f"{words(1):<14}{50 * NUMBERS.random():8.2f}"
        draw.text((14, 20 + 27 * row), line, "black", font(14, "DejaVuSansMono"))
    return image


def handwriting() -> Image.Image:
    image, draw = page(700, 500, "#fffff0")
    for y in range(50, 482, 48):
        draw.line((0, y + 14, 700, y + 14), "#b8cfe8")
        line = [(30 + 3 * t, y + 10 * math.sin(0.9 * t + NUMBERS.random()) * NUMBERS.random()) for t in range(180)]
        draw.line(line, "#1a2a6c", 2)
    return image


def table() -> Image.Image:
    image, draw = page(900, 600)
    for y in range(0, 600, 30):
        draw.line((0, y, 900, y), "#bbbbbb")
        for x in range(0, 900, 100):
            draw.line((x, y, x, y + 30), "#bbbbbb")
            draw.text((x + 5, y + 7), f"{1000 * NUMBERS.random():.1f}", "black", font(12))
    return image


def terminal() -> Image.Image:
    image, draw = page(800, 500, "black")
    for row in range(24):
        draw.text((8, 6 + 20 * row), f"user@host:~$ {words(5)}", "#33ff66", font(14, "DejaVuSansMono"))
    return image


def chat() -> Image.Image:
    image, draw = page(400, 800, "#ece5dd")
    draw.rectangle((0, 0, 400, 70), "#075e54")
    for row, y in enumerate(range(90, 740, 76)):
        left, fill = (15, "white") if row % 2 else (120, "#dcf8c6")
        draw.rounded_rectangle((left, y, left + 265, y + 54), 12, fill=fill)
        draw.text((left + 15, y + 16), words(3), "black", font(15))
    return image


def website() -> Image.Image:
    image, draw = page(1000, 700)
    draw.rectangle((0, 0, 1000, 60), "#24292f")
    for x in (40, 360, 680):
        draw.rounded_rectangle((x, 100, x + 280, 330), 10, fill="#f6f8fa", outline="#d0d7de")
        draw.text((x + 20, 120), words(2), "#0969da", font(20))
    for row in range(10):
        draw.text((40, 360 + 28 * row), words(10), "black", font(15))
    return image


def dialog() -> Image.Image:
    image, draw = page(800, 600, "#008080")
    draw.rectangle((200, 200, 600, 400), "#c0c0c0", outline="black")
    draw.rectangle((203, 203, 597, 228), "#000080")
    draw.text((230, 270), words(5), "black", font(14))
    draw.rectangle((360, 340, 440, 370), "#d4d0c8", outline="black")
    return image


def chart() -> Image.Image:
    image, draw = page(640, 480)
    draw.line((60, 20, 60, 420, 620, 420), "black", 2)
    for bar in range(10):
        draw.rectangle((80 + 52 * bar, NUMBERS.randint(40, 400), 115 + 52 * bar, 420), "#4472c4")
    return image


def stick_figures() -> Image.Image:
    image, draw = page(500, 500)
    for x in (110, 260, 400):
        draw.ellipse((x - 30, 120, x + 30, 180), outline="black", width=4)
        draw.line((x, 180, x, 320), "black", 4)
        draw.line((x - 50, NUMBERS.randint(200, 260), x, 220, x + 50, NUMBERS.randint(200, 260)), "black", 4)
        draw.line((x - 40, 420, x, 320, x + 40, 420), "black", 4)
    return image


def house() -> Image.Image:
    image, draw = page(600, 450)
    draw.rectangle((180, 220, 420, 400), outline="brown", width=5)
    draw.polygon((160, 220, 300, 110, 440, 220), outline="red", width=5)
    draw.ellipse((480, 30, 560, 110), fill="yellow", outline="orange", width=4)
    draw.line((0, 400, 600, 400), "green", 6)
    return image


def scribble() -> Image.Image:
    image, draw = page(500, 500, "#f0f0f0")
    for colour in ("black", "red"):
        x, y, angle, line = 250.0, 250.0, 0.0, []
        for _ in range(500):
            angle += NUMBERS.gauss(0, 0.4)
            x, y = min(max(x + 6 * math.cos(angle), 0), 500), min(max(y + 6 * math.sin(angle), 0), 500)
            line.append((x, y))
        draw.line(line, colour, 3)
    return image


def logo() -> Image.Image:
    image, draw = page(400, 400, "#ffcc00")
    draw.pieslice((80, 80, 320, 320), 40, 290, fill="#457b9d")
    draw.text((130, 330), words(1).upper(), "#457b9d", font(32, "DejaVuSans-Bold"))
    return image


def flow_chart() -> Image.Image:
    image, draw = page(700, 500)
    for y, x in zip(range(30, 480, 90), (80, 420, 250, 500, 120), strict=True):
        draw.line((350, 0, x + 65, y), "black", 2)
        draw.rounded_rectangle((x, y, x + 130, y + 50), 8, fill="#e8f0fe", outline="#1a73e8", width=2)
        draw.text((x + 15, y + 16), words(1), "black", font(15))
    return image


def grey(values: np.ndarray) -> Image.Image:
    """Values (h, w) in [0, 1] as an image."""
    return Image.fromarray((255 * values).astype(np.uint8)).convert("RGB")


def patterns() -> list[Image.Image]:
    """A chessboard, a gradient, salt and pepper, stripes, and clouds."""
    random_numbers = np.random.default_rng(7)
    y, x = np.mgrid[:400, :400]
    clouds = np.zeros((256, 256))
    for octave in range(1, 8):
        small = Image.fromarray(random_numbers.random((2**octave, 2**octave)).astype(np.float32))
        clouds += np.asarray(small.resize((256, 256), Image.Resampling.BICUBIC)) / 2 ** (octave / 2)
    return [
        grey((x // 24 + y // 24) % 2),
        grey((2 * x + y) / 1200),
        grey(np.digitize(random_numbers.random((400, 400)), [0.2, 0.8]) / 2),
        grey((1 + np.sin(0.2 * x + 0.1 * y)) / 2),
        grey((clouds - clouds.min()) / np.ptp(clouds)),
    ]


def not_photos() -> dict[str, Image.Image]:
    drawn = (form, slide, receipt, handwriting, table, terminal, chat, website, dialog, chart)
    drawn += (stick_figures, house, scribble, logo, flow_chart)
    images = {each.__name__: each() for each in drawn}
    return images | dict(zip(("chessboard", "gradient", "salt", "stripes", "clouds"), patterns(), strict=True))
