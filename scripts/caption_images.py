"""Caption the photos of a folder from Python:  python scripts/caption_images.py datasets/sample"""

import sys

from captioner import Captioner, ImageError
from captioner.images import find_images

paths = find_images(sys.argv[1:] or ["datasets/sample"])
if not paths:
    sys.exit("no photos found")
captioner = Captioner.load()  # the shipped model; or the directory of your own: Captioner.load("runs/mine/best")

# One photo: a path, bytes, an open file, a Pillow image or an array.
caption = captioner.caption(paths[0])
print(caption.text)
print("log-probability:", round(caption.log_probability, 2))
for i, (word, log_probability) in enumerate(zip(caption.words, caption.log_probabilities, strict=True)):
    looked = ""
    if caption.attention is not None:  # (words, rows, columns)
        row, column = divmod(int(caption.attention[i].argmax()), caption.attention.shape[2])
        looked = f"looked at row {row}, column {column}"
    print(f"  {word:12s} {log_probability:6.2f}  {looked}")

# Many photos: in batches, read while the model works. A photo that cannot be read yields its error.
for path, result in zip(paths, captioner.caption_many(paths), strict=True):
    print(f"{path}: {'not captioned: ' if isinstance(result, ImageError) else ''}{result}")

# Other captions of the same photo.
for other in captioner.caption(paths[0], method="sample", num_captions=3, temperature=0.7, seed=1).other_captions:
    print("or:", other)
