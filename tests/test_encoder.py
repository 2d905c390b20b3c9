"""The encoder against torchvision's own models: what the cut leaves, what learns, where weights come from."""

from __future__ import annotations

import copy
import urllib.request
import warnings
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from captioner.checkpoint.tensors import load_checkpoint
from captioner.encoder import Encoder
from captioner.pretrained import build_cnn, cnn_names, outline_cnn

FAMILIES = {  # the smallest member of each family: pooled size, grid size, grid side of a 64-pixel image
    "alexnet": (4096, 256, 1),
    "vgg11": (4096, 512, 2),
    "vgg11_bn": (4096, 512, 2),
    "resnet18": (512, 512, 2),
    "resnext50_32x4d": (2048, 2048, 2),
    "wide_resnet50_2": (2048, 2048, 2),
    "densenet121": (1024, 1024, 2),
    "googlenet": (1024, 1024, 2),
    "inception_v3": (2048, 2048, 2),  # of a 107-pixel image: 64 are too few
    "mobilenet_v2": (1280, 1280, 2),
    "mobilenet_v3_small": (1024, 576, 2),
    "shufflenet_v2_x0_5": (1024, 1024, 2),
    "squeezenet1_1": (512, 512, 3),
    "mnasnet0_5": (1280, 1280, 2),
    "efficientnet_b0": (1280, 1280, 2),
    "efficientnet_v2_s": (1280, 1280, 2),
    "regnet_y_400mf": (440, 440, 2),
    "convnext_tiny": (768, 768, 2),
}
SHIPPED = Path(__file__).parents[2] / "shared/data/weights/mobilenet_v2.safetensors"


def filled(cnn: nn.Module) -> nn.Module:
    """A meta model with values: random enough to tell roads apart, faster than the real initialisation."""
    cnn = cnn.to_empty(device="cpu").eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, tensor in cnn.state_dict().items():
            if tensor.ndim > 1:
                bound = (6 / tensor[0].numel()) ** 0.5
                some = torch.empty(tensor[:64].shape).uniform_(-bound, bound, generator=generator)
                for row in range(0, len(tensor), 64):
                    part = tensor[row : row + 64]
                    part.copy_(some[: len(part)]).mul_(1 + row / len(tensor))
            elif tensor.is_floating_point():
                low = 0.5 if key.endswith(("running_var", "weight")) else -0.1
                tensor.uniform_(low, low + 0.5, generator=generator)
            else:
                tensor.zero_()
    return cnn


def cut(name: str, full: nn.Module) -> Encoder:
    """An encoder that shares the tensors of a full torchvision model."""
    with torch.device("meta"):
        encoder = Encoder(name, None)
    wanted = encoder.state_dict()
    state = {key: tensor for key, tensor in full.state_dict().items() if key in wanted}
    encoder.load_state_dict(state, assign=True)
    return encoder


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family(name: str) -> None:
    pooled_size, grid_size, side = FAMILIES[name]
    full = filled(outline_cnn(name))
    encoder = cut(name, full)
    assert (encoder.pooled_size, encoder.grid_size) == (pooled_size, grid_size)
    assert encoder.image_size == {"inception_v3": 299, "efficientnet_v2_s": 384}.get(name, 224)

    # Two roads: what torchvision's own forward feeds into its last layer, and into its pooling.
    seen: dict[str, Tensor] = {}
    last = [m for m in full.modules() if 1000 in (getattr(m, "out_features", 0), getattr(m, "out_channels", 0))][-1]
    last.register_forward_pre_hook(lambda _, inputs: seen.update(last=inputs[0]))
    pool = getattr(full, "avgpool", nn.Identity())
    pool.register_forward_pre_hook(lambda _, inputs: seen.update(grid=inputs[0].clone()))
    size = 107 if name == "inception_v3" else 64
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        full(images)
    features = encoder(images)
    assert features.pooled.shape == (2, pooled_size)
    assert features.grid.shape == (2, side * side, grid_size)
    assert features.pooled.std() > 0
    into_last = seen["last"].mean((2, 3)) if seen["last"].ndim == 4 else seen["last"]
    torch.testing.assert_close(features.pooled, into_last)
    if "grid" in seen:
        torch.testing.assert_close(features.grid.mT.reshape(seen["grid"].shape), seen["grid"])
    else:
        torch.testing.assert_close(features.grid.mean(1), features.pooled)

    # The classifier is gone, and nothing else.
    dropped = full.state_dict().keys() - encoder.state_dict().keys()
    assert {full.state_dict()[key].shape[0] for key in dropped} == {1000}
    assert all(p is not q for p in encoder.parameters() for q in last.parameters())

    # Frozen at the start: no parameter learns, no module trains, no graph is built.
    assert not any(p.requires_grad for p in encoder.parameters())
    encoder.train()
    assert not any(module.training for step in encoder.blocks for module in encoder.get_submodule(step).modules())
    assert not features.pooled.requires_grad and not features.grid.requires_grad

    # Gradients reach the first convolution when all is unfrozen, and every other parameter.
    encoder.unfreeze_from(encoder.blocks[0])
    encoder.eval()  # without stochastic depth
    pooled, grid = encoder(images)
    parameters = [p for p in encoder.parameters() if p.numel() < 2e7]  # the largest of VGG's cost seconds
    gradients = torch.autograd.grad(pooled.square().mean() + grid.square().mean(), parameters)
    assert isinstance(next(m for m in encoder.modules() if len([*m.children()]) == 0), nn.Conv2d)
    assert gradients[0].abs().sum() > 0
    assert all(gradient.isfinite().all() for gradient in gradients)
    covered = {p for block in encoder.blocks for p in encoder.get_submodule(block).parameters()}
    assert covered == set(encoder.parameters())


