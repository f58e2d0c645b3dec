"""What is measured and shown of trained models: arrays and numbers, no figures."""

__all__ = [
    "calibration",
    "components",
    "density",
    "editing",
    "evaluation",
    "interpolation",
    "metrics",
    "mixture",
    "pca",
    "regions",
    "sampling",
    "toy",
]
