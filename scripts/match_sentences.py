"""Find sentences of a text file that describe photos with few captions, such as one alt-text each, to train on them:

python scripts/match_sentences.py --data datasets/web --sentences sentences.txt --output datasets/web_matched

The output folder is a data set of the same photos and splits. Its training photos have their own captions and the
matched sentences; the other photos have their own captions only. Photos that cannot be read are left out. It needs
`pip install sentence-transformers`.

The candidates of a photo are the sentences nearest to its own captions, by the cosine similarity of the embeddings of a
sentence encoder (Reimers and Gurevych 2019, https://arxiv.org/abs/1908.10084). A captioner then checks them against the
photo. The gain of a sentence is its log-probability given the photo, minus the mean of its log-probabilities given some
random photos, per word. Candidates are ranked by similarity + 0.35 gain."""

from __future__ import annotations

import json
import os
import random
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from tqdm import tqdm

from captioner import Captioner
from captioner.cli.options import leave_out_damaged
from captioner.data.readers import Record, read_captions, read_dataset, select
from captioner.data.records import lines
from captioner.vocabulary import tokenize

GAIN_WEIGHT = 0.35
Encode = Callable[[Sequence[str]], np.ndarray]  # S sentences -> embeddings (S, E) of length 1


@dataclass
class Arguments:
    data: Path
    sentences: Path  # UTF-8 text, one sentence per line; captions of the val and test photos of data are left out
    output: Path  # the folder of the new data set
    exclude: tuple[Path, ...] = ()  # more data sets whose val and test captions are left out
    encoder: str = "sentence-transformers/all-MiniLM-L6-v2"  # or a local folder
    candidates: int = 20  # sentences per photo that the captioner checks
    similarity: float = 0.55  # least cosine similarity to a caption of the photo
    checkpoint: str = "everyday"  # the captioner
    random_photos: int = 8  # photos that give the mean log-probability of a sentence
    gain: float = 0.6  # least gain per word
    keep: int = 5  # greatest number of sentences added to a photo
    uses: int = 12  # greatest number of photos that a sentence is added to
    seed: int = 0


def load_encoder(name: str) -> Encode:
    try:
        from sentence_transformers import SentenceTransformer
    except ModuleNotFoundError as error:
        hint = "Install it with: pip install sentence-transformers"
        raise ModuleNotFoundError(f"{error.name} is needed here but is not installed. {hint}") from None
    model = SentenceTransformer(name)
    return lambda sentences: model.encode(list(sentences), normalize_embeddings=True)


def read_sentences(path: Path, data: Sequence[Path]) -> list[str]:
    """The sentences of a file, each once, without those that equal a val or test caption of the data sets."""
    entries = [entry for each in data for entry in read_captions(each) if entry.split != "train"]
    left_out = {(), *(tuple(tokenize(caption)) for entry in entries for caption in entry.captions)}
    sentences = {tuple(tokenize(line)): " ".join(line.split()) for _, line in lines(path)}
    found = [sentence for words, sentence in sentences.items() if words not in left_out]
    if not found:
        raise ValueError(f"{path}: no sentences; expected one per line, other than val and test captions.")
    return found


def nearest(record: Record, sentences: Sequence[str], table: np.ndarray, encode: Encode, best: int) -> dict[str, float]:
    """The sentences most similar to a caption of the photo, with their similarity. `table` (S, E): the embeddings."""
    own = [tokenize(caption) for caption in record.captions]
    similarities = (encode(record.captions) @ table.T).max(axis=0)  # (S,)
    order = np.argsort(-similarities, kind="stable")[:best].tolist()
    return {sentences[i]: float(similarities[i]) for i in order if tokenize(sentences[i]) not in own}


def log_probabilities(captioner: Captioner, photo: Path, sentences: Sequence[str]) -> np.ndarray:
    """(S,): each divided by the number of words, of which the end of the sentence is one."""
    parts = [sentences[start : start + 256] for start in range(0, len(sentences), 256)]
    captions = [caption for part in parts for caption in captioner.read(photo, part)]
    return np.array([caption.log_probability / (len(caption.words) + 1) for caption in captions])


def match(
    records: Sequence[Record], sentences: Sequence[str], encode: Encode, captioner: Captioner, arguments: Arguments
) -> dict[Path, list[str]]:
    """The sentences that each photo gets, best first. The photos choose in random order, as sentences can run out."""
    table, candidates = encode(sentences), {}
    for record in tqdm(records, desc="similarity", unit=" photos", disable=None):
        found = nearest(record, sentences, table, encode, arguments.candidates)
        candidates[record.path] = {each: value for each, value in found.items() if value >= arguments.similarity}

    chance = random.Random(arguments.seed)
    texts = sorted({each for found in candidates.values() for each in found}, key=lambda each: (len(each), each))
    photos = chance.sample([*candidates], min(arguments.random_photos, len(candidates)))
    bar = tqdm(photos, desc="random photos", unit=" photos", disable=None)
    means = np.mean([log_probabilities(captioner, photo, texts) for photo in bar], axis=0)
    usual = dict(zip(texts, means.tolist(), strict=True))

    used: Counter[str] = Counter()
    matched = {}
    for photo in tqdm(chance.sample([*candidates], len(candidates)), desc="gain", unit=" photos", disable=None):
        similar = candidates[photo]
        given = dict(zip(similar, log_probabilities(captioner, photo, [*similar]).tolist(), strict=True))
        gains = {each: given[each] - usual[each] for each in similar}
        good = [each for each in similar if gains[each] >= arguments.gain and used[each] < arguments.uses]
        good.sort(key=lambda each: similar[each] + GAIN_WEIGHT * gains[each], reverse=True)
        matched[photo] = good[: arguments.keep]
        used.update(matched[photo])
    return matched


def main(arguments: Arguments) -> None:
    file = arguments.output / "captions.jsonl"
    if file.exists():
        raise FileExistsError(f"{file} exists and is not overwritten. Remove it or name another folder.")
    encode, captioner = load_encoder(arguments.encoder), Captioner.load(arguments.checkpoint)
    records = leave_out_damaged(read_dataset(arguments.data))
    train = select(records, "train")
    sentences = read_sentences(arguments.sentences, (arguments.data, *arguments.exclude))
    matched = match(train, sentences, encode, captioner, arguments)

    arguments.output.mkdir(parents=True, exist_ok=True)
    with file.open("x", encoding="utf-8") as output:
        for record in records:
            image = os.path.relpath(record.path.parent.resolve() / record.path.name, arguments.output.resolve())
            captions = [*record.captions, *matched.get(record.path, [])]
            row = {"image": image, "captions": captions, "split": record.split}
            output.write(json.dumps(row, ensure_ascii=False) + "\n")
    counts = [len(each) for each in matched.values() if each]
    print(f"{file}: {len(counts):,} of {len(train):,} training photos got {sum(counts):,} sentences")


if __name__ == "__main__":
    try:
        main(tyro.cli(Arguments, description=__doc__))
    except (ImportError, OSError, ValueError) as error:
        sys.exit(str(error))
