import copy
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from baoseg import data, nets
from baoseg.core.errors import RecipeError, RunError
from baoseg.core.run_folder import RunFolder, StageFolder
from baoseg.core.types import IGNORE, Batch
from baoseg.data import TrainSet, collate
from baoseg.methods import Method, amn, bao, make
from baoseg.nets import Heads
from baoseg.predict import segment
from baoseg.training import guards, train
from baoseg.training.guards import LossWatch
from baoseg.training.learner import Learner
from baoseg.training.train import Config, Decay, Hardware, Optimizer

SCHEDULE = Config(epochs=3, batch_size=4, lr=1e-3)


def fit(
    stage: StageFolder, schedule: Config = SCHEDULE, *, until: int | None = None, hardware: Hardware = tiny.HARDWARE
) -> Method:
    """Train a BAO on tiny scenes; `until` stops after so many epochs, as a crash at that point would."""
    pictures = data.open_dataset(tiny.RECIPE.data, "train")
    network = nets.build(tiny.NET, len(pictures.classes), heads=Heads(backgrounds=1), seed=1)
    method = make(bao.Config(), network)
    samples = TrainSet(pictures, tiny.RECIPE.augment, network.normalisation, seed=2)
    if until is not None:
        epoch = len(samples) // schedule.batch_size
        after_step = method.after_step

        def crash(progress: object) -> None:
            after_step(progress)  # type: ignore[arg-type]
            if progress.step > until * epoch:  # type: ignore[attr-defined]
                raise KeyboardInterrupt

        method.after_step = crash  # type: ignore[method-assign, assignment]
    train.fit(method, samples, config=schedule, stage=stage, seed=3, hardware=hardware)
    return method


@pytest.mark.parametrize("optimizer", Optimizer)
def test_a_resumed_run_is_bit_equal_to_an_uninterrupted_one(tmp_path: Path, optimizer: Optimizer) -> None:
    schedule = replace(SCHEDULE, optimizer=optimizer)
    whole = fit(RunFolder(tmp_path / "whole").stage("bao"), schedule)
    broken = RunFolder(tmp_path / "broken").stage("bao")
    for finished in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            fit(broken, schedule, until=finished)
        assert broken.losses.read_text().count("\n") == 1 + finished
    resumed = fit(broken, schedule)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    columns = [line.split(",")[:2] + line.split(",")[3:] for line in broken.losses.read_text().splitlines()]
    expected = (tmp_path / "whole/bao/losses.csv").read_text().splitlines()
    assert columns == [line.split(",")[:2] + line.split(",")[3:] for line in expected]  # all but the seconds


def test_mixed_precision_trains_to_almost_the_same_losses(tmp_path: Path) -> None:
    schedule = replace(SCHEDULE, epochs=1)
    losses = []
    for precision in ("32-true", "bf16-mixed"):
        stage = RunFolder(tmp_path / precision).stage("bao")
        fit(stage, schedule, hardware=replace(tiny.HARDWARE, precision=precision))
        losses.append([float(value) for value in stage.losses.read_text().splitlines()[1].split(",")[3:]])
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert losses[0] != losses[1]


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    stage = RunFolder(tmp_path).stage("bao")
    fit(stage, replace(SCHEDULE, epochs=6))
    losses = [float(line.split(",")[3]) for line in stage.losses.read_text().splitlines()[1:]]
    assert losses[-1] < losses[0]


def test_a_loss_that_is_no_number_ends_the_run_with_a_remedy(tmp_path: Path) -> None:
    stage = RunFolder(tmp_path).stage("bao")
    with pytest.raises(RunError) as caught:
        fit(stage, replace(SCHEDULE, lr=1e30))
    assert re.fullmatch(
        rf"{stage.root}: the loss '\w+' is NaN or infinite in epoch 1, step 2; use a smaller learning rate \(--lr\)",
        str(caught.value),
    )
    assert not stage.state.exists() and not stage.network.exists()


class Bad(Learner):
    """A loss of two terms, one of which becomes what is given in a step, and weights that an epoch may spoil."""

    def __init__(self, *, at: int = 0, value: float = math.nan, spoilt: int = 0) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(2))
        self.at, self.value, self.spoilt, self.steps = at, value, spoilt, 0

    def head_parameters(self) -> Iterator[torch.nn.Parameter]:
        yield self.weight

    def loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        self.steps += 1
        broken = self.value if self.steps == self.at else 1.0
        return {"good": self.weight.sum() * 0, "area": self.weight.mean() * broken}

    def after_step(self, progress: object) -> None:
        if self.steps == self.spoilt:
            with torch.no_grad():
                self.weight[1] = math.inf


