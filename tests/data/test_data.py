import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from baoseg import data
from baoseg.core.errors import DataError
from baoseg.data import transforms
from baoseg.data.synthetic import Config as SyntheticConfig

AUGMENT = transforms.Config(resize_long=(20, 40), crop=24)
NORMALISATION = transforms.Normalisation()
SCENES = SyntheticConfig(size=32, train_images=6, eval_images=3)


def train_set(seed=0):
    return data.TrainSet(data.Synthetic(SCENES, "train"), AUGMENT, NORMALISATION, seed)


def folder(root, *splits):
    (root / "labels.csv").write_text("image,labels\na.png,cat\nb.png,dog\nc.png,\n")
    for name in "abc":
        Image.fromarray(np.zeros((4, 4), dtype=np.uint8)).save(root / f"{name}.png")
    (root / "splits").mkdir()
    for split in splits:
        (root / f"splits/{split}.txt").write_text("a\n" if split == "train" else "b\n")
    return str(root)


def test_synthetic_data():
    config = data.Config(path="synthetic", synthetic=SCENES)
    train, val = data.open_dataset(config, "train"), data.open_dataset(config, "eval")
    assert (train.split, len(train), val.split, len(val)) == ("train", 6, "val", 3)
    same = data.Config(path="synthetic", synthetic=SCENES, eval_split="train")
    assert data.open_dataset(same, "eval").fingerprint() == train.fingerprint()
    with pytest.raises(DataError):
        data.open_dataset(data.Config(path="synthetic", train_split="trainval"), "train")


def opened(path, **splits):
    config = data.Config(path=path, **splits)
    return [data.open_dataset(config, role).split for role in ("train", "eval")]


def test_default_splits_of_a_folder(tmp_path):
    for name in "1234":
        (tmp_path / name).mkdir()
    both = folder(tmp_path / "1", "train", "val", "other")
    assert opened(both) == ["train", "val"]
    assert opened(both, train_split="other", eval_split="train") == ["other", "train"]
    assert opened(folder(tmp_path / "2", "train")) == ["train", "train"]
    assert opened(folder(tmp_path / "3", "other"), train_split="other") == ["other", "other"]
    bare = data.Config(path=folder(tmp_path / "4"))
    assert len(data.open_dataset(bare, "eval")) == len(data.open_dataset(bare, "train")) == 3


def test_a_summary_counts_images_of_each_class_and_without(tmp_path):
    pictures = data.Folder(folder(tmp_path))
    assert data.summary(pictures) == (
        "all: 3 images, 2 classes: cat (1), dog (1); 1 image without a label, background alone"
    )
    (tmp_path / "classes.txt").write_text("dog\nbird\ncat\n")
    assert data.summary(data.Folder(tmp_path)) == (
        "all: 3 images, 3 classes: dog (1), bird (0), cat (1); 1 class without an image; "
        "1 image without a label, background alone"
    )
    (tmp_path / "classes.txt").write_text("".join(f"bird {number}\n" for number in range(98)) + "dog\ncat\n")
    text = data.summary(data.Folder(tmp_path))
    assert "100 classes: bird 0 (0), bird 1 (0), " in text and "bird 27 (0), ..., cat (1); 98 classes without" in text
    assert data.summary(data.Synthetic(SCENES, "val")).startswith("val: 3 images, 5 classes: ladybird (")


def test_training_on_few_images_needs_one_with_a_label(tmp_path):
    path = folder(tmp_path, "train")
    (tmp_path / "splits/train.txt").write_text("c\na\n")
    few = data.open_dataset(data.Config(path=path, limit=2), "train")
    assert [few.labels(index).sum() for index in range(2)] == [0, 1]
    with pytest.raises(DataError, match=r"none of the 1 chosen images of train has a label; raise data\.limit"):
        data.open_dataset(data.Config(path=path, limit=1), "train")


