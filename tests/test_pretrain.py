"""Language models: the recipe against plain forms of it, what a run leaves, interrupts, and text that is written."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from captioner.captioner import Captioner
from captioner.checkpoint.tensors import load_checkpoint, load_state
from captioner.config import RecurrentConfig
from captioner.data.text import Segment
from captioner.language_model import LanguageModel
from captioner.model import build_language_model
from captioner.training import loop
from captioner.training.config import PretrainConfig
from captioner.training.journal import read_log
from captioner.training.loop import Interrupted, train_step
from captioner.training.objectives.language_model import NextToken, segment_loss
from captioner.training.pretrain import pretrain, validate_text
from captioner.training.text_run import Corpus, TextBatch
from captioner.vocabulary import BOS, EOS, PAD, Vocabulary

MODEL = RecurrentConfig(embedding_size=8, hidden_size=12, dropout=0.2)


@pytest.fixture(autouse=True)
def float32(monkeypatch):
    monkeypatch.setattr("captioner.device.has_bfloat16", lambda device: False)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Sentences in which the noun decides the verb."""
    random, path = np.random.default_rng(0), tmp_path_factory.mktemp("text") / "text.txt"
    pairs = [("dogs", "run"), ("cats", "sleep"), ("birds", "fly")]
    lines = (" ".join(("the", *pairs[i])) for i in random.integers(0, 3, 400))
    path.write_text("\n".join(lines) + "\n")
    return path


def settings(text, output, **changes) -> PretrainConfig:
    config = PretrainConfig(
        (text,), output, model=MODEL, epochs=2, batch_size=4, bptt=20, learning_rate=1e-2, patience=0, save_every=0,
        device="cpu",
    )  # fmt: skip
    return replace(config, **changes)


def decoder_and_text(seed: int = 0, **changes):
    """A tiny model and a text of documents of 1 to 12 tokens."""
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    documents = [[*random.integers(4, 20, random.integers(0, 12)).tolist(), EOS] for _ in range(30)]
    starts = np.concatenate([[True] + [False] * (len(document) - 1) for document in documents])
    decoder = build_language_model(replace(MODEL, dropout=0.0, **changes), 20)
    return decoder, documents, np.concatenate(documents).astype(np.int32), starts


def nats(decoder, document) -> torch.Tensor:
    """Word by word, from a fresh state."""
    total, state, fed = torch.zeros(()), None, BOS
    for token in document:
        logits, _, state = decoder(torch.tensor([[fed]]), None, state)
        total, fed = total - logits[0, 0].log_softmax(0)[token], token
    return total


@pytest.mark.parametrize("document", ["file", "line"])
def test_validation_is_document_by_document(document, monkeypatch):
    """One stream of documents, or documents batched whole: each token is predicted from all of its document so far."""
    decoder, documents, targets, starts = decoder_and_text()
    corpus = Corpus(targets, starts, document, rows=1 if document == "file" else 4)
    scores = validate_text(decoder, corpus, bptt=7, level="word")
    with torch.inference_mode():
        mean = float(sum(nats(decoder, each) for each in documents)) / len(targets)
    assert scores == {"loss": pytest.approx(mean, rel=1e-5), "perplexity": pytest.approx(math.exp(mean), rel=1e-5)}
    bits = validate_text(decoder, corpus, bptt=7, level="character")["bits per character"]
    assert bits == pytest.approx(mean / math.log(2), rel=1e-5)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_the_gradient_goes_back_to_the_start_of_the_segment(cell):
    """Segment by segment the state is carried, but its gradient is not; within a segment it passes a place where
    another stream's document starts."""
    decoder, _, _, _ = decoder_and_text(cell=cell)
    tokens = torch.randint(4, 20, (2, 9))
    starts = torch.zeros(2, 8, dtype=torch.bool)
    starts[0, 6] = True  # in the second segment, of the first stream only
    whole = Segment(tokens[:, :-1], tokens[:, 1:], starts)
    objective, run = NextToken(), type("Run", (), {"model": decoder, "device": torch.device("cpu")})
    parts = [Segment(*(part[:, :4] for part in whole)), Segment(*(part[:, 4:] for part in whole))]
    losses = [objective(run, TextBatch(part, i > 0, [])) for i, part in enumerate(parts)]
    (gradient,) = torch.autograd.grad(losses[1].sum, decoder.below.weight_hh_l0)

    _, state = segment_loss(decoder, parts[0], None)
    state = tuple(part.detach() for part in state)
    first, second = (tuple(part[:, [row]].contiguous() for part in state) for row in (0, 1))
    total = torch.zeros(())
    for row, kept, spans in ((0, first, [(4, 6), (6, 8)]), (1, second, [(4, 8)])):
        for begin, end in spans:
            logits, _, _ = decoder(tokens[[row], begin:end], None, kept)
            total = total + F.cross_entropy(logits[0], tokens[row, begin + 1 : end + 1], reduction="sum")
            kept = None
    (wanted,) = torch.autograd.grad(total, decoder.below.weight_hh_l0)
    assert losses[1].sum.item() == pytest.approx(total.item(), rel=1e-5) and losses[1].count == 8
    torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-6)


