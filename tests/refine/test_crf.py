import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from baoseg.core.errors import DataError, RecipeError
from baoseg.refine import crf

SMALL = crf.Config(bilateral_sxy=8.0, bilateral_srgb=20.0)


def picture(height, width, seed=0):
    """Two flat halves with noise."""
    noise = torch.randint(0, 30, (height, width, 3), generator=torch.Generator().manual_seed(seed))
    noise[:, width // 2 :] += 150
    return noise.to(torch.uint8)


def photograph(shared, number):
    folder = shared / "data" / "msrc14" / "JPEGImages"
    if not folder.is_dir():
        pytest.skip("needs the photographs of msrc14 beside the repository")
    with Image.open(sorted(folder.glob("*.jpg"))[number]) as image:
        return np.array(image.convert("RGB"))


def smooth(count, height, width, generator):
    """Random smooth maps."""
    coarse = 4 * torch.randn(1, count, 6, 8, generator=generator)
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0]


def reference(image, unary, config):
    """Marginals by the authors' C++."""
    dense = pytest.importorskip("pydensecrf.densecrf", reason="needs pydensecrf2 (pip install baoseg[crf-reference])")
    count, (height, width) = len(unary), image.shape[:2]
    model = dense.DenseCRF2D(width, height, count)
    model.setUnaryEnergy(np.ascontiguousarray(unary, dtype=np.float32))
    model.addPairwiseGaussian(sxy=config.gaussian_sxy, compat=config.gaussian_compat)
    model.addPairwiseBilateral(
        sxy=config.bilateral_sxy,
        srgb=config.bilateral_srgb,
        rgbim=np.ascontiguousarray(image),
        compat=config.bilateral_compat,
    )
    return np.array(model.inference(config.steps)).reshape(count, height, width)


def assert_same(ours, theirs):
    assert (ours.argmax(0).numpy() == theirs.argmax(0)).mean() > 0.995
    assert np.abs(ours.numpy() - theirs).mean() < 1e-3


@pytest.mark.shared
@pytest.mark.parametrize(("number", "count"), [(0, 2), (120, 3), (300, 5)])
def test_labels_equal_the_authors_code_on_photographs(shared, generator, number, count):
    utils = pytest.importorskip("pydensecrf.utils", reason="needs pydensecrf2 (pip install baoseg[crf-reference])")
    image = photograph(shared, number)
    labels = smooth(count, *image.shape[:2], generator).argmax(0)
    assert labels.unique().tolist() == list(range(count))
    unary = utils.unary_from_labels(labels.numpy(), count, gt_prob=0.7, zero_unsure=False)
    assert_same(crf.from_labels(image, labels), reference(image, unary, crf.LABELS))


@pytest.mark.shared
@pytest.mark.parametrize(("number", "count"), [(40, 2), (200, 4)])
def test_probabilities_equal_the_authors_code_on_photographs(shared, generator, number, count):
    utils = pytest.importorskip("pydensecrf.utils", reason="needs pydensecrf2 (pip install baoseg[crf-reference])")
    image = photograph(shared, number)
    probabilities = smooth(count, *image.shape[:2], generator).softmax(0)
    unary = utils.unary_from_softmax(probabilities.numpy())
    assert_same(crf.from_probabilities(image, probabilities), reference(image, unary, crf.PROBABILITIES))


@pytest.mark.parametrize(("height", "width"), [(1, 17), (9, 1), (13, 21)])
def test_small_images_equal_the_authors_code(height, width):
    image = picture(height, width)
    probabilities = torch.rand(3, height, width, generator=torch.Generator().manual_seed(1))
    theirs = reference(image.numpy(), -probabilities.clamp(1e-5, 1).log().flatten(1).numpy(), SMALL)
    assert_same(crf.from_probabilities(image, probabilities, config=SMALL), theirs)


