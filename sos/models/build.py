"""One model for each kind of settings."""

from sos.config import Data, Network
from sos.models.bare import BareNormal
from sos.models.vae import VAE


def new_model(data: Data, network: Network) -> VAE | BareNormal:
    """Make an untrained VAE, or with a latent space of no dimensions a bare distribution (§4.5)."""
    return VAE(data, network) if network.latent else BareNormal(data, network)
