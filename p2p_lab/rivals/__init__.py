"""What came after Prompt-to-Prompt: later editing methods, each in one file, to be compared.

    >>> run = generate(model, "a cat on a beach", seed=3)
    >>> dog = flow_edit(run, "a dog on a beach")

Every method is one function with the same first arguments, `method(source, text, *, …) -> Run`:
figures, metrics and panels take its result, and it can be edited again. `RIVALS` lists them by
name. They differ in what they change: noise, maps, features, velocity or the picture itself. They
are written from the papers; where one departs from its paper, its first lines say so.
"""

from collections.abc import Callable
from dataclasses import dataclass

from p2p_lab.rivals.concept_attention import concept_maps
from p2p_lab.rivals.dds import dds
from p2p_lab.rivals.flow_edit import flow_edit
from p2p_lab.rivals.flow_slider import flow_slider
from p2p_lab.rivals.free_prompt_editing import free_prompt_editing
from p2p_lab.rivals.inf_edit import inf_edit
from p2p_lab.rivals.masa_ctrl import masa_ctrl
from p2p_lab.rivals.masking import masked
from p2p_lab.rivals.plug_and_play import plug_and_play
from p2p_lab.rivals.sdedit import sdedit
from p2p_lab.rivals.self_guidance import self_guidance
from p2p_lab.sampling import Run


@dataclass(frozen=True)
class Rival:
    """Name a method, what it changes and where it was published.

    Attributes:
        name: Its name in tables.
        changes: "noise", "maps", "features", "velocity" or "picture".
        paper: Number of the paper on arXiv.
        edit: The function.
    """

    name: str
    changes: str
    paper: str
    edit: Callable[..., Run]


RIVALS = {
    rival.edit.__name__: rival
    for rival in (
        Rival("SDEdit", "noise", "2108.01073", sdedit),
        Rival("FlowEdit", "velocity", "2412.08629", flow_edit),
        Rival("FlowSlider", "velocity", "2604.02088", flow_slider),
        Rival("InfEdit", "velocity", "2312.04965", inf_edit),
        Rival("DDS", "picture", "2304.07090", dds),
        Rival("Free-Prompt-Editing", "maps", "2403.03431", free_prompt_editing),
        Rival("MasaCtrl", "features", "2304.08465", masa_ctrl),
        Rival("Plug-and-Play", "features", "2211.12572", plug_and_play),
        Rival("Self-guidance", "noise", "2306.00986", self_guidance),
    )
}

__all__ = [
    "RIVALS",
    "Rival",
    "concept_maps",
    "dds",
    "flow_edit",
    "flow_slider",
    "free_prompt_editing",
    "inf_edit",
    "masa_ctrl",
    "masked",
    "plug_and_play",
    "sdedit",
    "self_guidance",
]
