"""From a list of edits to one plan, and the default list for two prompts."""

from __future__ import annotations

from collections.abc import Sequence

from p2p_lab.devices import cpu_by_default
from p2p_lab.edits.aligners import Edit, Refine, Replace
from p2p_lab.edits.blend import LocalBlend
from p2p_lab.edits.plan import EditPlan
from p2p_lab.tokens import Prompt, word_blocks
from p2p_lab.tokens.alignment import Compat, needleman_wunsch, spoken
from p2p_lab.tokens.prompt import check_prompts
from p2p_lab.tokens.words import normal


@cpu_by_default()
def compile_edits(
    edits: Sequence[Edit],
    source: Prompt,
    target: Prompt,
    steps: int,
    *,
    compat: Compat = None,
) -> EditPlan:
    """Fold edits into one plan; their order does not matter.

    Without a `Replace` or `Refine` among them, `Refine()` is added: on equal prompts it is the
    identity alignment, so a lone `Reweight` scales the *source's* map, as in the paper. No
    edits at all give the identity plan.

    Args:
        edits: At most one of `Replace` and `Refine`, at most one `LocalBlend`, any `Reweight`s
            and `Move`s.
        source: Prompt of the source picture.
        target: Prompt of the edit, from the same tokenizer and of the same length.
        steps: Number of denoising steps T.
        compat: "reference" reproduces the quirks of the authors' code, for comparison.

    Raises:
        AlignmentError: If a word is not in its prompt, or the prompts cannot be aligned.
        ValueError: If there are too many aligners or blends, or the prompts do not fit.
        TypeError: If something in the list is no edit, or a prompt is a text.
    """
    edits = _checked(edits)
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"A schedule has at least 1 step, a whole number; got {steps!r}.")
    check_prompts(source=source, target=target)
    if len(source) != len(target):
        raise ValueError(
            f"The source has {len(source)} token positions and the target {len(target)}. Build "
            f"both prompts with the same tokenizer and the same length."
        )
    if compat not in (None, "reference"):
        raise ValueError(f"compat is None or 'reference', got {compat!r}.")
    plan = EditPlan.identity(source, target, steps, compat=compat)
    for edit in edits:
        plan = edit.apply(plan, source, target)
    if not bool((plan.source_gain + plan.target_gain).float().isfinite().all()):
        raise ValueError("The scales multiply to a number too large to compute with. Lower them.")
    return plan


def _checked(edits: Sequence[Edit]) -> list[Edit]:
    """Return the edits with one aligner, which comes first."""
    if not isinstance(edits, (list, tuple)):
        raise TypeError(f"edits is a list, as [Reweight('cat', 2.0)]; got {edits!r:.80}.")
    for edit in edits:
        if isinstance(edit, type) or not hasattr(edit, "apply"):
            raise TypeError(
                "An edit is a Replace(), Refine(), Reweight(), Move() or LocalBlend(), got "
                f"{edit!r:.80}."
            )
    aligners = [edit for edit in edits if isinstance(edit, (Replace, Refine))]
    others = [edit for edit in edits if not isinstance(edit, (Replace, Refine))]
    blends = [edit for edit in edits if isinstance(edit, LocalBlend)]
    if len(aligners) > 1 or len(blends) > 1:
        raise ValueError(
            f"A plan takes one Replace or Refine and one LocalBlend, got {len(aligners)} and "
            f"{len(blends)}. Give single words their own window with words={{...}}, and name "
            f"all words in one LocalBlend."
        )
    return [*(aligners or ([Refine()] if others else [])), *others]


@cpu_by_default()
def default_edits(source: Prompt, target: Prompt) -> tuple[tuple[Edit, ...], str]:
    """Choose the edit that two prompts ask for, and say why in a sentence.

    Raises:
        AlignmentError: If the prompts share no word to hold on to.
        TypeError: If a prompt is a text.
    """
    check_prompts(source=source, target=target)
    before, after = [[normal(w) for w in prompt.words] for prompt in (source, target)]
    if before == after:
        return (Refine(),), (
            "The prompts have the same words, so Refine keeps every map. Add a Reweight to turn "
            "a word up or down."
        )
    pairs = needleman_wunsch(before, after)
    if len(pairs) in (len(before), len(after)) or _moved(source, target):
        return (Refine(),), _refine_sentence(source, target, pairs)
    swaps = [
        (source.phrase(old[0], old[-1] + 1), target.phrase(new[0], new[-1] + 1))
        for old, new in word_blocks(source, target)
    ]
    named = [f"{old!r} -> {new!r}" for old, new in swaps if normal(old) != normal(new)]
    if not named:
        return (Refine(),), _refine_sentence(source, target, pairs)
    return (Replace(),), f"Words are swapped ({', '.join(named)}), so Replace."


def _moved(source: Prompt, target: Prompt) -> bool:
    """Return whether equally many words match better out of place than place by place."""
    before, after = (
        [normal(prompt.words[word]) for word in spoken(prompt)] for prompt in (source, target)
    )
    in_place = sum(a == b for a, b in zip(before, after, strict=False))
    return len(before) == len(after) and in_place < len(needleman_wunsch(before, after))


def _refine_sentence(source: Prompt, target: Prompt, pairs: list[tuple[int, int]]) -> str:
    kept_before, kept_after = {i for i, _ in pairs}, {j for _, j in pairs}
    gone = [repr(w) for i, w in enumerate(source.words) if i not in kept_before]
    new = [repr(w) for j, w in enumerate(target.words) if j not in kept_after]
    changes = [f"{verb} {' '.join(w)}" for verb, w in (("adds", new), ("drops", gone)) if w]
    return f"The target {' and '.join(changes)}, so Refine: all other words keep their maps."