def test_a_run_learns_and_says_what_it_is(text, tmp_path, capsys, run):
    config = settings(text, tmp_path / "run", epochs=4, bptt=10, learning_rate=3e-2)
    best = pretrain(config)
    rows = read_log(config.output / "log.jsonl")
    scores = [row["perplexity"] for row in rows if row["kind"] == "validation"]
    # Four tokens a sentence, and one choice of three: 3 ** (1 / 4) = 1.32 at best.
    assert len(scores) == 4 and scores[0] > scores[-1] and 1.3 < scores[-1] < 1.45
    tensors, saved = load_checkpoint(best)
    assert (saved["kind"], saved["level"], saved["document"]) == ("language model", "word", "file")
    assert saved["scores"]["perplexity"] == min(scores)
    assert not [name for name in tensors if name.startswith(("encoder", "first", "attention"))]
    assert f"| perplexity | {min(scores):.4f} |" in (best / "README.md").read_text()
    assert (config.output / "curves.png").stat().st_size > 1000
    assert "text    1,440 words to train on, 160 to validate on, the end of the text" in capsys.readouterr().out

    status, out, _ = run(
        "write", best, "--length", 400, "--temperature", 0.5, "--prompt", "The birds", "--device", "cpu"
    )
    assert status == 0 and out == LanguageModel.load(best, "cpu").write(400, "The birds", 0.5) + "\n"
    written = out.splitlines()
    right = sum(line in ("the dogs run", "the cats sleep", "the birds fly") for line in written)
    assert right >= 0.9 * len(written) > 80, written
    with pytest.raises(ValueError, match="is a language model, which sees no photos"):
        Captioner.load(best)
    assert pretrain(replace(config, resume=True)) == best
    assert "is complete already" in capsys.readouterr().out
    (tmp_path / "other.txt").write_text("other words " * 500)
    with pytest.raises(ValueError, match="was started with other data"):
        pretrain(replace(config, text=(tmp_path / "other.txt",), resume=True, min_count=5))


