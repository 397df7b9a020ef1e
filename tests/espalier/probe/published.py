"""Configurations of public models, written from what is published, and how many parameters each has."""

from __future__ import annotations

from typing import Any

_LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": False, "attention_dropout": 0.0,
    "bos_token_id": 128000, "eos_token_id": 128001, "hidden_act": "silu", "hidden_size": 4096,
    "initializer_range": 0.02, "intermediate_size": 14336, "max_position_embeddings": 8192, "mlp_bias": False,
    "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8, "pretraining_tp": 1,
    "rms_norm_eps": 1e-05, "rope_scaling": None, "rope_theta": 500000.0, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16", "transformers_version": "4.40.0.dev0", "use_cache": True, "vocab_size": 128256,
}  # fmt: skip
_LLAMA2 = _LLAMA | {
    "_name_or_path": "meta-llama/Llama-2-7b-hf", "bos_token_id": 1, "eos_token_id": 2, "intermediate_size": 11008,
    "max_position_embeddings": 4096, "num_key_value_heads": 32, "rope_theta": 10000.0, "torch_dtype": "float16",
    "transformers_version": "4.31.0.dev0", "vocab_size": 32000,
}  # fmt: skip
_ROPE3 = {
    "factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}  # fmt: skip
_MISTRAL: dict[str, Any] = {
    "architectures": ["MistralForCausalLM"], "model_type": "mistral", "bos_token_id": 1, "eos_token_id": 2,
    "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 14336,
    "max_position_embeddings": 32768, "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "sliding_window": 4096, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16", "transformers_version": "4.34.0.dev0", "use_cache": True, "vocab_size": 32000,
}  # fmt: skip
_MIXTRAL = _MISTRAL | {
    "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "attention_dropout": 0.0,
    "num_experts_per_tok": 2, "num_local_experts": 8, "output_router_logits": False, "rope_theta": 1000000.0,
    "router_aux_loss_coef": 0.02, "sliding_window": None,
}  # fmt: skip
_QWEN2: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "attention_dropout": 0.0, "bos_token_id": 151643,
    "eos_token_id": 151643, "hidden_act": "silu", "hidden_size": 3584, "initializer_range": 0.02,
    "intermediate_size": 18944, "max_position_embeddings": 131072, "max_window_layers": 28, "num_attention_heads": 28,
    "num_hidden_layers": 28, "num_key_value_heads": 4, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
    "sliding_window": 131072, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "transformers_version": "4.40.1", "use_cache": True, "use_mrope": False, "use_sliding_window": False,
    "vocab_size": 152064,
}  # fmt: skip
_QWEN3: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "attention_bias": False, "attention_dropout": 0.0,
    "bos_token_id": 151643, "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu", "hidden_size": 4096,
    "initializer_range": 0.02, "intermediate_size": 12288, "max_position_embeddings": 40960, "max_window_layers": 36,
    "num_attention_heads": 32, "num_hidden_layers": 36, "num_key_value_heads": 8, "rms_norm_eps": 1e-06,
    "rope_scaling": None, "rope_theta": 1000000, "sliding_window": None, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16", "transformers_version": "4.51.0", "use_cache": True, "use_sliding_window": False,
    "vocab_size": 151936,
}  # fmt: skip
_QWEN3_MOE = _QWEN3 | {
    "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "decoder_sparse_step": 1,
    "hidden_size": 2048, "intermediate_size": 6144, "max_window_layers": 48, "mlp_only_layers": [],
    "moe_intermediate_size": 768, "norm_topk_prob": True, "num_experts": 128, "num_experts_per_tok": 8,
    "num_hidden_layers": 48, "num_key_value_heads": 4, "output_router_logits": False, "router_aux_loss_coef": 0.001,
}  # fmt: skip
_GEMMA2: dict[str, Any] = {
    "architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2", "attention_bias": False, "attention_dropout": 0.0,
    "attn_logit_softcapping": 50.0, "bos_token_id": 2, "cache_implementation": "hybrid", "eos_token_id": 1,
    "final_logit_softcapping": 30.0, "head_dim": 256, "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 2304, "initializer_range": 0.02,
    "intermediate_size": 9216, "max_position_embeddings": 8192, "num_attention_heads": 8, "num_hidden_layers": 26,
    "num_key_value_heads": 4, "pad_token_id": 0, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06,
    "rope_theta": 10000.0, "sliding_window": 4096, "torch_dtype": "float32", "transformers_version": "4.42.0.dev0",
    "use_cache": True, "vocab_size": 256000,
}  # fmt: skip
_PHI3: dict[str, Any] = {
    "architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "attention_bias": False, "attention_dropout": 0.0,
    "bos_token_id": 1, "embd_pdrop": 0.0, "eos_token_id": 32000, "hidden_act": "silu", "hidden_size": 3072,
    "initializer_range": 0.02, "intermediate_size": 8192, "max_position_embeddings": 4096, "num_attention_heads": 32,
    "num_hidden_layers": 32, "num_key_value_heads": 32, "original_max_position_embeddings": 4096,
    "pad_token_id": 32000, "resid_pdrop": 0.0, "rms_norm_eps": 1e-05, "rope_scaling": None, "rope_theta": 10000.0,
    "sliding_window": 2047, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "transformers_version": "4.40.2", "use_cache": True, "vocab_size": 32064,
}  # fmt: skip
_OPT: dict[str, Any] = {
    "architectures": ["OPTForCausalLM"], "model_type": "opt", "_remove_final_layer_norm": False,
    "activation_dropout": 0.0, "activation_function": "relu", "attention_dropout": 0.0, "bos_token_id": 2,
    "do_layer_norm_before": True, "dropout": 0.1, "eos_token_id": 2, "ffn_dim": 3072, "hidden_size": 768,
    "init_std": 0.02, "layerdrop": 0.0, "max_position_embeddings": 2048, "num_attention_heads": 12,
    "num_hidden_layers": 12, "pad_token_id": 1, "prefix": "</s>", "torch_dtype": "float16",
    "transformers_version": "4.21.0.dev0", "use_cache": True, "vocab_size": 50272, "word_embed_proj_dim": 768,
}  # fmt: skip
_GPT2: dict[str, Any] = {
    "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "activation_function": "gelu_new",
    "attn_pdrop": 0.1, "bos_token_id": 50256, "embd_pdrop": 0.1, "eos_token_id": 50256, "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05, "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024,
    "resid_pdrop": 0.1, "summary_activation": None, "summary_first_dropout": 0.1, "summary_proj_to_labels": True,
    "summary_type": "cls_index", "summary_use_proj": True, "vocab_size": 50257,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
}  # fmt: skip
_PYTHIA: dict[str, Any] = {
    "architectures": ["GPTNeoXForCausalLM"], "model_type": "gpt_neox", "bos_token_id": 0, "eos_token_id": 0,
    "hidden_act": "gelu", "hidden_size": 768, "initializer_range": 0.02, "intermediate_size": 3072,
    "layer_norm_eps": 1e-05, "max_position_embeddings": 2048, "num_attention_heads": 12, "num_hidden_layers": 12,
    "rotary_emb_base": 10000, "rotary_pct": 0.25, "tie_word_embeddings": False, "torch_dtype": "float16",
    "transformers_version": "4.24.0", "use_cache": True, "use_parallel_residual": True, "vocab_size": 50304,
}  # fmt: skip
_BLOOM: dict[str, Any] = {
    "architectures": ["BloomForCausalLM"], "model_type": "bloom", "apply_residual_connection_post_layernorm": False,
    "attention_dropout": 0.0, "attention_softmax_in_fp32": True, "bias_dropout_fusion": True, "bos_token_id": 1,
    "eos_token_id": 2, "hidden_dropout": 0.0, "initializer_range": 0.02, "layer_norm_epsilon": 1e-05,
    "masked_softmax_fusion": True, "n_embed": 1024, "n_inner": None, "n_layer": 24, "num_attention_heads": 16,
    "offset_alibi": 100, "pad_token_id": 3, "pretraining_tp": 1, "seq_length": 2048, "skip_bias_add": True,
    "skip_bias_add_qkv": False, "slow_but_exact": False, "transformers_version": "4.20.0", "unk_token_id": 0,
    "use_cache": True, "vocab_size": 250880,
}  # fmt: skip
_FALCON: dict[str, Any] = {
    "architectures": ["FalconForCausalLM"], "model_type": "falcon", "alibi": False,
    "apply_residual_connection_post_layernorm": False, "attention_dropout": 0.0, "bias": False, "bos_token_id": 11,
    "eos_token_id": 11, "hidden_dropout": 0.0, "hidden_size": 4544, "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05, "multi_query": True, "new_decoder_architecture": False, "num_attention_heads": 71,
    "num_hidden_layers": 32, "parallel_attn": True, "torch_dtype": "bfloat16", "transformers_version": "4.27.4",
    "use_cache": True, "vocab_size": 65024,
}  # fmt: skip
_OLMO2: dict[str, Any] = {
    "architectures": ["Olmo2ForCausalLM"], "model_type": "olmo2", "attention_bias": False, "attention_dropout": 0.0,
    "eos_token_id": 100257, "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02,
    "intermediate_size": 11008, "max_position_embeddings": 4096, "num_attention_heads": 32, "num_hidden_layers": 32,
    "num_key_value_heads": 32, "pad_token_id": 100277, "rms_norm_eps": 1e-06, "rope_scaling": None,
    "rope_theta": 500000, "tie_word_embeddings": False, "torch_dtype": "float32", "transformers_version": "4.47.0",
    "use_cache": True, "vocab_size": 100352,
}  # fmt: skip


