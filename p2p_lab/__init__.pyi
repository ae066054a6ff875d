"""The public names of the package and the rooms that they come from: the one list.

Type checkers read it, and `__init__.py` does when the package is imported.
"""

from p2p_lab.tokens import (
    Alignment as Alignment,
    AlignmentError as AlignmentError,
    Prompt as Prompt,
    align_by_hand as align_by_hand,
    align_tokens as align_tokens,
    align_words as align_words,
)
from p2p_lab.edits import (
    BlendPlan as BlendPlan,
    EditPlan as EditPlan,
    LocalBlend as LocalBlend,
    Move as Move,
    Refine as Refine,
    Replace as Replace,
    Reweight as Reweight,
    compile_edits as compile_edits,
    default_edits as default_edits,
    mix_cross as mix_cross,
)
from p2p_lab.attention import (
    AttentionStore as AttentionStore,
    AttentionTape as AttentionTape,
    Controller as Controller,
    Site as Site,
    UnsupportedAttention as UnsupportedAttention,
    attached as attached,
)
from p2p_lab.models import (
    Denoiser as Denoiser,
    list_models as list_models,
    load as load,
)
from p2p_lab.sampling import (
    Run as Run,
    Trajectory as Trajectory,
    animate as animate,
    ddim_step as ddim_step,
    edit as edit,
    edit_many as edit_many,
    generate as generate,
    generate_many as generate_many,
    observe as observe,
)
from p2p_lab.inversion import (
    invert as invert,
)
from p2p_lab.recipes import (
    Recipe as Recipe,
)
from p2p_lab.rivals import (
    RIVALS as RIVALS,
    Rival as Rival,
    concept_maps as concept_maps,
    dds as dds,
    flow_edit as flow_edit,
    flow_slider as flow_slider,
    free_prompt_editing as free_prompt_editing,
    inf_edit as inf_edit,
    masa_ctrl as masa_ctrl,
    masked as masked,
    plug_and_play as plug_and_play,
    sdedit as sdedit,
    self_guidance as self_guidance,
)
from p2p_lab.metrics import (
    background_mse as background_mse,
    background_psnr as background_psnr,
    background_ssim as background_ssim,
    edit_summary as edit_summary,
    foreground_mse as foreground_mse,
    foreground_psnr as foreground_psnr,
    foreground_ssim as foreground_ssim,
    mask_iou as mask_iou,
    mse as mse,
    pointing_accuracy as pointing_accuracy,
    psnr as psnr,
    rank_correlation as rank_correlation,
    ssim as ssim,
    structure_distance as structure_distance,
)
from p2p_lab.figures import (
    overlay as overlay,
    show_alignment as show_alignment,
    show_blend as show_blend,
    show_edit as show_edit,
    show_frames as show_frames,
    show_guidance as show_guidance,
    show_map as show_map,
    show_maps as show_maps,
    show_pictures as show_pictures,
    show_plan as show_plan,
    show_sweep as show_sweep,
    show_trajectory as show_trajectory,
    to_gif as to_gif,
)
from p2p_lab.widgets import (
    AttentionExplorer as AttentionExplorer,
    EditPanel as EditPanel,
    InversionPanel as InversionPanel,
    StepPanel as StepPanel,
    guess as guess,
    guesses as guesses,
)
from p2p_lab.scenes import (
    Scene as Scene,
    caption as caption,
    render as render,
    sample_scene as sample_scene,
)
from p2p_lab.judge import (
    Judge as Judge,
    load_judge as load_judge,
)
from p2p_lab import training as training  # its names say too little without it
from p2p_lab.checks import (
    check as check,
    progress as progress,
)

__version__: str