def test_names_are_all_of_torchvisions_cnns() -> None:
    names = cnn_names()
    assert len(names) >= 68 and set(FAMILIES) < set(names)
    assert not any(word in name for name in names for word in ("vit", "swin", "fcn", "rcnn", "quantized"))


@pytest.mark.parametrize(
    ("name", "says", "near"),
    [
        ("vit_b_16", "is in torchvision but is not a classification CNN", "resnet50"),
        ("swin_t", "is in torchvision but is not a classification CNN", "resnet50"),
        ("maxvit_t", "is in torchvision but is not a classification CNN", ""),
        ("resnet5", "is not a torchvision model", "resnet50"),
        ("mobilenetv2", "is not a torchvision model", "mobilenet_v2"),
    ],
)
def test_a_name_that_is_not_a_cnn(name: str, says: str, near: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        Encoder(name, None)
    assert near in str(caught.value)


def test_random_weights_come_without_warnings() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder = Encoder("googlenet", None)
    assert not any(key.startswith("aux") for key in encoder.state_dict())
    assert encoder.mean == encoder.std == (0.5, 0.5, 0.5)
    first = next(encoder.parameters())
    assert first.std() > 0 and not first.is_meta


def test_googlenet_and_inception_take_images_as_their_weights_expect() -> None:
    full: Any = filled(outline_cnn("googlenet"))
    encoder = cut("googlenet", full)
    full.transform_input = True  # as torchvision sets it for its weights, after ImageNet's normalisation
    full.fc = nn.Identity()
    photo = torch.rand(1, 3, 64, 64)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    our_mean, our_std = torch.tensor(encoder.mean).view(3, 1, 1), torch.tensor(encoder.std).view(3, 1, 1)
    ours = encoder((photo - our_mean) / our_std)
    torch.testing.assert_close(ours.pooled, full((photo - mean) / std), rtol=1e-3, atol=1e-3)


def test_mobilenet_v2_in_its_own_size() -> None:
    encoder = Encoder("mobilenet_v2", "none")
    images = torch.randn(2, 3, 224, 224).contiguous(memory_format=torch.channels_last)
    pooled, grid = encoder.to(memory_format=torch.channels_last)(images)
    assert grid.shape == (2, 49, 1280)
    assert grid.is_contiguous()  # channels-last: the grid is a view, not a copy
    torch.testing.assert_close(pooled, grid.mean(1))
    assert encoder.blocks == [f"features.{i}" for i in range(19)]
    assert encoder.mean == (0.485, 0.456, 0.406) and encoder.std == (0.229, 0.224, 0.225)


# Which parts learn


def train_a_little(encoder: Encoder) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    before = copy.deepcopy(encoder.state_dict())
    optimizer = torch.optim.AdamW([p for p in encoder.parameters() if p.requires_grad], lr=0.01)
    for _ in range(2):
        encoder.train()
        sum(f.square().mean() for f in encoder(torch.randn(4, 3, 32, 32))).backward()
        optimizer.step()
        optimizer.zero_grad()
    return before, encoder.state_dict()


def test_frozen_parts_and_statistics_do_not_drift() -> None:
    torch.manual_seed(0)
    encoder = Encoder("resnet18", None)
    encoder.unfreeze_from("layer4")
    before, after = train_a_little(encoder)
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    learned = {key for key, _ in encoder.get_submodule("layer4").named_parameters()}
    assert changed == {f"layer4.{key}" for key in learned}  # scale and shift of batch norm among them
    assert not any("running" in key or "num_batches" in key for key in changed)


def test_batch_norm_trains_only_when_told_and_only_above() -> None:
    torch.manual_seed(0)
    encoder = Encoder("resnet18", None)
    encoder.unfreeze_from("layer4", train_batch_norm=True)
    before, after = train_a_little(encoder)
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed == {key for key in before if key.startswith("layer4.")}
    encoder.unfreeze_from("layer4")
    assert not encoder.get_submodule("layer4.0.bn1").training


def test_modes_follow_the_blocks() -> None:
    encoder = Encoder("mobilenet_v3_small", None)
    encoder.train()
    encoder.unfreeze_from("features.10")
    training = {name for name, module in encoder.named_modules() if module.training}
    assert "features.10" in training and "classifier.0" in training and "features.9" not in training
    assert not any(isinstance(module, nn.BatchNorm2d) and module.training for module in encoder.modules())
    encoder.eval()
    assert not any(module.training for module in encoder.modules())
    encoder.unfreeze_from("features.8")  # does not wake an encoder in eval mode
    assert not any(module.training for module in encoder.modules())
    encoder.unfreeze_from(None)
    assert not any(p.requires_grad for p in encoder.parameters())


def test_no_graph_below_the_blocks_that_train() -> None:
    encoder = Encoder("mobilenet_v3_small", None)
    encoder.unfreeze_from("features.10")
    graph = {}
    for i, module in enumerate(encoder.get_submodule("features").children()):
        module.register_forward_hook(lambda *args, i=i: graph.update({i: args[2].requires_grad}))
    encoder(torch.randn(1, 3, 64, 64))
    assert graph == {i: i >= 10 for i in range(13)}


def test_unknown_block_lists_the_blocks() -> None:
    encoder = Encoder("resnet18", None)
    with pytest.raises(ValueError, match="'layer5'; it has, in order: conv1, bn1, layer1, layer2, layer3, layer4"):
        encoder.unfreeze_from("layer5")


# Where weights come from


def test_weights_from_files(tmp_path: Path) -> None:
    full = filled(outline_cnn("mobilenet_v3_small"))
    state = full.state_dict()
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "b.pth")
    save_file({key: tensor.half() for key, tensor in state.items()}, tmp_path / "half.safetensors")
    images = torch.randn(1, 3, 64, 64)
    expected = cut("mobilenet_v3_small", full)(images)
    for path in (tmp_path / "a.safetensors", str(tmp_path / "b.pth")):
        assert torch.equal(Encoder("mobilenet_v3_small", path)(images).pooled, expected.pooled)
    half = Encoder("mobilenet_v3_small", tmp_path / "half.safetensors")
    assert next(half.parameters()).dtype == torch.float32