def test_an_item_depends_on_seed_epoch_and_index_alone():
    first, again = train_set(), train_set()
    again[2, 5]
    for one, other in zip(first[1, 3].crop[:2], again[1, 3].crop[:2], strict=True):
        assert torch.equal(one, other)
    for other in (first[2, 3], first[1, 4], train_set(seed=1)[1, 3]):
        assert not torch.equal(first[1, 3].crop.image, other.crop.image)
    assert torch.equal(first[1, 3].labels, first.dataset.labels(3))


def test_collate_stacks():
    pictures = train_set()
    batch = data.collate([pictures[0, 1], pictures[0, 2]])
    for row, index in enumerate((1, 2)):
        crop, labels = pictures[0, index]
        assert torch.equal(batch.images[row], crop.image)
        assert torch.equal(batch.labels[row], labels)
        assert torch.equal(batch.valid[row], crop.valid)
        assert crop.pixel_labels is None and crop.pixel_weights is None
    assert batch.pixel_labels is None and batch.pixel_weights is None


def epochs(workers):
    sampler = data.EpochSampler(6, seed=3, batch_size=2)
    loader = DataLoader(
        train_set(),
        batch_size=2,
        sampler=sampler,
        collate_fn=data.collate,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    for epoch in range(2):
        sampler.set_epoch(epoch)
        yield from data.batches(loader)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_workers_change_nothing_and_hear_of_the_epoch():
    alone, together = list(epochs(0)), list(epochs(2))
    assert len(alone) == len(together) == 6
    for one, other in zip(alone, together, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
    assert not torch.equal(alone[0].images, alone[3].images)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_worker_stays_one_line(tmp_path, workers):
    path = folder(tmp_path, "train")
    (tmp_path / "a.png").write_bytes(b"not a picture")
    pictures = data.TrainSet(data.Folder(path, "train", training=True), AUGMENT, NORMALISATION, 0)
    loader = DataLoader(pictures, sampler=data.EpochSampler(1, seed=0), collate_fn=data.collate, num_workers=workers)
    with pytest.raises(DataError) as error:
        list(data.batches(loader))
    assert str(error.value).startswith(f"{tmp_path}/a.png: not a known kind")
    assert "\n" not in str(error.value)


@settings(deadline=None, max_examples=20)
@given(
    length=st.integers(1, 50), replicas=st.integers(1, 4), epoch=st.integers(0, 5), batch=st.integers(1, 6) | st.none()
)
def test_sampler_shares_the_images_out(length, replicas, epoch, batch):
    if batch is not None and length < batch * replicas:
        with pytest.raises(DataError, match="do not fill a batch"):
            data.EpochSampler(length, seed=0, batch_size=batch)
            data.EpochSampler(length, seed=0, batch_size=batch, num_replicas=replicas)
        return
    drawn = []
    for rank in range(replicas):
        sampler = data.EpochSampler(length, seed=0, batch_size=batch, num_replicas=replicas, rank=rank)
        sampler.set_epoch(epoch)
        keys = list(sampler)
        assert len(keys) == len(sampler)
        assert {epoch} == {key[0] for key in keys}
        drawn.append([key[1] for key in keys])
    assert len({len(share) for share in drawn}) == 1
    together = [index for share in drawn for index in share]
    if batch is None:
        assert set(together) == set(range(length))
        assert len(together) < length + replicas
    else:
        assert len(set(together)) == len(together)
        assert len(drawn[0]) % batch == 0
        assert length - len(together) < batch * replicas


def test_sampler_draws_a_new_order_for_each_epoch_and_seed():
    def order(seed, epoch):
        sampler = data.EpochSampler(30, seed=seed)
        sampler.set_epoch(epoch)
        return [index for _, index in sampler]

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != list(range(30))
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


def test_sampler_refuses_what_cannot_be():
    with pytest.raises(DataError, match="do not fill"):
        data.EpochSampler(0, seed=0)
    with pytest.raises(ValueError, match="rank"):
        data.EpochSampler(4, seed=0, num_replicas=2, rank=2)
