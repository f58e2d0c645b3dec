"""Training by the modified differential method of multipliers (eq. 3), resumable at any moment."""

import copy
import hashlib
import math
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from sos import graphs, parallel, paths
from sos.bare import BareNormal, log_density
from sos.config import Data, Experiment, Network, Training
from sos.networks import DIAGONAL_FLOOR
from sos.progress import tqdm
from sos.sparse_precision_normal import neighbour_regression
from sos.vae import VAE, Terms

VERSION = 1  # bump when the same configuration gives other weights, beyond rounding
LOG_EVERY = 10  # steps between rows of the history
CHECKPOINT_EVERY = 100  # steps
CHECKPOINT_SECONDS = 20.0  # at least between two of them: hundreds of megabytes at paper size
WARM_UP = 50  # steps


class Constraint:
    """One soft constraint value ≈ target of eq. 3, with its multiplier (Platt & Barr, 1988).

    The loss gets (λ + c(v - ξ))(v - ξ) with the bracket detached, whose gradient is that of
    λ(v - ξ) + c(v - ξ)²/2; then λ ascends by rate·(v - ξ) and stays at or above zero.
    """

    def __init__(self, target: float, damping: float, rate: float, device: torch.device):
        self.target, self.damping, self.rate = target, damping, rate
        self.multiplier = torch.zeros((), device=device, dtype=torch.float64)
        self.at_present = torch.tensor(target, device=device, dtype=torch.float64)

    def hold(self, share: float) -> None:
        """Lets a share of the target hold from now on."""
        self.at_present.fill_(self.target * share)

    def slack(self, value: Tensor) -> Tensor:
        return value - self.at_present.to(value.dtype)

    def penalty(self, value: Tensor) -> Tensor:
        slack = self.slack(value)
        return (self.multiplier + self.damping * slack).detach() * slack

    def ascend(self, value: Tensor) -> None:
        self.multiplier += self.rate * self.slack(value.detach())
        self.multiplier.clamp_(min=0)


def batch_indices(step: int, images: int, training: Training) -> Tensor:
    """The images of one step: every epoch is a fresh permutation, a function of seed and epoch."""
    per_epoch = max(images // training.batch, 1)
    epoch, position = divmod(step, per_epoch)
    order = torch.randperm(images, generator=generator("epoch", training.seed, epoch))
    return order[position * training.batch : (position + 1) * training.batch]


def generator(purpose: str, *numbers: int, device: str | torch.device = "cpu") -> torch.Generator:
    """A random stream of its own for each purpose and step, so that resuming needs no state."""
    digest = hashlib.sha256(repr((purpose, *numbers)).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def learning_rate(step: int, training: Training) -> float:
    """Constant; with `decay`, after pre-training a linear warm-up and a cosine to zero.

    The warm-up is for the covariance heads, whose first Adam steps are as large as their weights.
    """
    after = step - training.pretraining
    if not training.decay or after < 0:
        return training.learning_rate
    progress = after / (training.steps - training.pretraining)
    warm = min(1.0, (after + 1) / WARM_UP)
    return training.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * progress))


def device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def has_fast_bfloat16(where: torch.device) -> bool:
    """Whether bfloat16 convolutions are faster than float32 ones: Ampere or later, AMX, or a CPU
    that multiplies pairs of bfloat16 (AVX512_BF16: on a Zen 4 at twice the rate of float32)."""
    if where.type == "cuda":
        return torch.cuda.get_device_capability(where) >= (8, 0)
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.15 and later
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


def precision(where: torch.device) -> torch.autocast:
    """bfloat16 for the networks' trunks where that is faster; heads and densities opt out."""
    enabled = has_fast_bfloat16(where)
    # On a GPU a captured step has to cast its weights itself, not find them cast by the one before.
    cached = where.type != "cuda"
    return torch.autocast(where.type, torch.bfloat16, enabled, cache_enabled=cached)


