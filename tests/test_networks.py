"""Networks: the paper's sizes and counts, and the layout of the head against plain loops."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sos.config import Data, Network
from sos.distributions.sparse_precision_normal import SparsePrecisionNormal
from sos.models import networks
from sos.models.networks import DIAGONAL_FLOOR, Residual, ResidualUp, pyramid
from sos.models.vae import VAE

# Settings beyond the paper's that must keep every shape.
VARIANTS = [{}, {"learned_constant": True}, {"nearest_skip": True}, {"head_width": 5}]


def model(height, width_px, channels=1, **network):
    """A VAE for one image size: tiny unless `network` says otherwise, with the paper's layers."""
    data = Data("faces", height, width_px, channels, train=1, validation=1, test=1)
    torch.manual_seed(0)
    return VAE(data, Network(**{"width": 4, "latent": 3, "rank": 2} | network)).eval()


def paper_model(height, width_px, channels):
    with torch.device("meta"):  # sizes alone, no memory
        return model(height, width_px, channels, width=64, latent=128, rank=25)


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def randomised(vae):
    """The same model with predictions far from constant: other heads, and features of spread 1."""
    with torch.no_grad():
        for parameter in vae.head.parameters():
            parameter.normal_(std=0.5)
        for _ in range(50):  # running statistics of the normalisation layers
            vae.train().decode(torch.randn(16, vae.latent))
    return vae.eval()


# ---------------------------------------------------------------------------- the paper's sizes


@pytest.mark.parametrize(
    "size, count",
    [((218, 178, 3), 31_039_054), ((233, 197, 1), 32_771_226), ((64, 64, 1), 21_531_802)],
)
def test_parameter_counts_are_the_papers(size, count):
    """With the biases before normalisations, which the paper counts: one for each channel."""
    vae = paper_model(*size)
    normalised = [m for m in vae.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert parameters(vae) + sum(norm.num_features for norm in normalised) == count


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_weights_with_biases_before_normalisations_stay_what_they_are(variant):
    """Released weights have them; torch's own convolutions add them here."""
    old, new = model(9, 7, 3, **variant), model(9, 7, 3, **variant)
    plain = {"conv1", "conv2", "0"}  # names of convolutions before a normalisation
    convolutions = torch.nn.Conv2d, torch.nn.ConvTranspose2d
    for name, module in old.named_modules():
        normalised = name.rpartition(".")[2] in plain and "skip" not in name
        if isinstance(module, convolutions) and normalised:
            assert module.bias is None, name
            module.bias = torch.nn.Parameter(torch.randn(module.out_channels))
    randomised(old)
    state = old.state_dict()
    before = {name: value.clone() for name, value in state.items()}
    new.load_state_dict(state)
    assert state.keys() == before.keys() > new.state_dict().keys()
    assert all(torch.equal(state[name], value) for name, value in before.items())
    x, z = torch.rand(2, 3, 9, 7), torch.randn(2, old.latent)
    with torch.no_grad():
        codes, p, q = (new.encode(x), old.encode(x)), new.decode(z), old.decode(z)
    for ours, theirs in (codes, (p.loc, q.loc), (p.cov_factor, q.cov_factor)):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_normalisation_that_somebody_added_keeps_its_bias():
    old, new = (model(9, 7, 3).encoder for _ in range(2))
    for encoder in (old, new):
        encoder.bn = torch.nn.BatchNorm1d(3)
    torch.nn.init.normal_(old.bn.bias)
    torch.nn.init.normal_(old.bn.running_mean)
    new.load_state_dict(old.state_dict())
    assert all(torch.equal(new.bn.state_dict()[k], v) for k, v in old.bn.state_dict().items())


@pytest.mark.parametrize(
    "size, grids",
    [
        ((218, 178), [(218, 178), (109, 89), (55, 45), (28, 23)]),
        ((233, 197), [(233, 197), (117, 99), (59, 50), (30, 25)]),
        ((64, 64), [(64, 64), (32, 32), (16, 16), (8, 8)]),
        ((1, 2), [(1, 2), (1, 1), (1, 1), (1, 1)]),
    ],
)
def test_grids_of_encoder_and_decoder_are_the_pyramid(size, grids):
    assert pyramid(*size) == grids
    vae, seen = model(*size, width=1, latent=1), {}
    for name, half in (("encoder", vae.encoder), ("decoder", vae.decoder)):
        seen[name] = []
        for block in half.modules():
            if isinstance(block, (Residual, ResidualUp)):
                block.register_forward_hook(
                    lambda _, __, y, name=name: seen[name].append(tuple(y.shape[2:]))
                )
    with torch.no_grad():
        mean, _ = vae.encode(torch.zeros(1, 1, *size))
        vae.decode(mean)
    assert seen["encoder"] == [grid for grid in grids for _ in range(2)]
    full, half, quarter, eighth = grids
    assert seen["decoder"] == [eighth, quarter, quarter, half, half, full, full, full]


def test_the_rank_costs_one_pointwise_convolution():
    """Each component is one more output per channel of a 1x1 convolution (§3.3)."""
    width, channels = 4, 3
    counts = [parameters(model(9, 8, channels, width=width, rank=rank)) for rank in range(4)]
    assert set(np.diff(counts)) == {channels * (width + 1)}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_rows_are_the_convolution_and_their_gradient_lies_as_the_features(layout):
    generator = torch.Generator().manual_seed(0)
    options = {"generator": generator, "dtype": torch.float64}
    features = torch.randn(2, 5, 4, 3, **options).contiguous(memory_format=layout)
    head = torch.nn.Conv2d(5, 6, 1).double()
    weights = torch.randn(2, 6, 4, 3, **options)
    results = []
    for rows in (lambda f: networks._rows(head, f).view(2, 6, 4, 3), head):
        leaf = features.clone().requires_grad_()
        y = rows(leaf)
        gradients = torch.autograd.grad((weights * y).sum(), (leaf, head.weight, head.bias))
        results.append((y.detach(), *gradients))
    torch.testing.assert_close(*results)
    assert results[0][1].stride() == features.stride()


# ---------------------------------------------------------------------------- shapes


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(1, 33), st.integers(1, 33), st.integers(1, 3)),
    rank=st.integers(0, 3),
    diagonal=st.sampled_from([1e-5, None]),
    variant=st.sampled_from(VARIANTS),
)
def test_any_image_size_comes_back_at_its_own_size(size, rank, diagonal, variant):
    height, width, channels = size
    vae = model(height, width, channels, rank=rank, diagonal=diagonal, **variant)
    x = torch.rand(2, channels, height, width)
    with torch.no_grad():
        mean, std = vae.encode(x)
        y = vae.decode(mean)
    assert mean.shape == std.shape == (2, vae.latent) and (std > 0).all()
    assert y.batch_shape == (2,) and y.event_shape == (x[0].numel(),)
    assert y.cov_factor.shape == (2, x[0].numel(), rank) and y.loc.dtype == torch.float32
    assert vae.images(y.loc).shape == x.shape


