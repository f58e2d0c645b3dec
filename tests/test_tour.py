"""The dense oracle that notebooks 00 and 05 show beside structured results."""

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from sos.analysis import toy
from sos.distributions.low_rank_normal import LowRankNormal


def test_dense_conditional_on_a_gpu():
    """Notebook 05 hands it a model's float32 prediction, which may lie on a GPU.

    Tensors without values know their device, and refuse to meet those of another.
    """
    with FakeTensorMode():
        loc, factor = torch.empty(48, device="cuda"), torch.empty(48, 3, device="cuda")
        p = LowRankNormal(loc, factor, 1e-3, validate_args=False)
        painted = torch.arange(0, 48, 5)
        assert toy.dense_conditional(p, painted, p.mean[painted]).mean.is_cuda