def memory_format(network: Network) -> torch.memory_format:
    """channels_last, but not below 16 channels: there oneDNN's weight gradient of the strided 1x1
    convolutions writes past a buffer and can end the process (uxlfoundation/oneDNN#6035)."""
    return torch.channels_last if network.width >= 16 else torch.contiguous_format


def new_model(data: Data, network: Network) -> VAE | BareNormal:
    """Untrained: a VAE, or with a latent space of no dimensions the bare distribution (§4.5)."""
    return VAE(data, network) if network.latent else BareNormal(data, network)


def check(experiment: Experiment) -> None:
    """Raises ValueError for what would only fail in the middle of a training."""
    network, training = experiment.network, experiment.training
    constrained = experiment.objective.rank_entropy_target is not None
    if training.warm_release and constrained and network.rank and network.diagonal is None:
        raise ValueError(
            "warm_release gives P its target entropy beside D = εI; set it to False, or "
            "rank_entropy_target to None, where D is learnt"
        )
    if training.stop_at_variance is not None and network.neighbourhood:
        raise ValueError(
            "stop_at_variance needs a variance, which a sparse L does not tell; set it to None"
        )


class Run:
    """A model in training with everything that a checkpoint has to hold."""

    def __init__(self, experiment: Experiment, images: Tensor, where: torch.device):
        objective, training = experiment.objective, experiment.training
        check(experiment)
        self.training, self.format = training, memory_format(experiment.network)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(training.seed)
            self.vae = new_model(experiment.data, experiment.network)
        # A mean that starts at the data's colour need not travel there.
        self.vae.start_mean_at(some(images).float().mean((0, 2, 3)).to(where) / 255)
        self.vae.to(where, memory_format=self.format)
        rate, on_gpu = training.learning_rate, where.type == "cuda"
        if on_gpu:  # what a graph of the step can replay
            rate = torch.tensor(rate, device=where)
        self.optimiser = torch.optim.Adam(
            self.vae.parameters(), rate, fused=True, capturable=on_gpu
        )
        self.graphs = {}  # {mean_only: captured step}, on a GPU
        self.kl = Constraint(
            objective.kl_target, objective.damping, objective.multiplier_rate, where
        )
        target, self.rank_entropy = objective.rank_entropy_target, None
        rules = {"ppca": ppca_target, "markov": markov_target}
        if target in rules:
            target = rules[target](images, experiment.network, objective.kl_target)
        if target is not None:
            target = parallel.agreed(target * objective.rank_entropy_factor)
            damping, rate = objective.entropy_damping, objective.entropy_multiplier_rate
            self.rank_entropy = Constraint(target, damping, rate, where)
        self.step, self.seconds, self.history = 0, 0.0, []
        parallel.start_alike([*self.vae.parameters(), *self.vae.buffers()])
        # With `stop_at_variance`: why a training ended early, and the last finite weights it had.
        self.stopped, self.last_good = None, {}

    def state(self) -> dict:
        constraints = [c for c in (self.kl, self.rank_entropy) if c is not None]
        return {
            "vae": self.vae.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "multipliers": [c.multiplier for c in constraints],
            "progress": (self.step, self.seconds, self.history),
        }

    def save(self, file: Path) -> None:
        with paths.replacing(file) as temporary:
            torch.save(self.state(), temporary)

    def restore(self, file: Path) -> None:
        saved = torch.load(file, map_location=self.kl.multiplier.device, weights_only=True)
        ours = self.optimiser.param_groups[0]
        if len(saved["optimiser"]["param_groups"][0]["params"]) != len(ours["params"]):
            raise ValueError(
                f"{file} is a training that an older version began, with other parameters: go on "
                f"with that version, or delete the file to train from the start"
            )
        self.vae.load_state_dict(saved["vae"])
        options = {name: ours[name] for name in ("lr", "fused", "capturable")}
        self.optimiser.load_state_dict(saved["optimiser"])
        self.optimiser.param_groups[0].update(options)  # it may come from another kind of device
        self.kl.multiplier = saved["multipliers"][0]
        if self.rank_entropy is not None:
            self.rank_entropy.multiplier = saved["multipliers"][1]
        self.step, self.seconds, self.history = saved["progress"]

    def optimise(self, x: Tensor, mean_only: bool) -> Terms:
        """One step on images x (batch, C, H, W), each process on its share of them.

        Weights descend, multipliers ascend.
        """
        training, where = self.training, x.device
        x = x.contiguous(memory_format=self.format)
        stream = generator("latent noise", training.seed, self.step, device=where)
        noise = torch.randn(len(x), self.vae.latent, generator=stream, device=where)
        if training.warm_release and self.step == training.pretraining:
            release(self, x)
        x, noise = parallel.share(x), parallel.share(noise)
        group, rate = self.optimiser.param_groups[0], learning_rate(self.step, training)
        if where.type == "cuda":
            group["lr"].fill_(rate)
            terms = graphs.advance(self, x, noise, mean_only)
        else:
            group["lr"] = rate
            terms = self.advance(x, noise, mean_only)
        self.step += 1
        return terms

    def advance(self, x: Tensor, noise: Tensor, mean_only: bool) -> Terms:
        """What a step computes, from its images and its latent noise alone."""
        with precision(x.device):
            terms = self.vae.terms(x, noise, mean_only, self.training.span_gain)
        terms = parallel.pooled(terms, len(x))
        self.optimiser.zero_grad()
        self.loss(terms, mean_only).backward()
        parallel.sum_gradients(self.vae.parameters())
        self.optimiser.step()
        self.ascend(terms, mean_only)
        return terms

    def loss(self, terms: Terms, mean_only: bool) -> Tensor:
        """Equation 3, negated, with the damping of both constraints; per-item means."""
        loss = terms.nll_nats + self.kl.penalty(terms.kl_nats)
        if self.rank_entropy is not None and not mean_only:
            loss = loss + self.rank_entropy.penalty(terms.rank_entropy_nats)
        return loss

    def ascend(self, terms: Terms, mean_only: bool) -> None:
        self.kl.ascend(terms.kl_nats)
        if self.rank_entropy is not None and not mean_only:
            self.rank_entropy.ascend(terms.rank_entropy_nats)

    def record(self, terms: Terms) -> dict[str, float]:
        """One row of the history; raises FloatingPointError where a term is not finite."""
        entropy = self.rank_entropy
        kept = {name: term.double() for name, term in vars(terms).items() if term is not None}
        values = torch.stack(list(kept.values())).tolist()  # one wait for the GPU, not six
        row = {"step": self.step} | dict(zip(kept, values, strict=True))
        row["kl_multiplier"] = self.kl.multiplier.item()
        row["rank_entropy_multiplier"] = 0.0 if entropy is None else entropy.multiplier.item()
        if not all(map(math.isfinite, row.values())):
            raise FloatingPointError(f"training stopped being finite: {row}")
        self.history.append(row)
        return row

    def remember(self) -> None:
        if self.training.stop_at_variance is not None:
            self.last_good = copy.deepcopy(self.vae.state_dict())

    def has_exploded(self, terms: Terms) -> bool:
        """Whether to stop, by `stop_at_variance`; the last finite weights are then the model's.

        Without it what is not finite is left to `record`, which raises.
        """
        limit = self.training.stop_at_variance
        if limit is None:
            return False
        known = (term for term in vars(terms).values() if term is not None)
        if not (self.weights_are_finite() and all(term.isfinite() for term in known)):
            self.stopped = f"not finite at step {self.step}"
            self.vae.load_state_dict(self.last_good)
        else:
            self.remember()
            if terms.variance > limit:
                self.stopped = f"variance {terms.variance:.3g} at step {self.step}"
        return self.stopped is not None

    def weights_are_finite(self) -> bool:
        return all(parameter.isfinite().all() for parameter in self.vae.parameters())

    def check_weights(self, checkpoint: Path) -> None:
        """Raises FloatingPointError rather than have a checkpoint that can only fail again."""
        if not self.weights_are_finite():
            raise FloatingPointError(
                f"weights stopped being finite by step {self.step}; {checkpoint}, if it exists, "
                f"is the last good state"
            )


