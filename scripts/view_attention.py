"""See where the model looked, from Python:  python scripts/view_attention.py PHOTO [PHOTO or FOLDER ...] OUTPUT_FOLDER

Writes an interactive page, a picture, an animation and the data of each photo to the output folder."""

import sys
from pathlib import Path

import numpy as np

from captioner import Captioner, ImageError
from captioner.images import find_images

*paths, output = sys.argv[1:] or [""]
photos, folder = find_images(paths), Path(output)
if not photos or folder.suffix:
    sys.exit(f"No photos were found, or the last argument is not a folder.\n\n{__doc__}")
folder.mkdir(parents=True, exist_ok=True)

captioner = Captioner.load()  # the shipped model; or the directory of your own: Captioner.load("runs/mine/best")
for photo in photos:
    try:
        caption = captioner.caption(photo)
    except ImageError as error:
        sys.exit(str(error))
    print(f"{photo}: {caption}")
    for ending in (".html", ".png", ".gif", ".npz"):  # also .svg, .pdf, .webp and .json
        caption.save(folder / f"{photo.stem}{ending}")

    # The maps themselves: (words, rows, columns), over `box` of the upright photo's pixels.
    if caption.attention is None or caption.box is None:
        continue
    left, top, right, bottom = caption.box
    for word, weights in zip(caption.words, caption.attention, strict=True):
        row, column = np.unravel_index(weights.argmax(), weights.shape)
        x = left + (column + 0.5) / weights.shape[1] * (right - left)
        y = top + (row + 0.5) / weights.shape[0] * (bottom - top)
        print(f"  {word:14s} {weights.max():4.0%} of the attention at the region around pixel ({x:.0f}, {y:.0f})")
print(f"See {folder}. A notebook displays a caption as the interactive page: captioner.caption('photo.jpg')")
