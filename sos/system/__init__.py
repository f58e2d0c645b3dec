"""The machine: places of files, progress bars, devices, several processes."""

__all__ = ["devices", "distributed", "paths", "progress"]
