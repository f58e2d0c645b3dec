"""The soft constraints of equation 3, with their multipliers and damping, and the plain ELBO."""

import torch
from torch import Tensor


class Constraint:
    """Hold one soft constraint value ≈ target of eq. 3 with its multiplier (Platt & Barr, 1988).

    For a value v and its target ξ the loss gets (λ + c(v - ξ))(v - ξ) with the bracket detached.
    The gradient of this is that of λ(v - ξ) + c(v - ξ)²/2, where c is the damping. Then λ ascends
    by rate·(v - ξ) and stays at or above zero.
    """

    def __init__(self, target: float, damping: float, rate: float, device: torch.device):
        self.target, self.damping, self.rate = target, damping, rate
        self.multiplier = torch.zeros((), device=device, dtype=torch.float64)
        self.current_target = torch.tensor(target, device=device, dtype=torch.float64)

    def scale_target(self, share: float) -> None:
        """Set the current target to a share of the target, for a warm-up."""
        self.current_target.fill_(self.target * share)

    def change_unit(self, factor: float | Tensor) -> None:
        """Multiply the multiplier as the loss that it is weighed against changes its unit."""
        self.multiplier *= factor

    def slack(self, value: Tensor) -> Tensor:
        """Return v - ξ, the value less the current target."""
        return value - self.current_target.to(value.dtype)

    def penalty(self, value: Tensor) -> Tensor:
        """Return what the loss gets, (λ + c(v - ξ))(v - ξ) with the bracket detached."""
        slack = self.slack(value)
        return (self.multiplier + self.damping * slack).detach() * slack

    def ascend(self, value: Tensor) -> None:
        """Move the multiplier by rate·(v - ξ), not below zero."""
        self.multiplier += self.rate * self.slack(value.detach())
        self.multiplier.clamp_(min=0)


class Price:
    """Hold the weight of one that the KL has in the ELBO (eq. 1), with a constraint's interface."""

    def __init__(self, device: torch.device):
        self.multiplier = torch.ones((), device=device, dtype=torch.float64)

    def scale_target(self, share: float) -> None:
        """Set the weight to a share of one, for a warm-up."""
        self.multiplier.fill_(share)

    def change_unit(self, factor: float | Tensor) -> None:
        """Leave the weight as it is: a nat of KL is worth a nat in every unit."""

    def penalty(self, value: Tensor) -> Tensor:
        """Return what the loss gets, the value times its weight."""
        return self.multiplier.to(value.dtype) * value

    def ascend(self, value: Tensor) -> None:
        """Leave the weight as it is."""
