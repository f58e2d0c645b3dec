"""One principal component at a time, against scale_components and a given noise."""

import pytest
import torch

from sos.analysis.components import sweep, sweep_values
from sos.distributions.low_rank_normal import LowRankNormal


@pytest.mark.parametrize("others", [1.0, 0.0, 0.03])
@pytest.mark.parametrize("rank", [1, 4, 9])
def test_every_tile_is_a_sample_of_the_scaled_distribution(rank, others):
    generator = torch.Generator().manual_seed(rank)
    options = {"generator": generator, "dtype": torch.float64}
    p = LowRankNormal(torch.rand(6, **options), torch.randn(6, rank, **options), 0.2)
    omega, still = torch.randn(rank, **options), torch.randn(6, **options)
    scales = torch.full((rank,), others, dtype=torch.float64)
    values = torch.tensor([-5.0, 0.0, 2.5])
    tiles = sweep(p, omega, still, scales, values)
    assert tiles.shape == (rank, 3, 6)
    for component in range(rank):
        for step, value in enumerate(values):
            changed = scales.clone()
            changed[component] = value
            expected = p.scale_components(changed).rsample_from(omega, still)
            torch.testing.assert_close(tiles[component, step], expected, rtol=1e-6, atol=1e-6)


def test_the_papers_values():
    values = sweep_values()
    assert len(values) == 21 and values[[0, 10, 12, 20]].tolist() == [-5, 0, 1, 5]