def test_the_presets_are_those_of_the_papers():
    positions = {"gaussian_sxy": 3.0, "gaussian_compat": 3.0}
    expected = {**positions, "bilateral_sxy": 50.0, "bilateral_srgb": 5.0, "bilateral_compat": 10.0, "steps": 10}
    assert dataclasses.asdict(crf.LABELS) == {**expected, "n_labels": None}
    assert (crf.PROBABILITIES.bilateral_sxy, crf.PROBABILITIES.bilateral_srgb) == (80.0, 13.0)


def slow_lattice(features):
    """The filter of Adams et al. as a matrix [n n], float64, by dictionaries and loops.

    Their basis has E y in the plane sum = 0; simplices are found here by trying, not by rounding and ranks: the vertex
    of remainder r around x is the point of A*_d of that remainder for which all barycentric weights are >= 0.
    """
    count, dims = features.shape
    elevation = np.zeros((dims + 1, dims))
    for j in range(dims):
        elevation[: j + 1, j] = 1
        elevation[j + 1, j] = -(j + 1)
        elevation[:, j] *= np.sqrt(2 / 3) * (dims + 1) / np.sqrt((j + 1) * (j + 2))
    splats = []
    for point in features @ elevation.T:
        lower = np.floor(point / (dims + 1)) * (dims + 1)
        # coordinates by how far they are above a multiple of d + 1, on a chain of d + 2 points that ends one step on
        above = point - lower
        chain = sorted(range(dims + 1), key=lambda i: -above[i])
        corner, corners, heights = lower.copy(), [], [above[i] for i in chain]
        weights = [dims + 1 - heights[0] + heights[-1], *(heights[i] - heights[i + 1] for i in range(dims))]
        # raising the coordinates by d + 1 one after the other passes the corners; subtracting the mean puts them on
        # the plane, where raising all of them is raising none
        for i in range(dims + 1):
            on_plane = corner - corner.mean()
            corners.append(tuple(np.round(on_plane).astype(int)))
            corner[chain[i]] += dims + 1
        splats.append({c: w / (dims + 1) for c, w in zip(corners, weights, strict=True)})
    keys = sorted(set().union(*splats))
    index = {key: i for i, key in enumerate(keys)}
    splat = np.zeros((len(keys), count))
    for n, bag in enumerate(splats):
        for key, weight in bag.items():
            splat[index[key], n] += weight
    total = splat
    for axis in range(dims + 1):
        blurred = total.copy()
        for key, i in index.items():
            for sign in (-1, 1):
                neighbour = list(key)
                for other in range(dims + 1):
                    neighbour[other] += sign * (dims if other == axis else -1)
                if tuple(neighbour) in index:
                    blurred[i] += total[index[tuple(neighbour)]] / 2
        total = blurred
    return splat.T @ total


@settings(deadline=None, max_examples=25)
@given(dims=st.sampled_from([1, 2, 3, 5]), count=st.integers(1, 30), width=st.floats(0.1, 5), seed=st.integers(0, 999))
def test_the_filter_is_the_lattice_of_adams(dims, count, width, seed):
    points = width * torch.randn(dims, count, generator=torch.Generator().manual_seed(seed))
    expected = torch.from_numpy(slow_lattice(points.T.double().numpy())).float()
    torch.testing.assert_close(crf.build_lattice(points).filter(torch.eye(count)), expected, rtol=1e-3, atol=1e-4)


def test_points_may_be_far_apart():
    """So far that the numbers of the vertices need 64 bits."""
    centres = torch.tensor([[-1.0], [0.5], [1.0], [-0.5], [2.0]]) * torch.tensor([0.0, 99.0, 200.0])
    points = centres.repeat(1, 8) + 0.5 * torch.randn(5, 24, generator=torch.Generator().manual_seed(0))
    lattice = crf.build_lattice(points)
    expected = torch.from_numpy(slow_lattice(points.T.double().numpy())).float()
    torch.testing.assert_close(lattice.filter(torch.eye(24)), expected, rtol=1e-3, atol=1e-3)


