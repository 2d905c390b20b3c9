"""Why are my captions bad? Checks of a trained model on a data set: `measure` takes the measurements, `checks` judges
them. Scores are in `evaluate`."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from captioner.captioner import Captioner
from captioner.data.readers import Record
from captioner.diagnose import checks, measure
from captioner.diagnose.checks import Finding, Verdict
from captioner.vocabulary import tokenize

__all__ = ["Finding", "Verdict", "diagnose"]

PROBE = 64  # photos for the checks that run the CNN again; few are enough, as each photo is compared with itself


@torch.inference_mode()
def diagnose(captioner: Captioner, records: Sequence[Record], training: Sequence[Record] = ()) -> list[Finding]:
    """All findings about a model, from at least two photos that it was not trained on and, to check for over-fitting,
    some `training` photos. Raises ImageError for a photo that cannot be read, and ValueError for fewer than two."""
    if len(records) < 2:
        raise ValueError(f"{len(records)} photos; expected at least two, preferably a few dozen. Pass more.")
    captioner.model.eval()
    probe = records[:PROBE]
    features = measure.encode(captioner, records, "photos")
    losses = measure.teacher_forced(captioner, records, features)
    captions = measure.free_captions(captioner, features)
    words = [caption.words for caption in captions]
    references = [tokenize(text) for record in records for text in record.captions]
    looks = [look for caption in captions if (look := caption.attention_statistics) is not None]
    frequencies = checks.unigram_entropy(references, captioner.vocabulary)
    trained = None
    if training:
        trained = measure.teacher_forced(captioner, training, measure.encode(captioner, training, "training photos"))
    return [
        checks.learning(losses, frequencies),
        checks.overfitting(losses, trained, frequencies),
        checks.looks_at_photo(*measure.shuffled_losses(captioner, records, features), losses),
        checks.preprocessing(captioner.preprocess, captioner.model.encoder, measure.losses_of_views(captioner, probe)),
        checks.batch_norm(*measure.batch_norm_drift(captioner, probe)),
        checks.unknown_words(references, captioner.vocabulary),
        checks.distinct(words),
        checks.same_caption(words),
        checks.unfinished(captions),
        checks.endings(words, references),
        checks.repetition(words, references),
        checks.attention(looks),
    ]