def train(
    experiment: Experiment,
    images: Tensor,
    checkpoint: Path,
    validation: Tensor | None = None,
) -> Run:
    """Trains on uint8 `images` (N, C, H, W), saving its state to the file `checkpoint`.

    For a bare model, whose log-density needs no code z, `validation` images are measured along.

    Called again after any interruption, even SIGKILL, it goes on from the last checkpoint and
    ends with the same weights as an unbroken run (same machine, same number of threads).
    Raises FloatingPointError when a term stops being finite, naming the step and the terms; with
    `Training.stop_at_variance` such a training ends, as one whose variance passes that limit.
    """
    training, where = experiment.training, device()
    if training.batch < parallel.world_size():
        raise ValueError(
            f"{parallel.world_size()} processes cannot share batches of {training.batch} images: "
            f"start at most {training.batch}"
        )
    if fits(images, where):  # else every batch is read from where they lie
        images = images.to(where)
    run = Run(experiment, images, where)
    if checkpoint.exists():
        run.restore(checkpoint)
    run.vae.train()
    run.remember()
    saved = time.perf_counter()
    clock = saved - run.seconds
    bar = tqdm(
        desc=experiment.name,
        initial=run.step,
        total=training.steps,
        unit="step",
        disable=parallel.rank() > 0,
    )
    with graphs.stream(where), bar:
        while run.step < training.steps:
            mean_only = run.step < training.pretraining
            run.kl.hold(min(1.0, (run.step + 1) / max(training.kl_warmup, 1)))
            terms = run.optimise(batch(images, run.step, training).to(where), mean_only)
            bar.update()
            if run.step % LOG_EVERY == 0 or run.step == training.steps:
                if run.has_exploded(terms):
                    break
                row = run.record(terms)
                if validation is not None:
                    row["validation_nll_nats"] = -log_density(run.vae.distribution(), validation)
                bar.set_postfix_str(f"KL {row['kl_nats']:.3g}, error {row['squared_error']:.3g}")
            due = run.step == training.steps
            if run.step % CHECKPOINT_EVERY == 0 and not due:
                due = parallel.agreed(time.perf_counter() - saved >= CHECKPOINT_SECONDS)
            if due:
                saved = time.perf_counter()
                run.seconds = saved - clock
                run.check_weights(checkpoint)
                if parallel.rank() == 0:
                    run.save(checkpoint)
    run.seconds = time.perf_counter() - clock
    run.vae.eval()
    return run


