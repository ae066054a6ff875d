"""Models: one small face for all denoisers, and the bundled ones.

    >>> model = load()                      # the best bundled model
    >>> model = load("path/to/folder")      # a pipeline in diffusers format: see opening.py

This room knows weights, text encoders and autoencoders. It knows nothing of edits and attention.
"""

from p2p_lab.models.cards import verify
from p2p_lab.models.deepfloyd import DeepFloyd, DeepFloydUpscaler
from p2p_lab.models.denoiser import Conditioning, Defaults, Denoiser, ModelCard
from p2p_lab.models.errors import ModelError
from p2p_lab.models.latent_diffusion import LatentDiffusion
from p2p_lab.models.loading import list_models, load
from p2p_lab.models.pixart import PixArt
from p2p_lab.models.stable_diffusion import StableDiffusion
from p2p_lab.models.stable_diffusion_xl import StableDiffusionXL

__all__ = [
    "Conditioning",
    "DeepFloyd",
    "DeepFloydUpscaler",
    "Defaults",
    "Denoiser",
    "LatentDiffusion",
    "ModelCard",
    "ModelError",
    "PixArt",
    "StableDiffusion",
    "StableDiffusionXL",
    "list_models",
    "load",
    "verify",
]
