"""Distributions over images, which give training its density, its entropy and its variance."""

from sos.distributions.conditioned_normal import ConditionedNormal
from sos.distributions.low_rank_normal import LowRankNormal, PrincipalComponents, TrainingTerms
from sos.distributions.sparse_precision_normal import (
    LowRankPlusSparseNormal,
    SparsePrecisionNormal,
)

__all__ = [
    "ConditionedNormal",
    "LowRankNormal",
    "LowRankPlusSparseNormal",
    "PrincipalComponents",
    "SparsePrecisionNormal",
    "TrainingTerms",
]
