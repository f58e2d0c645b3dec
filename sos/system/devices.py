"""The device, its number formats and its streams of random numbers."""

import hashlib

import torch


def device() -> torch.device:
    """Return the GPU if there is one, otherwise the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def generator(purpose: str, *numbers: int, device: str | torch.device = "cpu") -> torch.Generator:
    """Return a random stream for each purpose and step, so that resuming needs no state."""
    digest = hashlib.sha256(repr((purpose, *numbers)).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def has_fast_bfloat16(device: torch.device) -> bool:
    """Tell whether bfloat16 convolutions are faster than float32 ones on a device.

    They are on Ampere and later, with AMX, and on CPUs that multiply pairs of bfloat16
    (AVX512_BF16, on a Zen 4 at twice the rate of float32).
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.15 and later
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


def precision(device: torch.device) -> torch.autocast:
    """Run the networks' trunks in bfloat16 where that is faster; heads and densities opt out."""
    enabled = has_fast_bfloat16(device)
    # On a GPU a captured step has to cast its weights itself, not find them cast by the one before.
    cached = device.type != "cuda"
    return torch.autocast(device.type, torch.bfloat16, enabled, cache_enabled=cached)


def fits_on_device(images: torch.Tensor, device: torch.device) -> bool:
    """Tell whether the images, as uint8, leave half of a GPU's free memory to the training."""
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return images.numel() * images.element_size() < free / 2