def fit_bad(stage: StageFolder, learner: Bad, hardware: Hardware = tiny.HARDWARE) -> None:
    pictures = data.open_dataset(tiny.RECIPE.data, "train")
    samples = TrainSet(pictures, tiny.RECIPE.augment, data.transforms.Normalisation(), seed=2)
    train.fit(learner, samples, config=SCHEDULE, stage=stage, seed=3, hardware=hardware)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_step_and_the_term_that_became_nan_are_named(tmp_path: Path, value: float) -> None:
    """Three steps an epoch: the fifth is the second of the second epoch, and nothing is trained after it."""
    learner, stage = Bad(at=5, value=value), RunFolder(tmp_path).stage("bad")
    with pytest.raises(RunError, match=r"bad: the loss 'area' is NaN or infinite in epoch 2, step 2; use a smaller"):
        fit_bad(stage, learner)
    assert learner.steps == 5
    assert stage.losses.read_text().count("\n") == 2  # the first epoch is kept


def test_a_loss_that_became_nan_is_found_between_looks_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, which is not waited for at each step: the end of the epoch is looked at in any case."""
    monkeypatch.setattr(guards, "LossWatch", lambda least, **more: LossWatch(least, **{**more, "every": 50}))
    learner = Bad(at=5)
    with pytest.raises(RunError, match="the loss 'area' is NaN or infinite in epoch 2, step 2; "):
        fit_bad(RunFolder(tmp_path).stage("bad"), learner)
    assert learner.steps == 6


def test_weights_that_an_epoch_leaves_infinite_are_not_kept(tmp_path: Path) -> None:
    stage = RunFolder(tmp_path).stage("bad")
    with pytest.raises(RunError, match="bad: the weights weight are NaN or infinite after epoch 1; use a smaller"):
        fit_bad(stage, Bad(spoilt=3), replace(tiny.HARDWARE, precision="bf16-mixed"))
    assert not stage.state.exists()
    assert "--precision 32-true" in replace(tiny.HARDWARE, precision="16-mixed").more_stable
    assert "--precision" not in tiny.HARDWARE.more_stable


# one image under batch norm


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40))
def test_the_smallest_part_of_a_batch(size: int, parts: int) -> None:
    batch = Batch(torch.zeros(size, 3, 1, 1), torch.zeros(size, 2), torch.ones(size, 1, 1, 1, dtype=torch.bool))
    assert guards.smallest_part(size, parts) == min(len(part.images) for part in batch.parts(parts))


POOLED = "smp:deeplabv3/resnet18"  # a branch of one cell for the whole image


def segmenter(name: str) -> segment.SegmentationLearner:
    return segment.SegmentationLearner(segment.NetConfig(name=name).build(3))


def fit_segmenter(
    stage: StageFolder, learner: segment.SegmentationLearner, *, batch_size: int, accumulate: int = 1
) -> None:
    pictures = data.open_dataset(tiny.RECIPE.data, "train")
    samples = TrainSet(pictures, tiny.RECIPE.augment, learner.network.normalisation, seed=2, pixel_labels=halves)
    schedule = replace(SCHEDULE, epochs=1, batch_size=batch_size)
    hardware = replace(tiny.HARDWARE, accumulate=accumulate)
    train.fit(learner, samples, config=schedule, stage=stage, seed=3, hardware=hardware)


@pytest.mark.parametrize(
    ("name", "batch_size", "accumulate", "remedy"),
    [
        (POOLED, 1, 1, "a batch has one image; use --batch-size 2 or more"),
        ("smp:pan/resnet18", 1, 1, "a batch has one image"),
        ("smp:deeplabv3plus/mobilenet_v2", 2, 2, "--accumulate 2 leaves one image in a part; leave --accumulate out"),
        (POOLED, 5, 4, "--accumulate 4 leaves one image in a part; use --accumulate 2, or a larger --batch-size"),
    ],
)
def test_one_image_under_batch_norm_is_refused_before_the_first_step(
    tmp_path: Path, name: str, batch_size: int, accumulate: int, remedy: str
) -> None:
    learner, stage = segmenter(name), RunFolder(tmp_path).stage("segment")
    before, state = copy.deepcopy(learner.state_dict()), torch.get_rng_state()
    with pytest.raises(RecipeError) as caught:
        fit_segmenter(stage, learner, batch_size=batch_size, accumulate=accumulate)
    assert remedy in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{stage.root}: batch normalisation needs two values per channel")
    after = learner.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert torch.equal(torch.get_rng_state(), state)
    assert not stage.root.exists()


def test_a_share_of_one_image_names_the_devices() -> None:
    pictures = data.open_dataset(tiny.RECIPE.data, "train")
    learner = segmenter(POOLED)
    samples = TrainSet(pictures, tiny.RECIPE.augment, learner.network.normalisation, seed=2, pixel_labels=halves)
    with pytest.raises(
        RecipeError, match=r"each of 4 devices has one image; use --batch-size 8 or more, or fewer --dev"
    ):
        guards.try_one_image(learner, collate([samples[0, 0]]), name="run", batch_size=1, devices=4, parts=1)


def test_looking_at_one_image_first_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where batch norm has many cells, one image a step is learned from as it was before: bit for bit."""
    outcomes = []
    for folder in ("with", "without"):
        torch.manual_seed(5)
        pictures = data.open_dataset(tiny.RECIPE.data, "train")
        network = nets.build(tiny.NET, len(pictures.classes), heads=Heads(backgrounds=1), seed=1)
        method = make(bao.Config(target_trains=True), network)  # it has dropped paths and batch norm
        samples = TrainSet(pictures, tiny.RECIPE.augment, network.normalisation, seed=2)
        schedule = replace(SCHEDULE, epochs=1, batch_size=1)
        train.fit(
            method,
            samples,
            config=schedule,
            stage=RunFolder(tmp_path / folder).stage("bao"),
            seed=3,
            hardware=tiny.HARDWARE,
        )
        outcomes.append(method.state_dict())
        monkeypatch.setattr(guards, "try_one_image", lambda *given, **more: None)
    assert all(torch.equal(outcomes[1][key], value) for key, value in outcomes[0].items())