def test_weights_from_a_checkpoint(tiny: Path) -> None:
    ours = Encoder("squeezenet1_1", tiny).state_dict()
    saved = load_checkpoint(tiny)[0]
    assert ours
    for key, tensor in ours.items():
        assert torch.equal(tensor, saved[f"encoder.{key}"]), key
    with pytest.raises(ValueError, match="expected the state dict of this torchvision model, but it lacks"):
        Encoder("alexnet", tiny)


def test_old_files_load(tmp_path: Path) -> None:
    """DenseNet's published file names its layers as torch 0.3 did, and has no batch counters."""
    full = filled(outline_cnn("densenet121"))
    state = {
        key.replace("norm1.", "norm.1.").replace("conv2.", "conv.2."): tensor
        for key, tensor in full.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    torch.save(state, tmp_path / "densenet.pth")
    images = torch.randn(1, 3, 64, 64)
    ours = Encoder("densenet121", tmp_path / "densenet.pth")(images)
    assert torch.equal(ours.pooled, cut("densenet121", full)(images).pooled)


def test_auxiliary_heads_in_a_file_are_dropped(tmp_path: Path) -> None:
    state = filled(outline_cnn("googlenet")).state_dict()
    torch.save({**state, "aux1.conv.conv.weight": torch.zeros(1)}, tmp_path / "google.pth")
    assert "aux1.conv.conv.weight" not in Encoder("googlenet", tmp_path / "google.pth").state_dict()


def test_wrong_files_are_one_clear_line(tmp_path: Path) -> None:
    def error(path: Path, kind: type[Exception] = ValueError) -> str:
        with pytest.raises(kind) as caught:
            Encoder("squeezenet1_1", path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
        return str(caught.value)

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.mkdir, (tmp_path / "sprung",)

    path = tmp_path / "w.pth"
    assert "does not exist" in error(path, FileNotFoundError)
    for content in (b"", b"no weights at all", b"PK\x03\x04 cut short"):
        path.write_bytes(content)
        assert "cannot be read as weights" in error(path)
        (tmp_path / "w.safetensors").write_bytes(content)
        assert "cannot be read as weights" in error(tmp_path / "w.safetensors")
    torch.save({"a": Trap()}, path)
    assert "cannot be read as weights" in error(path) and not (tmp_path / "sprung").exists()
    torch.save({"model": {"a": torch.zeros(1)}}, path)
    assert "is not a state dict" in error(path)

    state = filled(outline_cnn("squeezenet1_1")).state_dict()
    torch.save({**state, "head.bias": torch.zeros(1)}, path)
    assert "but it holds the unknown head.bias." in error(path)
    torch.save({key: tensor for key, tensor in state.items() if key != "features.0.bias"}, path)
    assert "but it lacks features.0.bias." in error(path)
    torch.save({**state, "features.0.bias": torch.zeros(3)}, path)
    assert "features.0.bias has shape [3], not [64]" in error(path)
    torch.save({**state, "features.0.bias": torch.full((64,), torch.nan)}, path)
    assert "features.0.bias holds NaN or infinity" in error(path)


def test_an_enum_member_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="no weights 'IMAGENET1K_V9'; torchvision has: IMAGENET1K_V1, IMAGENET1K_V2"):
        Encoder("resnet50", "IMAGENET1K_V9")


def test_default_without_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def offline(*args: object, **kwargs: object) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", offline)
    monkeypatch.setattr(torch.hub, "urlopen", offline)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ValueError, match=r"https://download.*squeezenet.*pass its path"):
        Encoder("squeezenet1_1")


def test_default_takes_torchvisions_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    full: Any = filled(outline_cnn("shufflenet_v2_x0_5"))
    asked = []

    def download(url: str, **options: object) -> dict[str, Tensor]:
        asked.append((url, options["weights_only"]))
        return full.state_dict()

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", download)
    encoder = Encoder("shufflenet_v2_x0_5")
    assert len(asked) == 1 and "shufflenet" in asked[0][0] and asked[0][1] is True
    assert torch.equal(encoder.get_parameter("conv1.0.weight"), full.conv1[0].weight)


@pytest.mark.skipif(not SHIPPED.is_file(), reason="the ImageNet weights are not here")
def test_real_weights() -> None:
    encoder = Encoder("mobilenet_v2", SHIPPED)
    full = build_cnn("mobilenet_v2")
    assert encoder.state_dict().keys() == {key for key in full.state_dict() if not key.startswith("classifier")}
    pooled, _ = encoder(torch.zeros(1, 3, 224, 224))
    assert 0 < pooled.mean() < 6  # ReLU6
