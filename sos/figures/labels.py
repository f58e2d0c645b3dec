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
    data, _, kind = name.partition("-")
    if data not in LABELS or kind not in KIND:
        return name
    return f"{LABELS[data]}, {KIND[kind]}"


def noise(network: Network) -> str:
    """Return what stands beside PPᵀ in the covariance."""
    if network.neighbourhood:
        return f"(LLᵀ)⁻¹, {network.neighbourhood}×{network.neighbourhood}"
    if network.diagonal in (None, "shared"):
        return "learnt" if network.diagonal is None else "learnt ε I"
    return f"{network.diagonal:g} I"


def image_size(data: Data) -> str:
    """Return height × width × channels."""
    return f"{data.height}×{data.width}×{data.channels}"
