"""Hands on the observation distribution, in notebooks and in pages of their own (§4.2–4.4)."""

from sos.widgets.page import export_page, room_for
from sos.widgets.sampler import Sampler, VAESampler
from sos.widgets.surface import Editor, Pad

__all__ = ["Editor", "Pad", "Sampler", "VAESampler", "export_page", "room_for"]