@pytest.mark.parametrize("document", ["file", "line"])
def test_interrupted_and_resumed_is_uninterrupted(text, tmp_path, monkeypatch, document):
    """The carried state of a stream is resumed, too."""

    def stopped(run, batches):
        if run.progress.step == 8:
            raise KeyboardInterrupt
        return train_step(run, batches)

    more = {"document": document, "save_every": 3, "accumulate": 2, "vary_bptt": True}
    whole = settings(text, tmp_path / "whole", **more)
    pretrain(whole)
    cut = settings(text, tmp_path / "cut", **more)
    with monkeypatch.context() as patch, pytest.raises(Interrupted, match="after step 6"):
        patch.setattr(loop, "train_step", stopped)
        pretrain(cut)
    assert load_state(cut.output / "last")["objective"]["_extra_state"] is not None or document == "line"
    pretrain(replace(cut, resume=True))
    logs = [read_log(run.output / "log.jsonl") for run in (cut, whole)]
    assert logs[0] == logs[1] and len(logs[0]) > 20
    ours, theirs = (load_checkpoint(run.output / "last")[0] for run in (cut, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_short_segment_takes_a_small_step(text, tmp_path):
    run = settings(text, tmp_path / "run", epochs=1, warmup=0.0, bptt=70)  # 1,440 tokens in 4 streams: 360 = 5·70 + 10
    pretrain(run)
    rates = [row["learning_rate"] for row in read_log(run.output / "log.jsonl") if row["kind"] == "step"]
    shares = [0.02 + 0.98 * (1 + math.cos(math.pi * max(0, i - 1) / 5)) / 2 for i in range(6)]
    assert rates == pytest.approx([1e-2 * share * (10 / 70 if i == 5 else 1) for i, share in enumerate(shares)])


def test_it_stops_early(text, tmp_path, monkeypatch, capsys):
    scores = iter([3.0, 2.0, 2.5])
    monkeypatch.setattr(
        "captioner.training.pretrain.validate_text", lambda *_: {"loss": 1.0, "perplexity": next(scores)}
    )
    best = pretrain(settings(text, tmp_path / "run", epochs=9, patience=1))
    assert "no better perplexity for 1 epoch" in capsys.readouterr().out
    assert load_checkpoint(best)[1]["scores"]["perplexity"] == 2.0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"text": ()}, "--text is missing; expected at least one file"),
        ({"bptt": 0}, "--bptt is 0; expected 1 or more"),
        ({"min_count": 10_000}, "no word occurs 10000 times"),
        ({"batch_size": 1000}, "a text of 1440 tokens cannot be cut into 1000 streams"),
    ],
)
def test_settings_that_cannot_be_used(text, tmp_path, wrong, message):
    with pytest.raises(ValueError, match=message):
        pretrain(replace(settings(text, tmp_path / "run"), **wrong))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("content", "message"), [("\n", "no text. Expected"), ("a\n", "2 tokens of text are too few")])
def test_too_little_text(tmp_path, content, message):
    path = tmp_path / "short.txt"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        pretrain(settings(path, tmp_path / "run", min_count=1))


def language_model(level: str, document: str, words: str | list[str], after: dict[int, int]) -> LanguageModel:
    """A model that always continues as `after` says, from token to token."""
    vocabulary = Vocabulary(words)
    config = RecurrentConfig(embedding_size=24, hidden_size=24, layers_above=0, cell="rnn", dropout=0.0)
    decoder = build_language_model(config, len(vocabulary))
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.zero_()
        decoder.embedding.weight.copy_(torch.eye(24)[: len(vocabulary)])
        decoder.below.weight_ih_l0.copy_(5 * torch.eye(24))
        for token, following in after.items():
            decoder.output.weight[following, token] = 50
    return LanguageModel(decoder, vocabulary, config, level, document)


def test_where_lines_and_documents_end():
    after = {BOS: 4, 4: 5, 5: EOS, EOS: 5}  # a b; after the end of a line: b
    assert language_model("word", "file", ["a", "b"], after).write(6) == "a b\nb\nb"
    assert language_model("word", "line", ["a", "b"], after).write(6) == "a b\na b\n"
    assert language_model("character", "file", ["a", "b"], after).write(6) == "ab\nab\n"
    model = language_model("word", "file", ["a", "b", "'s"], {BOS: 4, 4: 6, 6: 5, 5: EOS, EOS: 5})
    assert model.write(3, prompt="B a") == "b a's b\n"
    with pytest.raises(ValueError, match=r"the model does not know 'zeppelin'\. Choose another"):
        model.write(3, prompt="a zeppelin")
    with pytest.raises(ValueError, match="temperature is 0"):
        model.write(3, temperature=0.0)


def test_samples_have_the_probabilities_of_the_model():
    decoder, *_ = decoder_and_text()
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.mul_(2)
    model = LanguageModel(decoder, Vocabulary([f"w{i}" for i in range(16)]), MODEL, "word", "line")
    logits = decoder.eval()(torch.tensor([[BOS]]))[0][0, 0].detach() / 0.3
    logits[[PAD, BOS, 3]] = -torch.inf
    first = [model.write(1, temperature=0.3, seed=seed) for seed in range(800)]
    assert "<unk>" not in first
    for word in range(4, 20):
        share = first.count(f"w{word - 4}") / len(first)
        assert share == pytest.approx(logits.softmax(0)[word].item(), abs=0.05)
    assert model.write(30, seed=1) == model.write(30, seed=1) != model.write(30, seed=2)
    assert json.dumps(model.to_config())
