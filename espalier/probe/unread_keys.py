"""Keys of config.json that a family's stock class does not read: harmless ones, and signs of another model.

What is listed here belongs to no declaration: other models and other libraries write it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from espalier.errors import UnsupportedArchitecture

_OUTPUTS_AND_NOTES: Final = """
    output_hidden_states output_attentions return_dict id2label label2id num_labels problem_type
    chunk_size_feed_forward torchscript use_bfloat16 finetuning_task task_specific_params prefix tokenizer_class
    name_or_path model_name language license tags tf_legacy_loss tie_encoder_decoder model_max_length n_ctx
    max_sequence_length max_seq_length seq_length gradient_checkpointing neftune_noise_alpha pretraining_tp
    use_cache cache_implementation transformers.js_config
"""
_GENERATION: Final = """
    assistant_confidence_threshold assistant_lookbehind bad_words_ids begin_suppress_tokens diversity_penalty
    do_sample early_stopping encoder_no_repeat_ngram_size encoder_repetition_penalty epsilon_cutoff eta_cutoff
    exponential_decay_length_penalty length_penalty max_length max_new_tokens min_length no_repeat_ngram_size
    num_assistant_tokens num_assistant_tokens_schedule num_beam_groups num_beams num_return_sequences output_scores
    remove_invalid_values repetition_penalty return_dict_in_generate suppress_tokens target_lookbehind temperature
    top_k top_p typical_p num_logits_to_keep
"""
_KERNELS: Final = """
    attn_implementation experts_implementation use_flash_attn use_flash_attention use_flash_attention_2
    attention_softmax_in_fp32 bias_dropout_fusion masked_softmax_fusion skip_bias_add skip_bias_add_qkv
    offset_alibi
"""
_BIASES: Final = """
    attention_bias attention_out_bias mlp_bias qkv_bias use_bias use_qkv_bias no_bias lm_head_bias
"""
"""Biases are tensors: the files say whether there are any."""
INERT: Final = frozenset(f"{_OUTPUTS_AND_NOTES}{_GENERATION}{_KERNELS}{_BIASES}".split())
"""Keys that no forward pass of an accepted family depends on."""

INERT_FORMS: Final = re.compile(
    r"_\w*|summary_\w+|unsloth_\w+|\w*_version|\w+_token_(id|ids|index)|\w*drop(out|_rate|_prob)?\w*|layerdrop|"
    r"init\w*|\w+_init(ializer)?(_\w+)?|\w*loss_(coef|weight|coefficient|factor)\w*|\w*aux_\w*coef\w*",
    re.ASCII,
)
"""Forms of such keys: private ones, special tokens, and what only training reads."""

LONGEST: Final = 64
HINT: Final = (
    "Say the model_type that the weights were trained as. If the entry means nothing for this model, remove it."
)


def refuse_unread(config: dict[str, Any], read: frozenset[str], stock: str) -> None:
    """Raise UnsupportedArchitecture for an entry that the stock class would pass over, and that may change results."""
    for key, value in config.items():
        inert = len(key) <= LONGEST and INERT_FORMS.fullmatch(key)  # longer ones would cost the pattern time
        if key in read or key in INERT or inert or _says_nothing(key, value, config):
            continue
        shown = f"`{key}`" if re.fullmatch(r"[\w.-]{1,64}", key, re.ASCII) else "an entry"
        raise UnsupportedArchitecture(
            f"config.json has {shown}, which a stock {stock} does not read: it would compute something else.",
            hint=HINT,
            module="config.json",
        )


def _says_nothing(key: str, value: object, config: dict[str, Any]) -> bool:
    """Tell whether a value equals the default of a missing key."""
    if not value or (value == 1 and re.search(r"multiplier|scal|partial|rotary_pct", key)):
        return True
    same = _WITHOUT.get(key)
    return same is not None and same(value, config)


def _window(value: object, config: dict[str, Any]) -> bool:
    longest = config.get("max_position_embeddings")
    wide = isinstance(value, int) and isinstance(longest, int) and value >= longest
    return wide or config.get("use_sliding_window") is False


def _head(value: object, config: dict[str, Any]) -> bool:
    hidden, heads = config.get("hidden_size"), config.get("num_attention_heads")
    return isinstance(hidden, int) and isinstance(heads, int) and heads > 0 and value == hidden // heads


_WITHOUT: Final[dict[str, Callable[[object, dict[str, Any]], bool]]] = {
    "sliding_window": _window,
    "max_window_layers": lambda _value, config: not config.get("use_sliding_window"),
    "layer_types": lambda value, _config: isinstance(value, list) and set(map(str, value)) == {"full_attention"},
    "original_max_position_embeddings": lambda _value, config: (
        not (config.get("rope_scaling") or config.get("rope_parameters"))
    ),
    "head_dim": _head,
    "num_key_value_heads": lambda value, config: value == config.get("num_attention_heads"),
    "num_kv_heads": lambda value, config: value == config.get("num_attention_heads"),
}
"""Key -> whether a value, in such a configuration, is what a model without the key does."""
