"""Other values for the factors behind a simulated image."""

import math
from collections.abc import Mapping


def changed(known: tuple[str, ...], changes: Mapping[str, float] | None) -> dict[str, float]:
    """Return the changes of factors. Raises ValueError for unknown or non-finite ones."""
    changes = dict(changes or {})
    unknown = sorted(set(changes) - set(known))
    if unknown:
        raise ValueError(f"no factor is called {', '.join(unknown)}; expected {', '.join(known)}")
    for name, value in changes.items():
        if not math.isfinite(value):
            raise ValueError(f"{name} is {value}; give it a finite value")
    return changes
