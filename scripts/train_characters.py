"""A character model of Python's own manual: trains for a few minutes on one CPU core, writes samples, and shows units
of its LSTM over the text (the classic picture of Karpathy et al. 2015).

python scripts/train_characters.py [--output runs/characters] [--epochs 10] [any setting of captioner pretrain]

The text is the language reference that comes with Python (pydoc's topics): nothing is downloaded."""

from dataclasses import replace
from pathlib import Path
from pydoc_data.topics import topics

import tyro

from captioner.config import RecurrentConfig
from captioner.language_model import LanguageModel
from captioner.training.config import PretrainConfig
from captioner.training.pretrain import pretrain

RECIPE = PretrainConfig(
    text=(),
    output=Path("runs/characters"),
    level="character",
    model=RecurrentConfig(embedding_size=64, hidden_size=384, layers_above=0, dropout=0.1),
    epochs=10,
    batch_size=16,
    bptt=100,
    learning_rate=2e-3,
)
TEMPERATURES = (0.5, 0.8, 1.0)


def main() -> None:
    config = tyro.cli(PretrainConfig, default=RECIPE, description=__doc__)
    if not config.text:
        config = replace(config, text=(write_manual(config.output / "manual.txt"),))
    model = LanguageModel.load(pretrain(config))
    samples = [f"temperature {each}\n\n{model.write(600, temperature=each)}\n" for each in TEMPERATURES]
    path = config.output / "samples.txt"
    path.write_text("\n\n".join(samples), encoding="utf-8")
    print(samples[1])
    print(f"{path} has more. The units of its LSTM, over the text:")
    print(f"captioner attend {config.text[0]} --cells --checkpoint {config.output / 'best'} -o units.png")


def write_manual(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n\n".join(topics.values()), encoding="utf-8")
    return path


if __name__ == "__main__":
    main()
