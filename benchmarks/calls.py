"""How often a denoiser is asked: one row of its batch is one call with one picture."""

from __future__ import annotations

from typing import Any

from torch import nn


class Rows:
    """Count the rows that some denoisers are asked for together."""

    def __init__(self, *modules: nn.Module) -> None:
        self.count = 0
        self.hooks = [module.register_forward_pre_hook(self._see) for module in modules]

    def _see(self, module: Any, given: Any) -> None:
        self.count += len(given[0])

    def take(self) -> int:
        """Return the count since the last time."""
        count, self.count = self.count, 0
        return count

    def remove(self) -> None:
        """Count no more."""
        for hook in self.hooks:
            hook.remove()
