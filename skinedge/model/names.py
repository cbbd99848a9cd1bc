"""The tensors a Qwen2.5-VL must have: canonical names, shapes, and the spellings found in the field.

Canonical here is the spelling of the released checkpoints (``model.layers.*``, ``visual.*``).
``transformers`` 5 calls the same tensors ``model.language_model.layers.*`` and ``model.visual.*``
in memory, and PEFT files carry either behind ``base_model.model.``.
"""

from __future__ import annotations

from skinedge.model.config import ModelConfig

HEAD = "lm_head.weight"
EMBEDDING = "model.embed_tokens.weight"

Shapes = dict[str, tuple[int, ...]]


def canonical(name: str) -> str:
    """The released spelling of a tensor or module name.

    >>> canonical("model.language_model.layers.0.mlp.up_proj.weight")
    'model.layers.0.mlp.up_proj.weight'
    >>> canonical("model.visual.merger.ln_q.weight")
    'visual.merger.ln_q.weight'
    """
    if name.startswith("model.language_model."):
        return "model." + name.removeprefix("model.language_model.")
    if name.startswith("model.visual."):
        return name.removeprefix("model.")
    return name


def in_memory(name: str) -> str:
    """The spelling of ``transformers`` 5 for a module or tensor in memory, and so of PEFT in its files.

    >>> in_memory("model.layers.0.mlp.up_proj")
    'model.language_model.layers.0.mlp.up_proj'
    """
    plain = canonical(name)
    if plain.startswith("visual."):
        return "model." + plain
    if plain.startswith("model."):
        return "model.language_model." + plain.removeprefix("model.")
    return plain


def expected_shapes(config: ModelConfig) -> Shapes:
    """Every backbone tensor of ``config`` under its canonical name, in the order of computation.

    A tied head is not listed: it is the embedding.
    """
    return {**_embedding(config), **_vision(config), **_text(config)}


def _embedding(config: ModelConfig) -> Shapes:
    return {EMBEDDING: (config.text.vocab_size, config.text.hidden_size)}


def _text(config: ModelConfig) -> Shapes:
    t = config.text
    q, kv = t.num_heads * t.head_dim, t.num_kv_heads * t.head_dim
    shapes: Shapes = {}
    for i in range(t.num_layers):
        shapes |= {f"model.layers.{i}.{name}": shape for name, shape in {
            "input_layernorm.weight": (t.hidden_size,),
            "self_attn.q_proj.weight": (q, t.hidden_size),
            "self_attn.q_proj.bias": (q,),
            "self_attn.k_proj.weight": (kv, t.hidden_size),
            "self_attn.k_proj.bias": (kv,),
            "self_attn.v_proj.weight": (kv, t.hidden_size),
            "self_attn.v_proj.bias": (kv,),
            "self_attn.o_proj.weight": (t.hidden_size, q),
            "post_attention_layernorm.weight": (t.hidden_size,),
            "mlp.gate_proj.weight": (t.intermediate_size, t.hidden_size),
            "mlp.up_proj.weight": (t.intermediate_size, t.hidden_size),
            "mlp.down_proj.weight": (t.hidden_size, t.intermediate_size),
        }.items()}  # fmt: skip
    shapes["model.norm.weight"] = (t.hidden_size,)
    if not t.tie_word_embeddings:
        shapes[HEAD] = (t.vocab_size, t.hidden_size)
    return shapes


def _vision(config: ModelConfig) -> Shapes:
    v = config.vision
    patch = (v.in_channels, v.temporal_patch_size, v.patch_size, v.patch_size)
    merged = v.hidden_size * v.spatial_merge_size**2
    shapes: Shapes = {"visual.patch_embed.proj.weight": (v.hidden_size, *patch)}
    for i in range(v.depth):
        shapes |= {f"visual.blocks.{i}.{name}": shape for name, shape in {
            "norm1.weight": (v.hidden_size,),
            "attn.qkv.weight": (3 * v.hidden_size, v.hidden_size),
            "attn.qkv.bias": (3 * v.hidden_size,),
            "attn.proj.weight": (v.hidden_size, v.hidden_size),
            "attn.proj.bias": (v.hidden_size,),
            "norm2.weight": (v.hidden_size,),
            "mlp.gate_proj.weight": (v.intermediate_size, v.hidden_size),
            "mlp.gate_proj.bias": (v.intermediate_size,),
            "mlp.up_proj.weight": (v.intermediate_size, v.hidden_size),
            "mlp.up_proj.bias": (v.intermediate_size,),
            "mlp.down_proj.weight": (v.hidden_size, v.intermediate_size),
            "mlp.down_proj.bias": (v.hidden_size,),
        }.items()}  # fmt: skip
    return shapes | {
        "visual.merger.ln_q.weight": (v.hidden_size,),
        "visual.merger.mlp.0.weight": (merged, merged),
        "visual.merger.mlp.0.bias": (merged,),
        "visual.merger.mlp.2.weight": (v.out_hidden_size, merged),
        "visual.merger.mlp.2.bias": (v.out_hidden_size,),
    }
