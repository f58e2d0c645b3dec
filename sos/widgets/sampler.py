"""Show samples with one slider per principal component, in plain ipywidgets (§4.3, eq. 5)."""

from collections.abc import Callable

import ipywidgets as widgets
import torch
from torch import Tensor

from sos.analysis import editing
from sos.analysis.components import sweep, sweep_values
from sos.analysis.editing import Shape
from sos.analysis.interpolation import slerp
from sos.distributions.low_rank_normal import LowRankNormal
from sos.figures.panels import tile
from sos.models.vae import VAE
from sos.widgets.pictures import Still, comfortable_zoom, labelled, png
from sos.widgets.surface import Editor, check_canvas

REACH = 5.0  # sliders and tiles run from -REACH to REACH
VIEWS = ("one sample", "100 samples", "all components")
SMALLEST_TILE = 28  # screen pixels, which hold the number above a column
SWEEP = sweep_values(REACH, interval=1.0)  # scales of tiles
ENDS = 32  # latent codes that a VAESampler starts with, and keeps two of


def button(text: str, tooltip: str, work: Callable[[], None]) -> widgets.Button:
    """Make a button that calls `work` when it is clicked."""
    made = widgets.Button(description=text, tooltip=tooltip, layout=widgets.Layout(width="auto"))
    made.on_click(lambda _: work())
    return made


def scale_slider(number: int) -> widgets.FloatSlider:
    """Make a slider for the scale of one component."""
    return widgets.FloatSlider(
        1.0, min=-REACH, max=REACH, step=0.1, description=f"{number}",
        readout_format=".1f", tooltip=f"scale of component {number}",
        layout=widgets.Layout(width="auto", min_width="0"),
        style={"description_width": "22px"},
    )  # fmt: skip


