"""What is measured and shown of trained models: arrays and numbers, no figures."""

__all__ = [
    "components",
    "editing",
    "evaluation",
    "interpolation",
    "metrics",
    "pca",
    "regions",
    "sampling",
    "toy",
]