def test_a_damaged_or_foreign_state_is_an_error(tmp_path: Path) -> None:
    stage = RunFolder(tmp_path).stage("bao")
    fit(stage, replace(SCHEDULE, epochs=1))
    content = stage.state.read_bytes()
    stage.state.write_bytes(content[:1000])
    with pytest.raises(RunError, match="damaged"):
        fit(stage)
    pictures = data.open_dataset(tiny.RECIPE.data, "train")
    network = nets.build(replace(tiny.NET, head_kernel=1), len(pictures.classes), heads=Heads(backgrounds=1))
    stage.state.write_bytes(content)
    method = make(bao.Config(), network)
    samples = TrainSet(pictures, tiny.RECIPE.augment, network.normalisation, seed=2)
    with pytest.raises(RunError, match="does not fit this network"):
        train.fit(method, samples, config=SCHEDULE, stage=stage, seed=3, hardware=tiny.HARDWARE)


def test_rate_of_each_decay() -> None:
    assert Config(epochs=1, batch_size=1).rate(0.7) == 1
    assert Config(epochs=1, batch_size=1, decay=Decay.POLY).rate(0.75) == pytest.approx(0.25**0.9)
    assert Config(epochs=1, batch_size=1, decay=Decay.COSINE).rate(0.5) == pytest.approx(0.5)
    assert Config(epochs=1, batch_size=1, warmup=0.2).rate(0.05) == pytest.approx(0.25)


@pytest.mark.parametrize("momentum", [0.9, 1e-4, 0.0])
def test_the_first_steps_of_sgd_by_hand(momentum: float) -> None:
    """v <- momentum v + (g + decay w), w <- w - rate v, each group with its own rate."""
    config = Config(
        epochs=1, batch_size=1, lr=0.1, head_lr=0.5, weight_decay=0.01, optimizer=Optimizer.SGD, momentum=momentum
    )
    assert Config(epochs=1, batch_size=1).momentum == 0.9
    method = make(amn.Config(), nets.build(tiny.NET, 3, heads=Heads(backgrounds=1)).double())
    stepper = train.make_optimizer(method, config)
    heads = {id(parameter) for parameter in method.network.head_parameters()}
    generator = torch.Generator().manual_seed(0)
    expected = {}
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            expected[name] = (parameter.detach().clone(), torch.zeros_like(parameter))
    for _ in range(2):
        for name, (weight, velocity) in expected.items():
            parameter = method.get_parameter(name)
            parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            moved = momentum * velocity + parameter.grad + 0.01 * weight
            expected[name] = (weight - (0.5 if id(parameter) in heads else 0.1) * moved, moved)
        stepper.step()
        for name, (weight, _) in expected.items():
            torch.testing.assert_close(method.get_parameter(name).detach(), weight)


