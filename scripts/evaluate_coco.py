"""Caption COCO's validation photos and score the captions, on COCO's official files:

python scripts/evaluate_coco.py --data datasets/coco2017 --checkpoint runs/coco/best --results results.json

`--data` holds annotations/captions_val2017.json and val2017/ (or both with 2014); scripts/download_data.py fetches
them. COCO's evaluation server and toolkit read the results file."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from captioner import Captioner
from captioner.data.readers import read_dataset, select
from captioner.evaluate import evaluate
from captioner.metrics.files.results import write_results
from captioner.metrics.files.tables import format_scores


@dataclass
class Arguments:
    data: Path = Path("datasets/coco2017")
    split: str = "val"
    checkpoint: Path | None = None
    results: Path = Path("results.json")
    limit: int = 0  # number of photos; 0 for all


def main(arguments: Arguments) -> None:
    captioner = Captioner.load(arguments.checkpoint)
    records = select(read_dataset(arguments.data, "coco"), arguments.split)
    records = records[: arguments.limit or None]
    scores, captions = evaluate(captioner, records, captioner.decoding, arguments.split)
    write_results(arguments.results, captions)
    print(format_scores(scores))


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
