"""SAM as a maker of regions: a tiny model with random weights, saved and loaded as a real one."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from baoseg.core.errors import CheckpointError
from baoseg.core.types import Sample
from baoseg.refine import sam, vote

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def tiny_sam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import SamConfig, SamImageProcessor, SamModel, SamProcessor

    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_dim": 32}
    config = SamConfig(
        vision_config={**small, "output_channels": 16, "image_size": 64, "patch_size": 8, "global_attn_indexes": [1]}
        | {"window_size": 4, "num_pos_feats": 8},
        prompt_encoder_config={"hidden_size": 16, "image_size": 64, "patch_size": 8, "mask_input_channels": 4},
        mask_decoder_config={**small, "hidden_size": 16, "iou_head_hidden_dim": 16, "num_hidden_layers": 1},
    )
    folder = tmp_path_factory.mktemp("sam")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        SamModel(config).save_pretrained(folder)
    processor = SamImageProcessor(
        size={"longest_edge": 64},
        pad_size={"height": 64, "width": 64},
        mask_size={"longest_edge": 32},
        mask_pad_size={"height": 32, "width": 32},
    )
    SamProcessor(processor).save_pretrained(folder)
    return folder


LENIENT = {"points_per_crop": 4, "pred_iou_thresh": -9.0, "stability_score_thresh": -1.0, "crops_nms_thresh": 1.0}


def test_masks_of_a_model_become_regions(tiny_sam: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = torch.randint(0, 256, (3, 40, 56), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    find = vote.finder(vote.Config(source=f"sam:{tiny_sam}"), device=torch.device("cpu"))
    sample = Sample(name="x", image=image, labels=torch.ones(1))
    assert find(sample).shape == (0, 40, 56)  # random weights are sure of no mask
    monkeypatch.setattr(sam, "OPTIONS", LENIENT)
    regions = find(sample)
    masks = transformers.pipeline("mask-generation", model=str(tiny_sam))(
        Image.fromarray(image.permute(1, 2, 0).numpy()), **LENIENT
    )["masks"]
    found = {(layer == number).numpy().tobytes() for layer in regions for number in layer.unique() if number >= 0}
    assert len(found) > 1
    assert found == {np.asarray(mask, dtype=bool).tobytes() for mask in masks if np.asarray(mask).any()}


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"sam:.*none: cannot be loaded"):
        sam.finder(str(tmp_path / "none"), device=torch.device("cpu"))
