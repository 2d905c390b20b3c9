"""Photos in, sentences out, and a picture of where the model looked for each word.

from captioner import Captioner
print(Captioner.load().caption("photo.jpg"))
"""

from captioner.captioner import Caption, Captioner
from captioner.checkpoint.manifest import CheckpointError
from captioner.decoding import Decoding
from captioner.images import ImageError

__all__ = ["Caption", "Captioner", "CheckpointError", "Decoding", "ImageError"]
__version__ = "0.1.0"
