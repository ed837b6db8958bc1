import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from baoseg.methods.components import teacher


def pair() -> tuple[nn.Module, nn.Module]:
    """Target and online network: linear layer and batch norm, all numbers different."""
    networks = []
    for seed in (0, 1):
        generator = torch.Generator().manual_seed(seed)
        network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
        for tensor in (*network.parameters(), *network.buffers()):
            drawn = torch.randn(tensor.shape, generator=generator)
            tensor.data.copy_(drawn if tensor.is_floating_point() else torch.tensor(17 + seed))
        networks.append(network)
    return networks[0].requires_grad_(False), networks[1]


def values(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def test_share_copies_everything_bit_for_bit():
    target, online = pair()
    before = values(online)
    teacher.share(target, online)
    for network in (target, online):
        assert all(torch.equal(tensor, before[name]) for name, tensor in values(network).items())


def test_share_makes_copies_and_not_references():
    target, online = pair()
    teacher.share(target, online)
    with torch.no_grad():
        for tensor in online.state_dict().values():
            tensor.add_(1)
    for name, tensor in target.state_dict().items():
        assert torch.equal(tensor + 1, online.state_dict()[name])


def test_average_by_hand_over_two_steps():
    """theta 1, omega 3 then 5, momentum 0.75: 0.75 * 1 + 0.25 * 3 = 1.5, then 0.75 * 1.5 + 0.25 * 5 = 2.375."""
    target, online = nn.Linear(1, 1), nn.Linear(1, 1)
    nn.init.constant_(target.weight, 1)
    for omega, theta in ((3.0, 1.5), (5.0, 2.375)):
        nn.init.constant_(online.weight, omega)
        teacher.average(target, online, momentum=0.75)
        assert target.weight.item() == theta
        assert online.weight.item() == omega


def test_average_copies_buffers_of_every_kind():
    target, online = pair()
    first, second = values(target), values(online)
    teacher.average(target, online, momentum=0.9)
    buffers = {name for name, _ in target.named_buffers()}
    assert buffers == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    for name, tensor in target.state_dict().items():
        if name in buffers:
            assert torch.equal(tensor, second[name])
            assert tensor.dtype == second[name].dtype
        else:
            torch.testing.assert_close(tensor, 0.9 * first[name] + 0.1 * second[name])


def test_momentum_one_leaves_the_target_where_it_is():
    target, online = pair()
    before = values(target)
    teacher.average(target, online, momentum=1.0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in target.named_parameters())


def test_online_network_keeps_its_gradients_and_gives_none():
    target, online = pair()
    online(torch.randn(4, 2)).sum().backward()
    gradients = [parameter.grad.clone() for parameter in online.parameters()]
    teacher.average(target, online, momentum=0.5)
    assert all(torch.equal(p.grad, g) for p, g in zip(online.parameters(), gradients, strict=True))
    assert not any(parameter.requires_grad for parameter in target.parameters())


def test_cosine_at_its_marks():
    assert teacher.cosine(0.9995, 1.0, 0.0) == pytest.approx(0.9995, abs=1e-12)
    assert teacher.cosine(0.9995, 1.0, 0.5) == pytest.approx(0.99975, abs=1e-12)
    assert teacher.cosine(0.9995, 1.0, 1.0) == pytest.approx(1.0, abs=1e-12)
    assert teacher.cosine(0.0, 4.0, 1 / 3) == pytest.approx(4 * (1 - math.cos(math.pi / 3)) / 2)


@settings(deadline=None, max_examples=50)
@given(st.floats(-2, 3), st.floats(-2, 3))
def test_cosine_rises_and_stays_between_its_ends(first, second):
    low, high = sorted((first, second))
    assert 0.9995 - 1e-12 <= teacher.cosine(0.9995, 1.0, low) <= teacher.cosine(0.9995, 1.0, high) + 1e-12
    assert teacher.cosine(0.9995, 1.0, high) <= 1 + 1e-12


def test_the_proportional_momentum_is_the_papers_for_the_papers_training() -> None:
    """11,900 averaged steps and a window of 2,000 (BAO sec. 4.3: 0.9995)."""
    assert teacher.proportional(11_900) == pytest.approx(0.9995, abs=2e-5)
    assert teacher.proportional(60) == pytest.approx(0.9)  # a window of 10
    assert teacher.proportional(6) == teacher.proportional(1) == teacher.proportional(0) == 0.0