@pytest.mark.parametrize("size", [(7, 5), (16, 16)])
def test_the_template_is_one_more_coarse_image_per_latent(size):
    rows, columns = pyramid(*size)[-1]
    plain, with_template = model(*size), model(*size, learned_constant=True)
    assert parameters(with_template) - parameters(plain) == plain.latent * rows * columns


def test_images_are_decoded_independently_of_their_neighbours():
    vae = randomised(model(9, 7, 3))
    z = torch.randn(4, vae.latent)
    with torch.no_grad():
        together, alone = vae.decode(z), vae.decode(z[2:3])
    assert together.loc.std(0).mean() > 0.01
    torch.testing.assert_close(together.loc[2:3], alone.loc)
    torch.testing.assert_close(together.cov_factor[2:3], alone.cov_factor)


# ---------------------------------------------------------------------------- the head


@pytest.mark.parametrize("diagonal", [1e-3, None])
def test_the_head_is_channel_major_by_plain_loops(diagonal):
    """Flat pixel (c, i, j) is c·H·W + i·W + j; output channel r·C + c is component r, colour c."""
    height, width, channels, rank = 3, 5, 3, 4
    vae = randomised(model(height, width, channels, rank=rank, diagonal=diagonal))
    z = torch.randn(2, vae.latent)
    with torch.no_grad():
        y, features = vae.decode(z), vae.decoder(z).double().numpy()
    assert features.std() > 0.1
    parts = {k: v.detach().double().numpy() for k, v in vae.head.state_dict().items()}

    def output(part, channel, b, i, j):
        weight = parts[f"{part}.weight"][channel, :, 0, 0]
        return weight @ features[b, :, i, j] + parts[f"{part}.bias"][channel]

    for b, c, i, j in itertools.product(range(2), range(channels), range(height), range(width)):
        flat = c * height * width + i * width + j
        assert y.loc[b, flat].item() == pytest.approx(output("mean", c, b, i, j), abs=1e-5)
        for r in range(rank):
            expected = output("factor", r * channels + c, b, i, j)
            assert y.cov_factor[b, flat, r].item() == pytest.approx(expected, abs=1e-5)
        if diagonal is None:
            expected = np.log1p(np.exp(output("variance", c, b, i, j))) + DIAGONAL_FLOOR
            assert y.cov_diag[b, flat].item() == pytest.approx(expected, rel=1e-4)


