"""How answers that are no plain functions are called, where they live.

A driver is given the answer and its arguments, calls it, and returns what a judge has to see.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

Answer = Callable[..., Any]


def record_calls(recorder: Answer, cases: Sequence[tuple[Any, Any, Any]]) -> dict[str, Any] | None:
    """Make a recorder, call it like a processor on each case, and return outputs and maps.

    Args:
        recorder: The class, or a function that makes a recorder.
        cases: Layer, pictures and text (or None) of each call.
    """
    made = recorder()
    if made is None:
        return None
    empty = getattr(made, "maps", None)
    outputs = [made(attn, x, context) for attn, x, context in cases]
    if any(output is None for output in outputs):
        return None
    return {"maps": getattr(made, "maps", empty), "outputs": outputs}


def measure_and_restore(answer: Answer, model: Any, noised: Any) -> dict[str, Any] | None:
    """Call an answer that exchanges the model's processors; say whether it put them back."""
    module = model.module
    before = dict(module.attn_processors)
    try:
        value = answer(model, noised)
    finally:
        after = dict(module.attn_processors)
        module.set_attn_processor(dict(before))
    kept = all(after.get(name) is one for name, one in before.items())
    return None if value is None else {"value": value, "restored": kept}