def test_the_filter_is_about_a_gaussian():
    points = torch.rand(2, 400, generator=torch.Generator().manual_seed(0)) * 4
    exact = (-(torch.cdist(points.T, points.T) ** 2) / 2).exp()
    found = crf.build_lattice(points).filter(torch.eye(400))
    exact, found = exact / exact.sum(1, keepdim=True), found / found.sum(1, keepdim=True)
    assert (found - exact).abs().sum(1).mean() < 0.25  # of 2 at most


def mean_field_by_loops(image, unary, config):
    """Algorithm 1 with the symmetric normalisation, pixel by pixel in float64, on the lattice's own matrices."""
    (height, width), count = image.shape[:2], len(unary)
    position = np.array([[x, y] for y in range(height) for x in range(width)], dtype=np.float64)
    colour = image.reshape(-1, 3).double().numpy()
    kernels = []
    for features, compat in (
        (position / config.gaussian_sxy, config.gaussian_compat),
        (np.hstack([position / config.bilateral_sxy, colour / config.bilateral_srgb]), config.bilateral_compat),
    ):
        kernel = slow_lattice(features)
        norm = kernel.sum(1)
        kernels.append(compat * kernel / np.sqrt(np.outer(norm, norm)))
    marginals = np.exp(-unary) / np.exp(-unary).sum(0)
    for _ in range(config.steps):
        updated = np.zeros_like(marginals)
        for pixel in range(height * width):
            energy = [
                unary[label, pixel]
                + sum(
                    kernel[pixel, other] * marginals[rival, other]
                    for kernel in kernels
                    for other in range(height * width)
                    for rival in range(count)
                    if rival != label
                )
                for label in range(count)
            ]
            likely = np.exp(-(np.array(energy) - min(energy)))
            updated[:, pixel] = likely / likely.sum()
        marginals = updated
    return torch.from_numpy(marginals).float()


def test_mean_field_by_loops():
    image = picture(4, 5)
    probabilities = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(2))
    expected = mean_field_by_loops(image, -np.log(probabilities.reshape(3, -1).double().numpy()), SMALL)
    found = crf.from_probabilities(image, probabilities, config=SMALL).flatten(1)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("present", [(0, 2), (3,)])
@pytest.mark.parametrize("n_labels", [2, 4, 7])
def test_labels_that_the_mask_lacks_take_part_as_in_the_released_codes(n_labels, present):
    """n_labels unaries, each made and filtered by itself: 0.7 for a pixel's own label, 0.3 / (n_labels - 1) else."""
    image, config = picture(3, 4), dataclasses.replace(SMALL, n_labels=n_labels, steps=3)
    labels = torch.tensor(present)[torch.tensor([0, 1, 1, 1, 0, 0, 1, 1, 0, 0, 0, 1]) % len(present)].view(3, 4)
    labels[1, 2] = 255
    unary = np.full((n_labels, 12), -np.log(0.3 / (n_labels - 1)))
    for pixel, label in enumerate(labels.flatten().tolist()):
        if label == 255:
            unary[:, pixel] = -np.log(1 / n_labels)
        else:
            unary[present.index(label), pixel] = -np.log(0.7)
    expected = mean_field_by_loops(image, unary, config)
    found = crf.from_labels(image, labels, config=config)
    assert found.shape == (len(present), 3, 4)
    torch.testing.assert_close(found.flatten(1), expected[: len(present)], rtol=1e-3, atol=1e-5)
    assert torch.equal(found.flatten(1).argmax(0), expected.argmax(0))  # absent labels win nowhere


