"""Two processes take the step of one: the same loss, the same gradients, for each objective."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from captioner import distributed
from captioner.config import ModelConfig
from captioner.data.datasets import Batch
from captioner.encoder import Features
from captioner.model import build_model
from captioner.training.config import TrainConfig
from captioner.training.loop import load_shares, train_step
from captioner.training.objectives import Loss, WithTerms, professor_forcing
from captioner.training.objectives.attention_supervision import AttentionSupervision
from captioner.training.objectives.coverage import Coverage
from captioner.training.objectives.cross_entropy import CrossEntropy
from captioner.training.objectives.distillation import Distillation, Teacher
from captioner.training.objectives.professor_forcing import Discriminator, ProfessorForcing
from captioner.training.objectives.scheduled_sampling import ScheduledSampling
from captioner.training.objectives.self_critical import SelfCritical
from captioner.training.optim import build_optimizer
from captioner.training.parallel import parallel
from captioner.training.run import Progress
from captioner.training.sampling import draw
from captioner.vocabulary import BOS, EOS, PAD, Vocabulary


class Drawn(nn.Module):
    """An objective whose random draws depend on the batch only."""

    def __init__(self, objective: nn.Module):
        super().__init__()
        self.objective = objective

    def forward(self, run, batch) -> Loss:
        torch.manual_seed(batch.ids[0])
        return self.objective(run, batch)


def reward(tokens, photos):
    return (tokens == 5).sum(axis=1).astype(float) + photos


def supervision() -> AttentionSupervision:
    return AttentionSupervision(0.5, 512, torch.arange(20) % 2 == 0, torch.full((20,), 0.2))


def teacher() -> Teacher:
    words = Vocabulary([f"w{number}" for number in range(16)])
    return Teacher(build_model(ModelConfig("squeezenet1_1", embedding_size=8, hidden_size=10), 20), words, words)


OBJECTIVES = {
    "cross-entropy": lambda: CrossEntropy(0.1),
    "attention-supervision": lambda: WithTerms(CrossEntropy(0.1), {"attention-supervision": supervision()}),
    "coverage": lambda: WithTerms(CrossEntropy(0.1), {"coverage": Coverage(0.5)}),
    "scheduled-sampling": lambda: ScheduledSampling(0.8, "linear", 0.1),
    "self-critical": lambda: SelfCritical(reward, {i: i for i in range(9)}, 3, "others", 6, 0.6, 0.5),
    "professor-forcing": lambda: ProfessorForcing(Discriminator(12, 7), 1.0, 0.1, 6),
    "distillation": lambda: Distillation([teacher()], 0.7),
}


CERTAIN, STEPS = ("cross-entropy", "attention-supervision", "coverage", "professor-forcing", "distillation"), 8


def batches() -> list[Batch]:
    """Captions of 14 and 6 tokens: a mean of two means would be another loss. The second batch has one photo."""
    random = torch.Generator().manual_seed(0)
    made = []
    for ids, captions in (([1, 2], [[4, 5, 6], [7], [8, 9], [10, 11, 12, 13]]), ([3], [[5, 5], [6, 7]])):
        tokens = torch.full((len(captions), 6), PAD)
        for row, caption in zip(tokens, captions, strict=True):
            row[: len(caption) + 2] = torch.tensor([BOS, *caption, EOS])
        features = Features(
            torch.randn(len(ids), 512, generator=random), torch.randn(len(ids), 4, 512, generator=random)
        )
        made.append(Batch(features, tokens, ids))
    return made


def merged(first: Batch, second: Batch) -> Batch:
    features = Features(*(torch.cat(pair) for pair in zip(first.images, second.images, strict=True)))
    return Batch(features, torch.cat([first.tokens, second.tokens]), [*first.ids, *second.ids])


@contextmanager
def certain():
    """Nothing is left to chance or rounded to bfloat16, so that a batch can be compared with its shares: the captions
    that are drawn are the most probable ones. The bound of Professor Forcing lies where a share alone would decide
    otherwise than the whole batch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("captioner.device.has_bfloat16", lambda device: False)
        patch.setattr(professor_forcing, "draw", partial(draw, greedy=True))
        patch.setattr(professor_forcing, "FOOL_ABOVE", 0.55)
        yield


