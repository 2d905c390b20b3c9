"""Text for language models: the batches, put together again, are the text."""

import numpy as np
import pytest
import torch

from captioner.data.text import Documents, Streams, Text, read_documents, reset
from captioner.decoder import Decoder
from captioner.vocabulary import BOS, EOS, PAD, UNK, Vocabulary

WIKITEXT = """
 = Rice =

 Rice is grown in 1 @,@ 000 well @-@ known <unk> .
 = = History = =
 People ate rice .
 = Tea =

 Tea is drunk .
"""


def random_text(documents: int, seed: int = 0) -> Text:
    random = np.random.default_rng(seed)
    return Text.of([f"w{i}" for i in random.integers(0, 30, random.integers(1, 12))] for _ in range(documents))


def plain(text: Text) -> list[list[str]]:
    """The documents of a text, each target beside what is fed."""
    rows: list[list[str]] = []
    for identity, start in zip(text.ids, text.starts, strict=True):
        rows += [[]] if start else []
        rows[-1].append(text.tokens[identity - 1] if identity else "<eos>")
    return rows


def test_wikitext(tmp_path):
    path = tmp_path / "wiki.txt"
    path.write_text(WIKITEXT, encoding="utf-8")
    rice, tea = (" ".join(document) for document in plain(Text.of(read_documents([path]))))
    assert rice == (
        "= rice = <eos> rice is grown in 1,000 well-known <unk> <eos> = = history = = <eos> people ate rice <eos>"
    )
    assert tea == "= tea = <eos> tea is drunk <eos>"


def test_units_and_levels(tmp_path):
    one, two = tmp_path / "1.txt", tmp_path / "2.txt"
    one.write_bytes("\ufeffA dog's ball.\r\n\r\nRuns".encode())
    two.write_text("It's\n")

    def rows(level, unit):
        return plain(Text.of(read_documents([one, two], level, unit)))

    assert rows("word", "file") == [["a", "dog", "'s", "ball", "<eos>", "runs", "<eos>"], ["it", "'s", "<eos>"]]
    assert rows("word", "line") == [["a", "dog", "'s", "ball", "<eos>"], ["runs", "<eos>"], ["it", "'s", "<eos>"]]
    assert rows("character", "file") == [[*"A dog's ball.\n\nRuns", "<eos>"], [*"It's\n", "<eos>"]]
    assert rows("character", "line") == [[*"A dog's ball.", "<eos>"], [*"Runs", "<eos>"], [*"It's", "<eos>"]]


