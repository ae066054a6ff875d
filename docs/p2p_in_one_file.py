"""Prompt-to-Prompt (Hertz et al. 2022, arXiv 2208.01626) in one file of plain PyTorch on diffusers.

Two pictures are made from the same noise: of a source prompt and of a target prompt. At each step t
four rows go through the U-Net, and the attention probabilities M of the last row alone are edited:

    M_hat[:, j] = source_gain[t, j] (M_source P)[:, j] + target_gain[t, j] M_target[:, j]
"""

import sys
from difflib import SequenceMatcher

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, StableDiffusionPipeline

SOURCE, TARGET = 2, 3  # of the rows [source uncond, target uncond, source cond, target cond]


def words_of(tokenizer, prompt):
    """Return the words, split at spaces, and the token positions of each; with both end marks."""
    counts = [1, *(len(tokenizer(word).input_ids) - 2 for word in prompt.split()), 1]
    ends = torch.tensor(counts).cumsum(0).tolist()
    return ["<start>", *prompt.split(), "<end>"], [[*range(e - n, e)] for e, n in zip(ends, counts)]


def align(tokenizer, source, target, swap):
    """Return the mapper P (L, L) and how much each target token takes from the source (L,)."""
    (old, old_at), (new, new_at) = words_of(tokenizer, source), words_of(tokenizer, target)
    blocks = SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    if swap and len(old) == len(new):  # as many words: one by one
        blocks = [("equal", 0, len(old), 0, len(new))]
    length = tokenizer.model_max_length
    mapper, taken = torch.zeros(length, length), torch.zeros(length)
    for kind, i, i_end, j, j_end in blocks:
        before, after = old_at[i:i_end], new_at[j:j_end]
        if len(before) != len(after):  # "polar bear" for "cat": the phrase as a whole
            before, after = [sum(before, [])], [sum(after, [])]
        if kind == "equal" or (kind == "replace" and swap):  # a new word takes nothing otherwise
            for k, m in zip(before, after):  # tokens of the old word, and of the new one
                mean = torch.full((len(k), len(m)), 1 / len(k))
                mapper[k[0] : k[-1] + 1, m] = torch.eye(len(k)) if len(k) == len(m) else mean
                taken[m] = len(k) / len(m)  # the new word gets as much attention as the old one
    for j in range(new_at[-1][0] + 1, length):  # padding takes from padding
        mapper[max(j, old_at[-1][0] + 1), j] = taken[j] = 1
    return mapper, taken


def steps_in(window, steps):
    """Return the steps of a window in fractions of the schedule: 0 is noise, 1 the picture."""
    return range(*(int(round(edge * steps, 9) + 0.5) for edge in window))


class EditedAttention:
    """Attention as diffusers computes it, but with the target's conditional row edited."""

    def __init__(
        self, tokenizer, prompts, steps, swap=True, weights=(), cross=(0, 0.8), self_window=(0, 0.4)
    ):
        self.mapper, taken = align(tokenizer, *prompts, swap)
        scale = torch.ones(len(taken))  # re-weighting
        for word, tokens in zip(*words_of(tokenizer, prompts[1])):
            scale[tokens] = dict(weights).get(word, 1.0)
        inside = torch.tensor([[step in steps_in(cross, steps)] for step in range(steps)])  # (T, 1)
        self.source_gain = inside * taken * scale  # (T, L)
        self.target_gain = ~(inside & (taken > 0)) * scale  # its own maps wherever it takes none
        self.self_steps = steps_in(self_window, steps)
        self.step, self.maps = 0, 0  # the loop sets the step; the maps add up for the blend

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        """Return the output of one attention layer for the four rows."""
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        qkv = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        query, key, value = (attn.head_to_batch_dim(x) for x in qkv)  # (4 heads, positions, d)
        probs = attn.get_attention_scores(query, key)  # softmax(q k^T / sqrt(d))
        probs = probs.unflatten(0, (4, -1))  # (4, heads, pixels, keys)
        if encoder_hidden_states is not None:  # cross-attention: the keys are the tokens
            from_source = self.source_gain[self.step] * (probs[SOURCE] @ self.mapper)
            probs[TARGET] = from_source + self.target_gain[self.step] * probs[TARGET]
            if probs.shape[2] == 16 * 16:
                self.maps = self.maps + probs[[SOURCE, TARGET]].mean(1)  # (2, pixels, L)
        elif self.step in self.self_steps and probs.shape[2] <= 16 * 16:  # the keys are the pixels
            probs[TARGET] = probs[SOURCE]
        return attn.to_out[0](attn.batch_to_head_dim(probs.flatten(0, 1) @ value))


def local_blend(z, maps, tokens, threshold=0.3):
    """Keep the source outside the region of a word, whose tokens are given for each prompt."""
    heat = torch.stack([one[:, at].sum(-1) for one, at in zip(maps, tokens)]).view(2, 1, 16, 16)
    heat = F.interpolate(F.max_pool2d(heat, 3, stride=1, padding=1), size=z.shape[-2:])
    mask = (heat / heat.amax((2, 3), keepdim=True) > threshold).any(0)  # (1, h, w)
    return torch.stack([z[0], z[0] + mask * (z[1] - z[0])])


@torch.no_grad()
def edit(pipe, *prompts, seed=0, steps=20, guidance=3.0, blend=(), **settings):
    """Return the pictures of the source and of the target prompt, (2, 3, H, W) in [0, 1]."""
    ids = pipe.tokenizer(["", "", *prompts], padding="max_length", return_tensors="pt").input_ids
    text = pipe.text_encoder(ids)[0]  # (4, L, D)
    tokens = [dict(zip(*words_of(pipe.tokenizer, p)))[w] for p, w in zip(prompts, blend)]
    attention = EditedAttention(pipe.tokenizer, prompts, steps, **settings)
    native = pipe.unet.attn_processors
    pipe.unet.set_attn_processor(attention)
    scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    scheduler.set_timesteps(steps)
    shape = (1, pipe.unet.config.in_channels, *[pipe.unet.config.sample_size] * 2)
    z = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).repeat(2, 1, 1, 1)
    for step, t in enumerate(scheduler.timesteps):
        attention.step = step
        uncond, cond = pipe.unet(torch.cat([z, z]), t, text).sample.chunk(2)
        z = scheduler.step(uncond + guidance * (cond - uncond), t, z).prev_sample
        if tokens and step in steps_in((0.2, 1), steps):
            z = local_blend(z, attention.maps, tokens)
    pipe.unet.set_attn_processor(native)
    return (pipe.vae.decode(z / pipe.vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)


if __name__ == "__main__":  # python docs/p2p_in_one_file.py p2p_lab/weights/scenes-128-v4 edit.png
    pipe = StableDiffusionPipeline.from_pretrained(sys.argv[1])
    pictures = edit(pipe, "a cat on a beach", "a dog on a beach", seed=1)
    pipe.numpy_to_pil(torch.cat([*pictures], 2).permute(1, 2, 0).numpy())[0].save(sys.argv[2])