def steps(name: str, parts: list[list[Batch]], dropout: float = 0.3) -> tuple[list[dict], dict[str, torch.Tensor]]:
    """The figures of these steps, and the weights after them."""
    torch.manual_seed(0)
    model = build_model(ModelConfig("squeezenet1_1", embedding_size=8, hidden_size=12, dropout=dropout), 20)
    objective = Drawn(OBJECTIVES[name]())
    run = SimpleNamespace(
        model=model.train(), objective=objective, config=TrainConfig((Path("data"),), Path("output"), clip=0.05),
        parallel=parallel(model, objective), optimizers={"model": build_optimizer([(model.decoder, 1e-2)], 0.1)},
        progress=Progress(), average=None,
        device=torch.device("cpu"), last=Path("output/last"), saved=0, stage_step=3, stage_steps=4,
    )  # fmt: skip
    if list(objective.parameters()):
        run.optimizers["objective"] = build_optimizer([(objective, 1e-2)], 0.1)
    figures = [train_step(run, each) for each in parts]
    return figures, {**model.decoder.state_dict(), **dict(objective.named_parameters())}


def as_generator(items):
    yield from items


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    first, second = batches()
    own = [first if rank == 0 else second]
    found = {name: steps(name, [own, own, own if rank == 0 else [None]]) for name in OBJECTIVES}
    with certain():
        whole = {name: steps(name, [own] * STEPS, dropout=0.0) for name in CERTAIN}
    taken = [
        list(load_shares(as_generator, [[1, 2, 3], [4], [5, 6]])),
        distributed.gather(rank),
        distributed.is_main(),
    ]
    torch.save((found, taken, whole), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    torch.multiprocessing.spawn(worker, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in (0, 1)]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_two_processes_take_the_step_of_one(two_processes, name):
    """Three steps; in the last one the second process has no photo."""
    first, second = batches()
    figures, weights = steps(name, [[first, second], [first, second], [first]])
    for found, _, _ in two_processes:
        ours, tensors = found[name]
        for one, other in zip(ours, figures, strict=True):
            assert one == pytest.approx(other, rel=1e-4)
        for each, tensor in weights.items():
            if "distinct" not in each:
                torch.testing.assert_close(tensors[each], tensor, rtol=1e-3, atol=1e-5, msg=each)


@pytest.mark.parametrize("name", CERTAIN)
def test_two_processes_take_the_steps_of_one_with_the_whole_batch(two_processes, name):
    """And two parts, the gradients of which are added up, do, too."""
    first, second = batches()
    with certain():
        figures, weights = steps(name, [[merged(first, second)]] * STEPS, dropout=0.0)
        parts = steps(name, [[first, second]] * STEPS, dropout=0.0)
    for ours, tensors in (parts, *(whole[name] for _, _, whole in two_processes)):
        for one, other in zip(ours, figures, strict=True):
            assert one == pytest.approx(other, rel=1e-3)
        for each, tensor in weights.items():
            torch.testing.assert_close(tensors[each], tensor, rtol=1e-2, atol=1e-4, msg=each)


def test_each_item_is_taken_once(two_processes):
    (_, (one, gathered, main), _), (_, (other, _, second), _) = two_processes
    assert one == [[1, 3], [4], [5]] and other == [[2], None, [6]]
    assert gathered == [0, 1] and main and not second


def test_processes_that_are_started_again_do_not_hear_of_dead_ones():
    """Three starts over one store; in the second one, a process dies after it has asked."""
    store = torch.distributed.HashStore()
    for start, size in ((1, 3), (3, 2)):
        with ThreadPoolExecutor() as pool:
            ranks = [pool.submit(distributed.agree_on_start, store, rank, size) for rank in reversed(range(size))]
            assert [each.result(timeout=30) for each in ranks] == [start] * size
        if start == 1:
            store.add("captioner/starts", 1)
            store.set("captioner/asks/1", "the ticket of a process that is killed now")


def test_a_process_that_does_not_come(monkeypatch):
    monkeypatch.setattr(distributed, "ARRIVAL", timedelta(0))
    with pytest.raises(TimeoutError, match=r"1 of 2 processes joined within 0:00:00\. Start them with torchrun"):
        distributed.agree_on_start(torch.distributed.HashStore(), 0, 2)


def test_the_death_of_another_process_is_one_line():
    broken = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:545] Read error: Connection reset by peer."
    for error in (RuntimeError(broken), torch.distributed.DistBackendError("NCCL error: remote process exited")):
        with pytest.raises(ConnectionError, match="another process of this run has died"), distributed.deaths_named():
            raise error
    with pytest.raises(RuntimeError, match="shape"), distributed.deaths_named():
        raise RuntimeError("another shape")
