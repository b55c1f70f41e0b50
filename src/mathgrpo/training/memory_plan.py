"""How much device memory a GRPO run takes, from the shape of its model, and the token budget that fits.

Pure arithmetic on sizes: the same for the device at hand and for one that is only thought of. What it says is an upper
bound of the ordinary kind: every completion at its limit, the modules' own forward pass, activations as autograd keeps
them. Sizes are in bytes, 1 GB = 10^9.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from mathgrpo.config import Recipe
from mathgrpo.config.machinery import FAST, Choice, Machinery
from mathgrpo.errors import UserError, named
from mathgrpo.models.shape import ModelSizes
from mathgrpo.text import gigabytes
from mathgrpo.update.logprobs import CHUNK_ELEMENTS, MIN_CHUNK

# Symbols: d hidden size, f feed-forward size, q and k widths of all query and all key-value heads, e bytes of a number
# in the compute precision, V vocabulary.

MARGIN = 0.10
"""Share of the device left free: fragmentation, kernels' workspaces, what else uses the device."""
RUNTIME_BYTES = 1_000_000_000
"""Libraries, CUDA context and kernels before the first tensor."""
MAX_BUDGET = {"cpu": 8192, "cuda": 32768}
"""Largest token budget chosen: beyond it nothing is gained. On a CPU small ones run as fast and take less memory."""
QUANTIZED_BYTES = 0.57
"""Of a 4-bit weight with its share of a block's scale: half a byte, and 4 bytes for 64 of them."""
GRAPH_ROWS = 1024
"""Rows of the largest captured step (`rollout.gpu.buckets`); beyond them rows wait."""
FEWEST_ROWS = 16
"""Completions that are decoded at once at least, however little memory there is."""
SMALL_BUDGET = 4096
"""Below this budget matrix products get slow; layers are rather computed again in the backward pass."""


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes of a run, part by part. Rollout and update take turns, so their parts are not added up.

    Attributes:
        weights, gradients, optimizer, copies, reference: held through the run. copies: the layers' matrices in the
            compute precision, for rollouts and update.
        kv_cache: of one rollout at most.
        kept_cache: what of a rollout's memory is held through the update too: captured graphs need their addresses.
        activations: of one micro-batch at the token budget.
        logits: of one chunk of the LM head, with its gradients.
        one_completion: activations of the smallest micro-batch, a completion at its limit with its prompt.
        token_budget: unique tokens of a micro-batch.
        rows: completions decoded at once; 0: all of a step.
        dequantize: whether rollouts write 4-bit matrices out in the compute precision.
        recompute: whether layers are computed again in the backward pass.
        device: what the device has; None where that is not known.
    """

    weights: int
    gradients: int
    optimizer: int
    copies: int
    reference: int
    kv_cache: int
    kept_cache: int
    activations: int
    logits: int
    one_completion: int
    token_budget: int
    rows: int
    dequantize: bool
    recompute: bool
    device: int | None

    @property
    def resident(self) -> int:
        """What is held through the run."""
        return RUNTIME_BYTES + self.weights + self.gradients + self.optimizer + self.copies + self.reference

    @property
    def total(self) -> int:
        """The most at any time: a rollout's cache or an update's activations on top of what is held."""
        return self.resident + max(self.kv_cache, self.kept_cache + self.activations + self.logits)

    @property
    def fits(self) -> bool:
        """Whether the device has enough, with the margin left free."""
        return self.device is None or self.total <= (1 - MARGIN) * self.device

    @property
    def least(self) -> int:
        """The most at any time with micro-batches of one completion: they can shrink so far, the rest cannot."""
        return self.resident + max(self.kv_cache, self.kept_cache + self.one_completion + self.logits)

    @property
    def is_hopeless(self) -> bool:
        """Whether not even the whole device is enough."""
        return self.device is not None and self.least > self.device


def plan_memory(
    sizes: ModelSizes, recipe: Recipe, *, compute_bytes: int, longest_prompt: int, device: int | None, kind: str,
    machinery: Machinery = FAST,
) -> MemoryPlan:  # fmt: skip
    """Return the memory of a run on a device with so many bytes ("cpu" or "cuda").

    The largest token budget that fits is chosen; layers are computed again only where less than a useful budget fits
    without. What does not fit so decodes its completions in several turns, and a 4-bit model from its own matrices.
    Float32 masters and gradients: 4 bytes a weight each; Adam's two moments: 8 (Rajbhandari et al., ZeRO, section 3.1,
    counts the same with 16-bit gradients).
    """
    plan = None
    for way in _ways(sizes, recipe, machinery):
        plan = _best_budget(sizes, recipe, way, compute_bytes, longest_prompt, device, kind)
        if device is None or plan.least <= (1 - MARGIN) * device:
            break
    assert plan is not None
    return plan


def _ways(sizes: ModelSizes, recipe: Recipe, machinery: Machinery) -> Iterator[Machinery]:
    """Yield what decoding may do with its memory, the fastest first."""
    completions = recipe.rollout.prompts_per_step * recipe.rollout.group_size
    own_matrices: tuple[Choice, ...] = ("on", "off") if sizes.quantized and not machinery.plain else ("on",)
    for dequantize in own_matrices if machinery.dequantize == "auto" else (machinery.dequantize,):
        rows = machinery.max_rows or completions
        yield replace(machinery, dequantize=dequantize, max_rows=rows)
        while not machinery.max_rows and rows > FEWEST_ROWS:
            rows = max(FEWEST_ROWS, rows // 2)
            yield replace(machinery, dequantize=dequantize, max_rows=rows)


def _best_budget(
    sizes: ModelSizes, recipe: Recipe, way: Machinery, compute_bytes: int, longest_prompt: int, device: int | None,
    kind: str,
) -> MemoryPlan:  # fmt: skip
    """Return the plan of one way to decode, its layers computed again where that gives a useful budget."""
    useful = min(max(longest_prompt + recipe.rollout.max_new_tokens, SMALL_BUDGET), MAX_BUDGET[kind])
    choices = (False, True) if way.recompute == "auto" else (way.recompute == "on",)
    for recompute in choices:
        plan = _plan(sizes, recipe, way, compute_bytes, longest_prompt, device, kind, recompute)
        # A budget that was asked for by number is kept, and judged as it is.
        if plan.fits and (way.token_budget or plan.token_budget >= useful):
            break
    return plan


def require_room(sizes: ModelSizes, recipe: Recipe, *, compute_bytes: int, device: int | None, kind: str) -> None:
    """Raise UserError unless a device has room for what a run holds throughout, its longest prompt not known yet."""
    way = Machinery(dequantize="off" if sizes.quantized else "on", max_rows=FEWEST_ROWS)
    plan = _plan(sizes, recipe, way, compute_bytes, 1, device, kind, recompute=True)
    require_fit(replace(plan, kv_cache=0, kept_cache=0, one_completion=0, logits=0), recipe.model.path)


def require_fit(plan: MemoryPlan, name: str) -> None:
    """Raise UserError, with what takes the memory and what would help, if a run cannot fit its device.

    A micro-batch that turns out too large is halved in the run.
    """
    if not plan.is_hopeless:
        return
    assert plan.device is not None
    parts = {"weights": plan.weights, "gradients": plan.gradients, "optimizer": plan.optimizer, "copies": plan.copies,
             "activations": plan.one_completion, "KV cache": plan.kv_cache}  # fmt: skip
    largest = sorted(parts, key=lambda part: -parts[part])[:3]
    raise UserError(
        f"{named('model.path')}={name}: needs about {gigabytes(plan.least)}, the device has {gigabytes(plan.device)} "
        f"({', '.join(f'{part} {gigabytes(parts[part])}' for part in largest)}); {_remedy(plan)}"
    )


def activation_bytes(sizes: ModelSizes, compute_bytes: int, keys_per_token: float, *, recompute: bool) -> float:
    """Return what autograd keeps for one token through all layers, and a layer's own backward pass on top.

    One layer of a gated transformer keeps, in mixed precision (residual stream in float32):
        norms: input and normalised input in float32, twice: 16 d
        inputs of the matrix products, cast one by one: 3 e d for query, key, value and 2 e d for gate and up
        attention: e (2 q + 2 k) and its output, once packed and once for the output projection: e q, and the keys
            and values gathered for every completion: e 2 k keys_per_token
        feed-forward: gate, its activation, up, their product: 4 e f
    In float32 nothing is cast: norms keep input, normalised and weighted input, twice: 24 d, the rest as above.
    Recomputed layers keep their input, 4 d, and one layer at a time is there in full. The backward pass holds
    gradients on top: of about one layer, or half a one where it frees the layer's own tensors meanwhile (measured).
    """
    d, e = sizes.hidden, compute_bytes
    norms = 24 * d if e == 4 else 16 * d + 5 * e * d
    attention = e * (3 * sizes.query_width + 2 * sizes.key_width * (1 + keys_per_token))
    layer = norms + attention + 4 * e * sizes.feed_forward
    return sizes.layers * 4 * d + 1.5 * layer if recompute else (sizes.layers + 1) * layer


def logit_bytes(sizes: ModelSizes, compute_bytes: int, kind: str) -> int:
    """Return the most one chunk of the LM head takes: logits, probabilities, gradient, and the head's gradient.

    The head in the compute precision and its gradient there, and that gradient in float32: (2 e + 4) d V.
    """
    tokens = max(MIN_CHUNK, CHUNK_ELEMENTS[kind] // sizes.vocabulary)
    chunk = tokens * sizes.vocabulary * (3 * 4 + 2 * (compute_bytes if compute_bytes < 4 else 0))
    return chunk + sizes.hidden * sizes.vocabulary * (2 * compute_bytes + 4)


def _plan(
    sizes: ModelSizes, recipe: Recipe, way: Machinery, compute_bytes: int, longest_prompt: int, device: int | None,
    kind: str, recompute: bool,
) -> MemoryPlan:  # fmt: skip
    rollout, new_tokens = recipe.rollout, recipe.rollout.max_new_tokens
    completions = rollout.prompts_per_step * rollout.group_size
    rows, dequantize = min(way.max_rows or completions, completions), way.dequantize != "off"
    group_tokens = longest_prompt + rollout.group_size * new_tokens
    keys_per_token = (rollout.group_size * (longest_prompt + new_tokens) + longest_prompt) / group_tokens
    per_token = activation_bytes(sizes, compute_bytes, keys_per_token, recompute=recompute)
    full_copy = recipe.grpo.beta > 0.0 and recipe.model.lora is None
    # Autocast casts a frozen matrix wherever it is used, and the gradient of the layer's input needs it later.
    frozen = recipe.model.lora is not None and not sizes.quantized and compute_bytes < 4
    casts = compute_bytes * sizes.matrices if frozen and not recompute else 0
    kv_cache = 2 * sizes.layers * sizes.key_width * compute_bytes * rows * (longest_prompt + new_tokens)
    if rollout.vllm is not None:
        kv_cache = 0  # vLLM keeps them, in its own share

    def with_budget(budget: int) -> MemoryPlan:
        plan = MemoryPlan(
            weights=4 * (sizes.parameters - sizes.quantized) + int(QUANTIZED_BYTES * sizes.quantized),
            gradients=4 * sizes.trainable,
            optimizer=8 * sizes.trainable,
            copies=_copy_bytes(sizes, recipe, way, compute_bytes, kind),
            reference=compute_bytes * sizes.parameters if full_copy else 0,
            kv_cache=kv_cache,
            kept_cache=0,
            activations=casts + int(per_token * budget),
            logits=logit_bytes(sizes, compute_bytes, kind),
            one_completion=casts + int(per_token * (longest_prompt + new_tokens)),
            token_budget=budget,
            rows=rows if rows < completions else 0,
            dequantize=dequantize,
            recompute=recompute,
            device=device,
        )
        logits = 2 * min(rows, GRAPH_ROWS) * sizes.vocabulary * compute_bytes
        # Models whose matrices are no nn.Linear (GPT-2), and 4-bit ones left as they are, are not the graph engine's.
        served = sizes.matrices and (dequantize or not sizes.quantized)
        return replace(plan, kept_cache=_kept_bytes(plan, recipe, way, kind, logits) if served else 0)

    if way.token_budget:
        return with_budget(way.token_budget)
    if device is None:
        return with_budget(MAX_BUDGET["cpu"])
    empty = with_budget(0)
    room = (1 - MARGIN) * device - empty.resident - empty.kept_cache - empty.logits - casts
    # One completion with its prompt must fit, whatever the room says; `require_fit` tells when it does not.
    smallest = min(longest_prompt + new_tokens, MAX_BUDGET[kind])
    return with_budget(max(smallest, min(MAX_BUDGET[kind], int(room / per_token))))


def _copy_bytes(sizes: ModelSizes, recipe: Recipe, way: Machinery, compute_bytes: int, kind: str) -> int:
    """Return the matrices in the compute precision that are held beside the weights.

    Those of this project's engines are stacked from the weights, whatever their precision; on CUDA the graph engine has
    the head with them. There a model that trains whole has the update's own besides.
    """
    if sizes.quantized and way.dequantize == "off":
        return 0
    matrices = compute_bytes * sizes.matrices
    ours = recipe.rollout.vllm is None and not way.plain
    if kind != "cuda":
        return matrices if ours else 0
    head = compute_bytes * sizes.hidden * sizes.vocabulary
    trains = bool(sizes.trainable) and recipe.model.lora is None
    cast = trains and compute_bytes < 4 and way.compute_copy != "off"
    return (matrices + head if ours else 0) + (matrices if cast else 0)


def _kept_bytes(plan: MemoryPlan, recipe: Recipe, way: Machinery, kind: str, logits: int) -> int:
    """Return what the graph engine holds between rollouts: its pool (`TokenPool`), and the logits of its graphs."""
    if kind != "cuda" or not way.graphs or recipe.rollout.vllm is not None:
        return 0
    if plan.device is None:
        return plan.kv_cache + logits
    free = max(0, plan.device - plan.resident)
    return min(plan.kv_cache, plan.device // 4, free // 2) + min(logits, free // 2)


def _remedy(plan: MemoryPlan) -> str:
    """Return what to do about a run that does not fit."""
    if plan.resident > (plan.device or 0):
        if plan.gradients + plan.optimizer < plan.weights:  # an adapter trains already
            return "use a smaller model or a larger device"
        return f"use {named('model.lora')}, a smaller model or a larger device"
    return f"lower {named('rollout.max_new_tokens')}, or use a smaller model or a larger device"