def _opt(hidden: int, blocks: int, heads: int, **others: object) -> dict[str, Any]:
    sizes = {"ffn_dim": 4 * hidden, "hidden_size": hidden, "num_hidden_layers": blocks, "num_attention_heads": heads}
    return _OPT | sizes | {"word_embed_proj_dim": hidden} | others


PUBLISHED: dict[str, tuple[dict[str, Any], int]] = {
    "Llama-2-7B": (_LLAMA2, 6_738_415_616),
    "Llama-2-13B": (
        _LLAMA2 | {"hidden_size": 5120, "intermediate_size": 13824, "num_attention_heads": 40, "num_hidden_layers": 40,
                   "num_key_value_heads": 40}, 13_015_864_320),
    "Llama-2-70B": (
        _LLAMA2 | {"hidden_size": 8192, "intermediate_size": 28672, "num_attention_heads": 64, "num_hidden_layers": 80,
                   "num_key_value_heads": 8}, 68_976_648_192),
    "Llama-3-8B": (_LLAMA, 8_030_261_248),
    "Llama-3.1-8B": (_LLAMA | {"max_position_embeddings": 131072, "rope_scaling": _ROPE3}, 8_030_261_248),
    "Llama-3.1-8B-Instruct": (
        _LLAMA | {"max_position_embeddings": 131072, "rope_scaling": _ROPE3, "eos_token_id": [128001, 128008, 128009]},
        8_030_261_248),
    "Llama-3.2-1B": (
        _LLAMA | {"head_dim": 64, "hidden_size": 2048, "intermediate_size": 8192, "max_position_embeddings": 131072,
                  "num_hidden_layers": 16, "rope_scaling": _ROPE3 | {"factor": 32.0}, "tie_word_embeddings": True},
        1_235_814_400),
    "Llama-3.1-8B, saved by transformers 5": (
        {key: value for key, value in _LLAMA.items() if key not in ("rope_theta", "rope_scaling", "torch_dtype")}
        | {"dtype": "bfloat16", "rope_parameters": _ROPE3 | {"rope_theta": 500000.0}}, 8_030_261_248),
    "Llama with linear scaling": (_LLAMA2 | {"rope_scaling": {"type": "linear", "factor": 2.0}}, 6_738_415_616),
    "Llama with YaRN": (
        _LLAMA2 | {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096,
                                    "beta_fast": 32.0, "beta_slow": 1.0}}, 6_738_415_616),
    "Mistral-7B-v0.1": (_MISTRAL, 7_241_732_096),
    "Mistral-7B-v0.3": (
        _MISTRAL | {"sliding_window": None, "rope_theta": 1000000.0, "vocab_size": 32768}, 7_248_023_552),
    "Mixtral-8x7B": (_MIXTRAL, 46_702_792_704),
    "Mixtral-8x22B": (
        _MIXTRAL | {"hidden_size": 6144, "intermediate_size": 16384, "num_attention_heads": 48, "num_hidden_layers": 56,
                    "vocab_size": 32000, "max_position_embeddings": 65536}, 140_620_634_112),
    "Qwen2-7B": (_QWEN2, 7_615_616_512),
    "Qwen2.5-0.5B": (
        _QWEN2 | {"hidden_size": 896, "intermediate_size": 4864, "num_attention_heads": 14, "num_hidden_layers": 24,
                  "num_key_value_heads": 2, "tie_word_embeddings": True, "vocab_size": 151936}, 494_032_768),
    "Qwen3-0.6B": (
        _QWEN3 | {"hidden_size": 1024, "intermediate_size": 3072, "num_attention_heads": 16, "num_hidden_layers": 28,
                  "tie_word_embeddings": True}, 596_049_920),
    "Qwen3-8B": (_QWEN3, 8_190_735_360),
    "Qwen3-30B-A3B": (_QWEN3_MOE, 30_532_122_624),
    "Gemma-2-2b": (_GEMMA2, 2_614_341_888),
    "Gemma-2-9b": (
        _GEMMA2 | {"hidden_size": 3584, "intermediate_size": 14336, "num_attention_heads": 16, "num_hidden_layers": 42,
                   "num_key_value_heads": 8}, 9_241_705_984),
    "Phi-3-mini-4k": (_PHI3, 3_821_079_552),
    "Phi-3.5-mini": (
        _PHI3 | {"max_position_embeddings": 131072, "sliding_window": 262144, "rope_scaling":
                 {"type": "longrope", "long_factor": [1.08] * 48, "short_factor": [1.0] * 48}}, 3_821_079_552),
    "Phi-4": (
        _PHI3 | {"bos_token_id": 100257, "eos_token_id": 100257, "hidden_size": 5120, "intermediate_size": 17920,
                 "max_position_embeddings": 16384, "num_attention_heads": 40, "num_hidden_layers": 40,
                 "num_key_value_heads": 10, "original_max_position_embeddings": 16384, "pad_token_id": 100257,
                 "rope_theta": 250000, "sliding_window": None, "vocab_size": 100352}, 14_659_507_200),
    "OPT-125m": (_OPT, 125_239_296),
    "OPT-350m": (_opt(1024, 24, 16, do_layer_norm_before=False, word_embed_proj_dim=512), 331_196_416),
    "OPT-1.3b": (_opt(2048, 24, 32), 1_315_758_080),
    "OPT-2.7b": (_opt(2560, 32, 32), 2_651_596_800),
    "OPT-6.7b": (_opt(4096, 32, 32), 6_658_473_984),
    "OPT-13b": (_opt(5120, 40, 40), 12_853_473_280),
    "OPT-30b": (_opt(7168, 48, 56), 29_974_540_288),
    "OPT-66b": (_opt(9216, 64, 72), 65_719_701_504),
    "GPT-2": (_GPT2, 124_439_808),
    "GPT-2 XL": (_GPT2 | {"n_embd": 1600, "n_head": 25, "n_layer": 48}, 1_557_611_200),
    "Pythia-160m": (_PYTHIA, 162_322_944),
    "Pythia-6.9b": (
        _PYTHIA | {"hidden_size": 4096, "intermediate_size": 16384, "num_attention_heads": 32, "num_hidden_layers": 32,
                   "vocab_size": 50432}, 6_857_302_016),
    "GPT-NeoX-20B": (
        _PYTHIA | {"hidden_act": "gelu_fast", "hidden_size": 6144, "intermediate_size": 24576,
                   "num_attention_heads": 64, "num_hidden_layers": 44, "vocab_size": 50432}, 20_554_567_680),
    "BLOOM-560m": (_BLOOM, 559_214_592),
    "BLOOM-7b1": (
        _BLOOM | {"n_embed": 4096, "n_layer": 30, "num_attention_heads": 32}, 7_069_016_064),
    "Falcon-7B": (_FALCON, 6_921_720_704),
    "Falcon-40B": (
        _FALCON | {"hidden_size": 8192, "multi_query": True, "new_decoder_architecture": True,
                   "num_attention_heads": 128, "num_hidden_layers": 60, "num_kv_heads": 8}, 41_303_293_952),
    "Falcon-RW-1B": (
        _FALCON | {"alibi": True, "bias": True, "hidden_size": 2048, "multi_query": False, "num_attention_heads": 32,
                   "num_hidden_layers": 24, "parallel_attn": False, "vocab_size": 50304}, 1_311_625_216),
    "OLMo-2-7B": (_OLMO2, 7_298_617_344),
}  # fmt: skip
"""By name: config.json, and the number of parameters with a tied head counted once."""

MODELS = {config["model_type"]: config for config, _ in PUBLISHED.values()}
"""One public configuration of every family."""
