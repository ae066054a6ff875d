"""What to change, compiled to three small tensors.

Every cross-attention edit of Prompt-to-Prompt, and every composition of them, is affine in the
source's and the target's attention probabilities (Hertz et al. 2022, section 3.2):

    M_hat_t[:, j] = source_gain[t, j] * (M_source_t P)[:, j] + target_gain[t, j] * M_target_t[:, j]

`Replace` (the paper's word swap), `Refine` (adding a new phrase) and `Reweight` (the fader) say
what to change, `Move` (our extension) from which positions the source's rows are read;
`compile_edits` folds them to an `EditPlan` with P and the two gains; `mix_cross` is the equation.
The room knows prompts and tensors, but no model, image or sampler.
"""

from p2p_lab.edits.aligners import Edit, Refine, Replace
from p2p_lab.edits.between import between
from p2p_lab.edits.blend import LocalBlend
from p2p_lab.edits.compiling import compile_edits, default_edits
from p2p_lab.edits.move import Move
from p2p_lab.edits.parts import BlendPlan, MovePlan
from p2p_lab.edits.plan import EditPlan, Window, mix_cross
from p2p_lab.edits.reweight import Reweight

__all__ = [
    "BlendPlan",
    "Edit",
    "EditPlan",
    "LocalBlend",
    "Move",
    "MovePlan",
    "Refine",
    "Replace",
    "Reweight",
    "Window",
    "between",
    "compile_edits",
    "default_edits",
    "mix_cross",
]