@pytest.mark.parametrize(("n_labels", "other"), [(None, 0.3), (2, 0.3), (21, 0.015), (91, 0.3 / 90)])
def test_the_unary_by_hand(n_labels, other):
    labels = torch.tensor([[0, 7, 255]])
    found = crf.from_labels(picture(1, 3), labels, config=crf.Config(steps=0, n_labels=n_labels))
    doubt = 1 / (n_labels or 2)
    expected = torch.tensor([[[0.7, other, doubt]], [[other, 0.7, doubt]]])
    torch.testing.assert_close(found, expected)


@given(height=st.integers(1, 9), width=st.integers(1, 9), count=st.integers(1, 4), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=20)
def test_as_many_labels_as_the_mask_has_are_the_default(height, width, count, seed):
    labels = torch.randint(count, (height, width), generator=torch.Generator().manual_seed(seed))
    present = len(labels.unique())
    plain = crf.from_labels(picture(height, width), labels, config=SMALL)
    same = crf.from_labels(picture(height, width), labels, config=dataclasses.replace(SMALL, n_labels=max(present, 2)))
    if present > 1:
        assert torch.equal(same, plain)
    else:
        assert torch.equal(plain, torch.ones(1, height, width))


def test_too_few_labels_are_refused():
    labels = torch.arange(3).repeat(2, 1)
    with pytest.raises(DataError, match="crf: 3 labels in a mask, and n_labels is 2; choose a higher n_labels"):
        crf.from_labels(picture(2, 3), labels, config=crf.Config(n_labels=2))
    with pytest.raises(RecipeError, match="n_labels is 1; choose 2 or more"):
        crf.Config(n_labels=1)


def test_noise_in_the_labels_goes_and_the_edge_of_the_image_stays():
    truth = torch.zeros(20, 30, dtype=torch.uint8)
    truth[:, 15:] = 7
    wrong = torch.rand(20, 30, generator=torch.Generator().manual_seed(0)) < 0.2
    labels = torch.where(wrong, 7 - truth, truth)
    marginals = crf.from_labels(picture(20, 30), labels, config=crf.Config(bilateral_srgb=20.0))
    assert torch.equal(crf.present_labels(labels)[marginals.argmax(0)], truth.long())


def test_ignored_pixels_take_the_label_of_their_surroundings():
    labels = torch.zeros(10, 12, dtype=torch.uint8)
    labels[:, 6:] = 3
    labels[2:8, 4:8] = 255
    assert crf.present_labels(labels).tolist() == [0, 3]
    alone = crf.from_labels(picture(10, 12), labels, config=crf.Config(steps=0))
    assert (alone[:, labels == 255] == 0.5).all()
    torch.testing.assert_close(alone[1, labels == 3], torch.full((48,), 0.7))
    found = crf.from_labels(picture(10, 12), labels, config=SMALL).argmax(0)
    assert found.tolist() == [[0] * 6 + [1] * 6] * 10


def test_a_label_that_vanishes_keeps_its_marginals():
    labels = torch.zeros(12, 12, dtype=torch.uint8)
    labels[6, 6] = 5
    marginals = crf.from_labels(torch.full((12, 12, 3), 90, dtype=torch.uint8), labels)
    assert marginals.shape == (2, 12, 12)
    assert (marginals.argmax(0) == 0).all()
    assert marginals[1].max() < 1e-3


def test_a_single_label_is_certain():
    labels = torch.full((5, 6), 4, dtype=torch.uint8)
    labels[0, 0] = 255
    assert torch.equal(crf.from_labels(picture(5, 6), labels), torch.ones(1, 5, 6))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 30), (30, 1)])
def test_thin_images(height, width):
    probabilities = torch.rand(2, height, width, generator=torch.Generator().manual_seed(0))
    marginals = crf.from_probabilities(picture(height, width), probabilities)
    torch.testing.assert_close(marginals.sum(0), torch.ones(height, width))


def test_absent_classes_do_not_enter():
    probabilities = torch.rand(4, 8, 9, generator=torch.Generator().manual_seed(0))
    probabilities[[0, 2]] = 0
    found = crf.from_probabilities(picture(8, 9), probabilities)
    assert (found[[0, 2]] == 0).all()
    assert torch.equal(found[[1, 3]], crf.from_probabilities(picture(8, 9), probabilities[[1, 3]]))