class Sampler(Still, widgets.HBox):
    """Show a sample of a distribution, with a slider for each principal component (eq. 5).

        sampler = Sampler(p, shape)  # show it; then, in another cell:
        sampler.distribution         # p with its components scaled, a LowRankNormal
        sampler.image()              # what is shown
        sampler.editor()             # paint on it

    Sliders start at 1, which is the model's own sample. `new_latent` draws another p, and adds a
    button for that. The attributes `noise_factor` (R,) and `noise_diag` (S,) are the noise of the
    sample.
    """

    def __init__(
        self,
        p: LowRankNormal,
        shape: Shape,
        new_latent: Callable[[], LowRankNormal] | None = None,
        seed: int = 0,
    ):
        self.shape = tuple(shape)
        check_canvas(p, self.shape)
        self._stream, self._quiet = torch.Generator().manual_seed(seed), False
        self.noise_factor = torch.randn(p.rank, generator=self._stream)
        self.noise_diag = torch.randn(p.event_shape, generator=self._stream)
        self._hundred = seed
        self._zoom = comfortable_zoom(self.shape)
        self.sliders = [scale_slider(number + 1) for number in range(p.rank)]
        self.view = widgets.ToggleButtons(
            options=VIEWS, tooltips=[f"show {view}" for view in VIEWS],
            style={"button_width": "auto"},
        )  # fmt: skip
        self._picture = widgets.Image(format="png", layout=widgets.Layout(object_fit="contain"))
        buttons = [
            button("New sample", "new noise, the same distribution", self.new_sample),
            button("Reset", "all sliders to 1, the model's own sample", self.reset),
        ]
        if new_latent is not None:
            tip = "another latent code: one decoder pass"
            work = lambda: self.show_distribution(new_latent())  # noqa: E731
            buttons.insert(1, button("New latent", tip, work))
        grid = widgets.GridBox(
            self.sliders,
            layout=widgets.Layout(
                grid_template_columns="repeat(2, 250px)",
                grid_gap="0 8px",
                align_content="flex-start",
            ),
        )
        left = widgets.VBox([self.view, self._picture, widgets.HBox(buttons)])
        right = widgets.VBox([widgets.Label("Components (eq. 5)"), grid])
        super().__init__(
            [left, right], layout=widgets.Layout(flex_flow="row wrap", grid_gap="12px 20px")
        )
        for slider in (*self.sliders, self.view):
            slider.observe(lambda _: self.draw(), "value")
        self.show_distribution(p)

    def show_distribution(self, p: LowRankNormal) -> None:
        """Show another distribution of the same shape and rank. Raises ValueError for others."""
        editing.check_shape(p, self.shape)
        if p.rank != len(self.sliders):
            raise ValueError(f"the distribution must have rank {len(self.sliders)}, not {p.rank}")
        self._p = p
        self._components = p.principal_components()
        self._factor = (self._components.directions * self._components.scales).mT  # (R, S)
        self.draw()

    @property
    def scales(self) -> Tensor:
        """Return the values of the sliders (R,)."""
        return torch.tensor([slider.value for slider in self.sliders])

    @property
    def distribution(self) -> LowRankNormal:
        """Return the distribution with P V diag(a) Vᵀ in place of P (eq. 5), for sliders a."""
        return self._p.scale_components(self.scales)

    def samples(self, scales: Tensor, noise_factor: Tensor, noise_diag: Tensor) -> Tensor:
        """Compute μ + U diag(s a) Vᵀω_p + √D ω_d (eq. 5), for scales a.

        The noises are (..., R) and (..., S), and the result is (..., C, H, W).
        """
        p, rotation = self._p, self._components.rotation
        own = noise_factor.to(rotation) @ rotation * scales.to(rotation)
        still = p.loc + p.cov_diag.sqrt() * noise_diag.to(p.loc)
        return (still + own.to(p.loc) @ self._factor).unflatten(-1, self.shape)

    def image(self) -> Tensor:
        """Return the sample at the present sliders (C, H, W)."""
        return self.samples(self.scales, self.noise_factor, self.noise_diag)

    def draw(self) -> None:
        """Draw the picture again."""
        if self._quiet:
            return
        shown, zoom = self.image(), self._zoom
        if self.view.value == "100 samples":
            stream = torch.Generator().manual_seed(self._hundred)  # the same for all sliders
            noises = (
                torch.randn(100, n, generator=stream) for n in (self._p.rank, len(self._p.loc))
            )
            shown, zoom = sheet(self.samples(self.scales, *noises), 10), 1
        if self.view.value == "all components":
            self._picture.value = self._labelled_tiles()
        else:
            self._picture.value = png(shown, zoom)
        width = int.from_bytes(self._picture.value[16:20], "big")  # in the header of a PNG
        self._picture.layout.max_width = f"{width}px"

    def _labelled_tiles(self) -> bytes:
        """Encode the tiles with the numbers of components and their scales as PNG."""
        values = [f"{value:g}".replace("-", "\N{MINUS SIGN}") for value in SWEEP]
        rows = [f"{number + 1}" for number in range(self._p.rank)]
        title = "rows: number of the component; columns: its scale"
        zoom = max(1, -(-SMALLEST_TILE // self.shape[2]))
        return labelled(sheet(self.tiles(), len(values)), rows, values, title, zoom)

    def tiles(self) -> Tensor:
        """Sweep each component from -5 to 5 with the others at their sliders: (R·11, C, H, W)."""
        noises = self.noise_factor, self.noise_diag
        tiles = sweep(self._p, *(noise.to(self._p.loc) for noise in noises), self.scales, SWEEP)
        return tiles.flatten(0, 1).unflatten(-1, self.shape)

    def new_sample(self) -> None:
        """Draw new noise, and show it."""
        self.noise_factor = torch.randn(self._p.rank, generator=self._stream)
        self.noise_diag = torch.randn(self._p.event_shape, generator=self._stream)
        self._hundred += 1
        self.draw()

    def reset(self) -> None:
        """Set all sliders to 1."""
        self._quiet = True
        for slider in self.sliders:
            slider.value = 1.0
        self._quiet = False
        self.draw()

    def editor(self, **traits) -> Editor:
        """Make an editor on the current distribution that shows the current sample.

        Only the noise of single values, √D ω_d, differs, because the editor draws its own.
        """
        traits = {"view": "sample"} | traits
        return Editor(self.distribution, self.shape, noise_factor=self.noise_factor, **traits)

    def still(self) -> bytes:
        """Return the sample at the present sliders as a PNG file."""
        return png(self.image(), self._zoom)


class VAESampler(Still, widgets.VBox):
    """Show two latent codes with a slider between them (eq. 8), and a `Sampler` of the result.

    Every move of the slider is one decoder pass. `sampler` and `z` hold the state. It starts with
    the two of 32 random codes whose pictures differ most, so that the way between them shows.
    """

    def __init__(self, vae: VAE, seed: int = 0):
        self.vae, self._stream = vae, torch.Generator().manual_seed(seed)
        codes = [self._new() for _ in range(ENDS)]
        self.t = widgets.FloatSlider(
            0.5, min=0, max=1, step=0.01, description="t", tooltip="from left to right",
            layout=widgets.Layout(width="500px"),
        )  # fmt: skip
        self.sampler = Sampler(self._decode(codes[0]), vae.image_shape, seed=seed)
        self.ends = self._apart(codes)
        self._pictures = [widgets.Image(format="png") for _ in self.ends]
        sides = [
            widgets.VBox(
                [
                    picture,
                    button(f"New {side} code", "one decoder pass", lambda k=k: self.renew(k)),
                ],
                layout=widgets.Layout(align_items="center"),
            )
            for k, (side, picture) in enumerate(zip(("left", "right"), self._pictures, strict=True))
        ]
        row = widgets.HBox(
            [sides[0], self.t, sides[1]], layout=widgets.Layout(align_items="center")
        )
        super().__init__([row, self.sampler])
        self.t.observe(lambda _: self._draw_middle(), "value")
        self.sampler._picture.observe(lambda _: self._follow_noise(), "value")
        self._draw_ends()
        self._draw_middle()

    def _new(self) -> Tensor:
        return torch.randn(self.vae.latent, generator=self._stream)

    def _apart(self, codes: list[Tensor]) -> list[Tensor]:
        """Choose the two codes whose samples with one noise differ most."""
        samples = torch.stack([self._sample(z) for z in codes])
        distances = (samples[:, None] - samples).square().mean(-1)
        return [codes[k] for k in divmod(int(distances.argmax()), len(codes))]

    @torch.no_grad()
    def _decode(self, z: Tensor) -> LowRankNormal:
        return self.vae.decode(z[None].to(next(self.vae.parameters()).device))[0]

    def _sample(self, z: Tensor) -> Tensor:
        """Sample (S,) at the code z, with the noise of the sample between both ends."""
        p, s = self._decode(z), self.sampler
        return p.rsample_from(s.noise_factor.to(p.loc), s.noise_diag.to(p.loc))

    @property
    def z(self) -> Tensor:
        """Return the latent code (latent,) at the slider, between both ends (eq. 8)."""
        return slerp(*self.ends, self.t.value)

    def renew(self, end: int) -> None:
        """Draw a new code for the left (0) or right (1) end."""
        self.ends[end] = self._new()
        self._draw_middle()
        self._draw_ends()

    def _draw_middle(self) -> None:
        self.sampler.show_distribution(self._decode(self.z))

    def _follow_noise(self) -> None:
        if self.sampler.noise_factor is not self._noise:
            self._draw_ends()

    def _draw_ends(self) -> None:
        """Draw samples of both ends, with the noise of the sample between them."""
        self._noise = self.sampler.noise_factor
        for picture, z in zip(self._pictures, self.ends, strict=True):
            picture.value = png(self._sample(z).unflatten(-1, self.sampler.shape), 2)

    def still(self) -> bytes:
        """Return the sample between both ends as a PNG file."""
        return self.sampler.still()


def sheet(images: Tensor, columns: int) -> Tensor:
    """Tile images (N, C, H, W) into one image with white gaps."""
    return torch.from_numpy(tile(images, columns)).permute(2, 0, 1)
