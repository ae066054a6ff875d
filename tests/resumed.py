"""One process of a training run that is stopped and goes on: `resumed.py OUT STEPS`.

Started by test_training_nested.py. Trains a tiny model in OUT and stops after STEPS batches (0:
goes on to the end); prints a hash of the trained weights and of the tokenizer.
"""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from pathlib import Path
from typing import Any

import torch

from p2p_lab.training import feeding, latent, stage, tokens, train
from tiny_run import TINY

tokens.TOKENIZER_CAPTIONS = 800
latent.sample_grid = lambda *_: None  # type: ignore[assignment]
latent.autoencoder_grid = lambda *_: None  # type: ignore[assignment]
stage.run_stage.__kwdefaults__["checkpoint_seconds"] = 0.0
torch.set_num_threads(1)
left = int(sys.argv[2]) or 10**9
draw = feeding.Draws.__getitem__


def counted(self: Any, index: int) -> Any:
    global left
    left -= 1
    if left < 0:
        sys.exit(0)
    return draw(self, index)


feeding.Draws.__getitem__ = counted  # type: ignore[method-assign]
parts = train(
    dataclasses.replace(TINY, pictures=16, encoder="learned"), Path(sys.argv[1]), device="cpu"
)
found = hashlib.sha256(parts.tokenizer.backend_tokenizer.to_str().encode())
for module in (parts.vae, parts.unet, parts.text_encoder):
    for name, tensor in sorted(module.state_dict().items()):
        found.update(name.encode() + tensor.numpy().tobytes())
print("weights", found.hexdigest())