@settings(deadline=None, max_examples=20)
@given(
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    count=st.integers(1, 4),
    sxy=st.floats(0.5, 99),
    seed=st.integers(0, 99),
)
def test_marginals_are_probabilities_and_classes_are_alike(height, width, count, sxy, seed):
    image = picture(height, width, seed)
    probabilities = torch.rand(count, height, width, generator=torch.Generator().manual_seed(seed)) + 0.01
    config = crf.Config(bilateral_sxy=sxy, bilateral_srgb=10.0, steps=3)
    marginals = crf.from_probabilities(image, probabilities, config=config)
    torch.testing.assert_close(marginals.sum(0), torch.ones(height, width))
    flipped = crf.from_probabilities(image, probabilities.flip(0), config=config)
    torch.testing.assert_close(flipped.flip(0), marginals, rtol=1e-3, atol=1e-4)


def test_arrays_and_tensors_are_alike():
    labels = torch.arange(4).repeat(6, 2)
    image = picture(6, 8)
    frozen = image.numpy().copy()
    frozen.flags.writeable = False
    expected = crf.from_labels(image, labels)
    for kind in (np.uint8, np.int32, np.int64):
        assert torch.equal(crf.from_labels(frozen, labels.numpy().astype(kind)), expected)
    mirrored = crf.from_labels(image.numpy()[:, ::-1], labels.numpy()[:, ::-1])
    assert torch.equal(mirrored, crf.from_labels(image.flip(1), labels.flip(1)))


NAN = torch.full((2, 4, 5), float("nan"))


@pytest.mark.parametrize(
    ("probabilities", "message"),
    [
        (torch.ones(2, 4, 6), "an image of 4 x 5 and maps of 4 x 6"),
        (torch.ones(4, 5), "give \\[k h w\\]"),
        (NAN, "NaN"),
        (torch.zeros(0, 4, 5), "no class present"),
        (torch.zeros(2, 4, 5), "no class present"),
    ],
)
def test_bad_probabilities(probabilities, message):
    with pytest.raises(DataError, match=message):
        crf.from_probabilities(picture(4, 5), probabilities)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.zeros(5, 4, dtype=torch.uint8), "an image of 4 x 5 and maps of 5 x 4"),
        (torch.zeros(4, 5), "give integers"),
        (torch.zeros(1, 4, 5, dtype=torch.uint8), "give integers"),
        (torch.full((4, 5), 255), "no class present"),
    ],
)
def test_bad_labels(labels, message):
    with pytest.raises(DataError, match=message):
        crf.from_labels(picture(4, 5), labels)


@pytest.mark.parametrize("image", [torch.zeros(3, 4, 5, dtype=torch.uint8), torch.zeros(4, 5, 3), torch.zeros(0, 5, 3)])
def test_bad_images(image):
    with pytest.raises(DataError, match="is no image"):
        crf.from_labels(image, torch.zeros(4, 5, dtype=torch.uint8))


def test_bad_settings():
    with pytest.raises(RecipeError, match="widths must be above 0"):
        crf.Config(bilateral_srgb=0.0)
    with pytest.raises(RecipeError, match="gt_prob"):
        crf.from_labels(picture(4, 5), torch.zeros(4, 5, dtype=torch.uint8), gt_prob=1.0)


@pytest.mark.parametrize("width", [1e-4, 1e-7, 1e-40])
def test_too_small_widths(width):
    labels = torch.arange(4).repeat(5, 1)
    for config in (crf.Config(bilateral_srgb=width), crf.Config(gaussian_sxy=width * 1e-6)):
        with pytest.raises(RecipeError, match="too small for this image"):
            crf.from_labels(picture(5, 4), labels, config=config)