def some(images: Tensor, most: int = 10_000) -> Tensor:
    """All images, or every n-th of very many: enough for means and leading eigenvalues."""
    return images[:: math.ceil(len(images) / most)]


def fits(images: Tensor, where: torch.device) -> bool:
    """Whether the images, as uint8, leave half of a GPU's free memory to the training."""
    if where.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(where)
    return images.numel() * images.element_size() < free / 2


def ppca_target(images: Tensor, network: Network, kl_target: float) -> float:
    """Rank entropy (nats) that is left for p(y|z), so that samples vary as much as the images.

    images (N, C, H, W), uint8; of the network its rank and its diagonal alone count:
    `ppca_target(images, Network(rank=25, diagonal=1e-5), kl_target=8)`. Raises ValueError where
    nothing is left, and for images that are not bytes.

    The best normal of rank R for the images themselves has the leading eigenvalues λ_r of their
    covariance (Tipping & Bishop, 1999). Scaled up by the share of the variance that R directions
    explain, so that none is missing, its rank entropy is H(y) = ½ Σ log(λ_r/(share·ε)). A code z
    that carries I(y; z) = ξ_KL nats leaves H(y|z) = H(y) - ξ_KL of it.
    """
    if images.dtype != torch.uint8:
        raise ValueError(
            f"images must be uint8, 0..255, not {images.dtype}; pass (255 * x).round().byte()"
        )
    flat = some(images).cpu().flatten(1).float().numpy() / 255
    pca = PCA(network.rank, svd_solver="randomized", random_state=0).fit(flat)
    eigenvalues = pca.explained_variance_ / pca.explained_variance_ratio_.sum()
    epsilon = DIAGONAL_FLOOR if network.diagonal is None else network.diagonal
    ratios = np.maximum(eigenvalues / epsilon, 1)
    left = float(0.5 * np.log(ratios).sum()) - kl_target
    if left <= 0:
        raise ValueError(
            f"kl_target {kl_target:g} nats is more than the {left + kl_target:.1f} nats of rank "
            f"entropy that the images have: lower it, or give rank_entropy_target a number"
        )
    return left


