"""Models: the networks of the paper, the VAE on them, and the distribution without a network."""

from sos.models.bare import BareNormal
from sos.models.build import new_model
from sos.models.networks import memory_format
from sos.models.vae import VAE, Terms

__all__ = ["VAE", "BareNormal", "Terms", "memory_format", "new_model"]