def test_the_factor_is_stored_component_by_component():
    """Each column of P is one contiguous image, so that `LowRankNormal` need not copy it."""
    y = model(8, 6, 3, rank=4).decode(torch.zeros(2, 3))
    assert y.cov_factor.mT.is_contiguous()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("diagonal", [1e-5, None])
def test_first_predictions_are_gray_and_almost_certain(diagonal, variant):
    vae = model(20, 17, 3, width=8, latent=16, rank=5, diagonal=diagonal, **variant)
    with torch.no_grad():
        y = vae.decode(torch.randn(4, vae.latent))
    assert (y.loc - 0.5).abs().max() < 1e-3
    assert y.cov_factor.abs().max() < 1e-3
    assert y.variance.max() < 5e-5 and y.rank_entropy.max() < 0.1


def test_a_fixed_diagonal_is_that_number_and_has_no_parameters():
    z = torch.randn(2, 3)
    fixed, learnt = model(6, 5, diagonal=0.01), model(6, 5, diagonal=None)
    assert (randomised(fixed).decode(z).cov_diag == 0.01).all()
    assert parameters(learnt) - parameters(fixed) == 4 + 1  # width weights and a bias
    diagonal = randomised(learnt).decode(z).cov_diag
    assert (diagonal >= DIAGONAL_FLOOR).all() and diagonal.std() > 0.01


@pytest.mark.parametrize("rank, diagonal", [(2, 1e-3), (0, None), (2, None)])
def test_every_head_that_exists_gets_a_gradient(rank, diagonal):
    vae = randomised(model(6, 5, 2, rank=rank, diagonal=diagonal))
    y = vae.decode(torch.randn(2, 3))
    y.log_prob(torch.rand(2, 60)).sum().backward()
    assert {name.partition(".")[0] for name, _ in vae.head.named_parameters()} == {
        "mean",
        *(["factor"] if rank else []),
        *(["variance"] if diagonal is None else []),
    }
    for name, parameter in vae.head.named_parameters():
        assert parameter.grad.abs().max() > 0, name


def test_mean_only_leaves_the_mean_and_drops_the_covariance():
    vae = randomised(model(6, 5, 2, diagonal=1e-3))
    z = torch.randn(2, 3)
    full, bare = vae.decode(z), vae.decode(z, mean_only=True)
    assert torch.equal(full.loc, bare.loc)
    assert (bare.variance == torch.tensor(1e-3)).all()


# ------------------------------------------------------------------------- a sparse precision


def sparse(**network):
    return model(6, 5, 2, **{"rank": 0, "diagonal": None, "neighbourhood": 3} | network)


def test_the_precision_head_is_neighbour_by_neighbour():
    """Output channel n·C + c is number n (log L_kk first, then ratios) of colour c."""
    vae = randomised(sparse())
    z = torch.randn(2, 3)
    with torch.no_grad():
        y, raw = vae.decode(z), vae.head.precision(vae.decoder(z))  # (2, (1 + 5)·2, 6, 5)
    assert raw.abs().max() < 4.5  # where the smooth limits are hardly felt
    raw = raw.view(2, 6, 2, 6, 5)
    torch.testing.assert_close(y.log_diag, raw[:, 0].flatten(1), atol=2e-3, rtol=0)
    ratios = y.off_diag / y.log_diag.exp()[:, None]
    torch.testing.assert_close(ratios, raw[:, 1:].flatten(2), rtol=1e-4, atol=1e-5)


def test_exploding_log_diagonals_are_held():
    vae = sparse()
    for bias, limit in ((1e4, 6.0), (-1e4, -5.0)):
        torch.nn.init.constant_(vae.head.precision.bias, bias)
        y = vae.decode(torch.zeros(1, 3))
        assert (y.log_diag == limit).all()


def test_the_precision_starts_as_the_best_stationary_one():
    vae = sparse(neighbourhood=5)
    residuals = torch.randn(400, 2, 6, 5).cumsum(-1)
    residuals = 0.1 * (residuals - residuals.mean(0))
    vae.head.start_precision_at(residuals)
    torch.nn.init.zeros_(vae.head.precision.weight)
    y = vae.decode(torch.zeros(1, 3))
    zero = torch.zeros_like(y.loc)

    def nll(ratios, log_diag):
        p = SparsePrecisionNormal(zero, log_diag, ratios * log_diag.exp()[:, None], y.shape)
        return -p.log_prob(residuals.flatten(1)).mean()

    best = y.off_diag / y.log_diag.exp()[:, None], y.log_diag
    for number in range(best[0].shape[1]):
        for nudge in (0.02, -0.02):
            moved = best[0].detach().clone()
            moved[:, number] += nudge
            assert nll(moved, best[1]) > nll(*best)
    for nudge in (0.02, -0.02):
        assert nll(best[0], best[1] + nudge) > nll(*best)
