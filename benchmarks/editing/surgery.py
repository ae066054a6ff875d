"""Changes of the method itself, for ablations: they are made for the length of a block.

The package's rows are not renormalised, as in the paper, its plan acts at sites of every size, and
its blend looks at the maps nearest to 16 × 16. These wrappers try the other ways.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from p2p_lab.attention import AttentionCall, Controller, Site, controller
from p2p_lab.attention.tape import join
from p2p_lab.edits import EditPlan
from p2p_lab.sampling import edit_job


class Open(Controller):
    """A controller that forms every edited map of a cross site, so that it can be changed.

    The package's own takes a shorter way to the same picture where it can.
    """

    def apply(self, site: Site, call: AttentionCall) -> Tensor:
        """Compute the attention's output, (B, heads, Q, d), through `attend`."""
        rows, everything = self.rows.target, slice(None)
        if site.kind != "cross" or rows is None or self.plan is None or not self.wants(site):
            return super().apply(site, call)
        own = call.query_key(rows, everything).probs()
        if self.rows.source is not None:
            source = call.query_key(self.rows.source, everything).probs()
        else:
            source = join([tape.get(self.step, site) for tape in self.tapes]).probs()
        edited, value = self.attend(site, own, source), call.value[rows]
        output = call.native().clone()
        output[rows] = (edited @ value.to(edited.dtype)).to(value.dtype)
        return output


@contextmanager
def replaced(name: str, wrap: Callable[[Any], Any]) -> Iterator[None]:
    """Replace one function that the controller calls by a wrapped one, and give it back."""
    changes = ((controller, name, wrap(getattr(controller, name))), (edit_job, "Controller", Open))
    before = [(module, which, getattr(module, which)) for module, which, _ in changes]
    for module, which, new in changes:
        setattr(module, which, new)
    try:
        yield
    finally:
        for module, which, original in before:
            setattr(module, which, original)


def renormalised(mix: Any) -> Any:
    """Bring each row of edited probabilities back to the sum that it had."""

    def mixed(target: Tensor, source: Any, site: Site, plan: EditPlan, step: int) -> Tensor:
        edited: Tensor = mix(target, source, site, plan, step)
        if edited is target:
            return edited
        total = edited.sum(-1, keepdim=True)
        safe = total.abs() > 1e-3  # a negative fader may bring a row to nothing
        return edited * (target.sum(-1, keepdim=True) / total.where(safe, total.new_ones(())))

    return mixed


def only_at(size: int) -> Callable[[Any], Any]:
    """Edit the attention to text only at sites of size × size positions."""

    def wrap(mix: Any) -> Any:
        def mixed(target: Tensor, source: Any, site: Site, plan: EditPlan, step: int) -> Tensor:
            if site.size != (size, size):
                return target
            edited: Tensor = mix(target, source, site, plan, step)
            return edited

        return mixed

    return wrap


def blend_at(size: int) -> Callable[[Any], Any]:
    """Make the blend's mask of maps of size × size positions, if the model has any."""

    def wrap(choose: Any) -> Any:
        def chosen(sites: Mapping[str, Site]) -> list[Site]:
            usual: list[Site] = choose(sites)
            return [s for s in sites.values() if s.has_text and s.size == (size, size)] or usual

        return chosen

    return wrap


SURGERIES: dict[str, Callable[[], Any]] = {
    "renormalised": lambda: replaced("mix_site", renormalised),
    "edited at 16x16": lambda: replaced("mix_site", only_at(16)),
    "edited at 8x8": lambda: replaced("mix_site", only_at(8)),
    "blended from 8x8": lambda: replaced("blend_sites", blend_at(8)),
}
