"""Explore the observation distribution by hand, in notebooks and in HTML pages (§4.2–4.4)."""

from sos.widgets.page import export_page, room_for
from sos.widgets.sampler import Sampler, VAESampler
from sos.widgets.surface import Editor, Pad

__all__ = ["Editor", "Pad", "Sampler", "VAESampler", "export_page", "room_for"]