def markov_target(images: Tensor, network: Network, kl_target: float) -> float:
    """H(y) - ξ_KL (nats) for the best normal with a sparse factor L for the images themselves.

    Its columns are regressions, each pixel's on its later neighbours, over the images: the
    conditional variances s² that they leave give H(y) = ½ Σ log 2πe s².
    """
    chosen = some(images).cpu().float()
    centred = (chosen - chosen.mean(0)) / 255
    variance, _ = neighbour_regression(centred, network.neighbourhood)
    # Rounding to 8 bits alone leaves 1/12 of a squared gray level.
    return (
        float(0.5 * (2 * math.pi * math.e * (variance + (1 / 255) ** 2 / 12)).log().sum())
        - kl_target
    )


@torch.no_grad()
def release(run: Run, x: Tensor) -> None:
    """Starts the covariance where it will be needed instead of at almost nothing.

    P gets its target entropy, ½R log(1 + λ/ε) for R columns of squared length λ, or without a
    target half of the residual; a learnt D the mean squared error σ², its best constant; a sparse
    L the best stationary one. Where D = εI goes, the squared error counts 1/2σ² instead of 1/2ε,
    and with this change of unit go the price of a nat of KL and Adam's memory of past gradients,
    which would keep its steps small for long.
    """
    vae = run.vae
    if isinstance(vae, BareNormal):
        if vae.log_variance is None:
            raise ValueError("a bare model with D = εI has nothing to release: warm_release=False")
        error = (x - vae.images(vae.mean)).square().mean()
        vae.start_variance_at(error)
        return change_unit(run, DIAGONAL_FLOOR / error)
    head = vae.head
    mean, _ = vae.encode(x)
    features = vae.decoder(mean)
    if head.factor is not None and run.rank_entropy is not None:
        length = head.diagonal * math.expm1(2 * run.rank_entropy.target / head.rank)
        head.start_factor_at(features, length)
    if head.variance is None and head.precision is None:
        return
    residual = x - vae.images(head(features, mean_only=True).mean)
    error = residual.square().mean()
    if head.variance is not None:
        head.start_variance_at(error)
    else:
        head.start_precision_at(residual)
        if head.factor is not None and run.rank_entropy is None:
            head.start_factor_at(features, 0.5 * error * residual[0].numel() / head.rank)
    change_unit(run, DIAGONAL_FLOOR / error)


def change_unit(run: Run, unit: Tensor) -> None:
    """Multipliers and Adam's moments when the loss is from now on counted in other units."""
    run.kl.multiplier *= unit
    for memory in run.optimiser.state.values():
        memory["exp_avg"] *= unit
        memory["exp_avg_sq"] *= unit**2


def checkpoint_step(file: Path) -> int:
    """The step at which a checkpoint was saved."""
    return torch.load(file, map_location="cpu", weights_only=True)["progress"][0]


def batch(images: Tensor, step: int, training: Training) -> Tensor:
    """The images of one step in [0, 1], each mirrored with probability one half."""
    indices = batch_indices(step, len(images), training)
    x = images[indices.to(images.device)].float() / 255
    if training.flip:
        coins = torch.rand(len(x), generator=generator("flip", training.seed, step)) < 0.5
        x = torch.where(coins.to(x.device)[:, None, None, None], x.flip(-1), x)
    return x
