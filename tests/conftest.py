"""What holds for all tests: one thread each, and the comparison of figures last."""

import pytest
import torch
from torch.distributions import Distribution

# Waiting threads of small tensors cost more than they give, most of all beside other processes.
torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    """Moves the comparison of figures behind the notebooks that draw them."""
    items.sort(key=lambda item: item.path.name == "test_figures.py")


@pytest.fixture(autouse=True)
def validation():
    """Distributions check their arguments, also after torch's compiler has turned that off."""
    Distribution.set_default_validate_args(True)
