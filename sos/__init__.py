"""Structured uncertainty in the observation space of variational autoencoders (SOS-VAE)."""

__version__ = "0.1.0"