def test_text_that_is_not_utf8(tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes(b"good\nna\xefve\n")
    with pytest.raises(ValueError, match="line 2 is not UTF-8"):
        list(read_documents([path]))


def test_vocabulary_and_ids():
    text = Text.of([["b", "a", "b", "<unk>", "<pad>"], [], [None], ["c", "a", None, "b"]])
    vocabulary = text.vocabulary(min_count=2)
    assert vocabulary == Vocabulary(["b", "a"])
    assert text.encode(vocabulary).tolist() == [4, 5, 4, UNK, UNK, EOS, UNK, 5, EOS, 4, EOS]
    assert text.starts.nonzero()[0].tolist() == [0, 6]
    assert len(Text.of([]).ids) == 0


@pytest.mark.parametrize("streams", [1, 3, 7, 200])
@pytest.mark.parametrize("seed", [None, (0, 1)])
def test_streams_put_together_are_the_text(streams, seed):
    text = random_text(40)
    targets, starts = text.encode(text.vocabulary()), text.starts
    data = Streams(targets, starts, streams)
    segments = [data[span] for span in data.spans(6, seed)]
    assert all(len(segment.inputs) == streams for segment in segments)
    inputs, found, begins = (torch.cat(part, dim=1).flatten()[: len(targets)] for part in zip(*segments, strict=True))
    assert found.tolist() == targets.tolist() and begins.tolist() == starts.tolist()
    before = [EOS, *targets[:-1].tolist()]
    assert inputs.tolist() == [BOS if start else last for start, last in zip(starts, before, strict=True)]
    assert sum(int((segment.targets != PAD).sum()) for segment in segments) == len(targets)


def test_lengths_vary_as_a_function_of_the_seed():
    data = Streams(np.full(200_000, 5, np.int32), np.zeros(200_000, bool), 2)
    spans = data.spans(70, (0, 3))
    assert spans == data.spans(70, (0, 3)) != data.spans(70, (0, 4))
    lengths = np.array([end - begin for begin, end in spans[:-1]])
    halved = lengths < 52
    assert 0.03 < halved.mean() < 0.07 and lengths.min() >= 5
    assert abs(lengths[~halved].mean() - 70) < 0.5 and abs(lengths[~halved].std() - 5) < 0.4
    assert {end - begin for begin, end in data.spans(70)[:-1]} == {70} and data.spans(70)[-1] == (99_960, 100_000)


def test_documents_put_together_are_the_text():
    text = random_text(23)
    targets = text.encode(text.vocabulary())
    data = Documents(targets, text.starts)
    for seed in (None, (0, 1)):
        batches = data.batches(5, seed)
        assert sorted(map(len, batches)) == [3, 5, 5, 5, 5]
        rows = {}
        for batch in batches:
            segment = data[batch]
            assert segment.starts[:, 0].all() and not segment.starts[:, 1:].any()
            for index, fed, row in zip(batch, segment.inputs, segment.targets, strict=True):
                rows[index] = row[row != PAD].tolist()
                assert fed.tolist()[: len(rows[index])] == [BOS, *rows[index][:-1]]
        assert sum((rows[index] for index in range(23)), []) == targets.tolist()  # noqa: RUF017
    assert data.batches(5, (0, 1)) == data.batches(5, (0, 1)) != data.batches(5, (0, 2))


def test_carried_and_reset_states_give_each_document_its_own_logits():
    """Segment by segment, with the state reset where documents start, is document by document."""
    torch.manual_seed(0)
    text = random_text(30)
    targets = text.encode(text.vocabulary())
    decoder = Decoder(40, 1, 1, embedding_size=6, hidden_size=8, attention="none").eval()
    wanted = []
    for document in np.split(targets, np.flatnonzero(text.starts)[1:]):
        fed = torch.tensor([[BOS, *document[:-1]]])
        wanted.append(decoder(fed)[0][0])
    data = Streams(targets, text.starts, 1)
    state, found = None, []
    for span in data.spans(7, (0, 0)):
        for part in data[span].parts():
            logits, _, state = decoder(part.inputs, None, reset(state, part.starts[:, 0]))
            found.append(logits[0])
    torch.testing.assert_close(torch.cat(found), torch.cat(wanted))


def test_the_state_of_one_stream_is_reset_without_the_others():
    state = (torch.ones(2, 3, 4, requires_grad=True),)
    (part,) = reset(state, torch.tensor([False, True, False]))
    assert part[:, 1].eq(0).all() and part[:, [0, 2]].eq(1).all()
    assert reset(None, torch.tensor([True])) is None


def test_captions_of_a_data_set(tmp_path):
    """The folder of a data set is a text: the captions of one split, a line each."""
    rows = [
        ("a.jpg", "train", "A dog."),
        ("a.jpg", "train", "Two dogs"),
        ("b.jpg", "val", "a cat"),
        ("c.jpg", "test", "x"),
    ]
    table = "".join(f"{name},{caption},{split}\n" for name, split, caption in rows)
    (tmp_path / "captions.csv").write_text(f"image,caption,split\n{table}")
    assert list(read_documents([tmp_path], document="line"))[1:] == [["a", "dog", None], ["two", "dogs", None]]
    assert list(read_documents([tmp_path], split="val")) == [["a", "cat", None]]
    assert "".join(next(iter(read_documents([tmp_path], "character")))) == "A dog.\nTwo dogs\n"
