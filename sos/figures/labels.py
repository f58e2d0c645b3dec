"""What data sets and models are called in figures and tables, and the paper's own numbers."""

from sos.config import Data, Network

DATA = {"faces": "faces", "brains": "brain slices"}
GRAY = "gray"  # the data set of notebook 02: the same faces without colour
LABELS = DATA | {GRAY: "gray faces"}
KIND = {
    "beta": "β-VAE",
    "dorta": "Dorta et al.",
    "sos": "SOS-VAE",
    "constrained": "Dorta et al. with ξ_H",
    "hybrid": "low rank + sparse",
}
# The models of notebook 08, whose names are epsilon-<data>-<kind>.
EPSILON = {
    "learnt": "SOS-VAE, learnt ε",
    "long": "learnt ε, three times as long",
    "paper": "SOS-VAE, the paper's ε",
    "sigma": "σ-VAE",
    "growing": "learnt ε, no constant of P",
    "cold": "learnt ε, no pre-training",
    "wide": "σ-VAE, 35 latents",
    "beta": "β-VAE, learnt D",
    "image": "SOS-VAE, ε per image",
    "diagonal": "SOS-VAE, learnt D",
    "sparse": "sparse",
    "hybrid": "low rank + sparse",
}
CELLS = "solar cells"  # real images, in notebook 12
TITLES = LABELS | {"cells": CELLS}
PAPER_DATA = {"faces": "CelebA", "brains": "UKBB", GRAY: "CelebA, gray"}
# Table 1 of the paper: Fréchet inception distance of 50,000 images (Langley et al., 2022).
PAPER_TABLE_1 = {
    ("CelebA", "β-VAE", "means"): 121.65,
    ("CelebA", "β-VAE", "samples"): 196.40,
    ("CelebA", "SOS-VAE", "means"): 132.93,
    ("CelebA", "SOS-VAE", "samples"): 104.62,
    ("UKBB", "β-VAE", "means"): 211.24,
    ("UKBB", "β-VAE", "samples"): 332.89,
    ("UKBB", "SOS-VAE", "means"): 141.87,
    ("UKBB", "SOS-VAE", "samples"): 79.712,
    ("CelebA, gray", "β-VAE", "means"): 90.97,
    ("CelebA, gray", "β-VAE", "samples"): 257.11,
    ("CelebA, gray", "Dorta et al.", "means"): 73.44,
    ("CelebA, gray", "Dorta et al.", "samples"): 77.72,
    ("CelebA, gray", "SOS-VAE", "means"): 70.43,
    ("CelebA, gray", "SOS-VAE", "samples"): 74.66,
}
LARGEST_VARIANCE = 0.25  # that values between 0 and 1 can have


def title(name: str) -> str:
    """Return the words for a model: "faces-sos" → "faces, SOS-VAE"; others stay as they are."""
    if name.startswith("epsilon-"):
        _, data, kind = name.split("-", 2)
        first, *rate = kind.split("-") if kind.endswith("-rate") else [kind]
        return ", ".join([LABELS[data], EPSILON.get(first, f"ε = {first}"), *rate[:-1]])
    data, _, kind = name.partition("-")
    if data == "cells":
        return f"{CELLS}, {EPSILON.get(kind, kind)}"
    if data not in LABELS or kind not in KIND:
        return name
    return f"{LABELS[data]}, {KIND[kind]}"


def noise(network: Network) -> str:
    """Return what stands beside PPᵀ in the covariance."""
    if network.neighbourhood:
        return f"(LLᵀ)⁻¹, {network.neighbourhood}×{network.neighbourhood}"
    if network.epsilon is None:
        return {None: "learnt", "shared": "learnt ε I", "image": "ε(z) I"}[network.diagonal]
    return f"{network.diagonal:g} I"


def image_size(data: Data) -> str:
    """Return height × width × channels."""
    return f"{data.height}×{data.width}×{data.channels}"