def halves(index: int) -> torch.Tensor:
    """Labels of image `index` of 64 x 64: background left, a class in the middle, no label right of it."""
    labels = torch.zeros(64, 64, dtype=torch.uint8)
    labels[:, 20:] = 1 + index % 3
    labels[:, 50:] = IGNORE
    return labels


def test_a_training_set_brings_labels_of_pixels_where_it_is_given_some() -> None:
    pictures = data.open_dataset(tiny.RECIPE.data, "train")
    normalisation = data.transforms.Normalisation()
    plain = TrainSet(pictures, tiny.RECIPE.augment, normalisation, seed=2)
    labelled = TrainSet(pictures, tiny.RECIPE.augment, normalisation, seed=2, pixel_labels=halves, pixel_weights=halves)
    for index in (0, 4):
        crop = labelled[1, index].crop
        for one, other in zip(plain[1, index].crop[:2], crop[:2], strict=True):
            assert torch.equal(one, other)  # the same crop with and without
        assert plain[1, index].crop.pixel_labels is None
        assert set(crop.pixel_labels.unique().tolist()) == {0, 1 + index % 3, IGNORE}
        assert torch.equal(crop.pixel_weights, crop.pixel_labels.where(crop.valid[0], 0))
    assert collate([plain[1, 0], plain[1, 4]]).pixel_labels is None
    batch = collate([labelled[1, 0], labelled[1, 4]])
    assert torch.equal(batch.pixel_labels, torch.stack([labelled[1, index].crop.pixel_labels for index in (0, 4)]))
    assert torch.equal((255 * batch.pixel_weights).round(), batch.pixel_labels.where(batch.valid[:, 0], 0).float())
    moved = batch.to(torch.device("meta"))
    assert {part.device.type for part in moved} == {"meta"}
    assert collate([plain[1, 0]]).to(torch.device("cpu")).pixel_labels is None


def fit_amn(stage: StageFolder, pixel_labels: Callable[[int], torch.Tensor] | None) -> None:
    pictures = data.open_dataset(tiny.RECIPE.data, "train")
    network = nets.build(tiny.NET, len(pictures.classes), heads=Heads(backgrounds=1))
    samples = TrainSet(pictures, tiny.RECIPE.augment, network.normalisation, seed=2, pixel_labels=pixel_labels)
    schedule = Config(epochs=4, batch_size=4, lr=1e-2, optimizer=Optimizer.SGD)
    train.fit(make(amn.Config(), network), samples, config=schedule, stage=stage, seed=3, hardware=tiny.HARDWARE)


def test_amn_learns_the_labels_of_pixels(tmp_path: Path) -> None:
    stage = RunFolder(tmp_path).stage("amn")
    fit_amn(stage, halves)
    header, *rows = stage.losses.read_text().splitlines()
    assert header == "epoch,step,seconds,pcl"
    assert float(rows[-1].split(",")[3]) < float(rows[0].split(",")[3])


def test_amn_without_labels_of_pixels_ends_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="labelled_by"):
        fit_amn(RunFolder(tmp_path).stage("amn"), None)


def test_heads_have_their_own_rate_and_the_target_none() -> None:
    method = make(bao.Config(), nets.build(tiny.NET, 3, heads=Heads(backgrounds=1)))
    groups = train.parameter_groups(method, replace(SCHEDULE, lr=1e-4, head_lr=1e-3))
    assert [group["lr"] for group in groups] == [1e-4, 1e-3]
    heads = sum(parameter.numel() for parameter in groups[1]["params"])
    network = method.network
    assert network.label_encoder is not None and network.activation_head is not None
    parts = (network.class_head, network.label_encoder, network.activation_head)
    own = [parameter for part in parts for parameter in part.parameters()]
    assert heads >= sum(parameter.numel() for parameter in own)
    assert math.fsum(len(group["params"]) for group in groups) == len(list(network.parameters()))
