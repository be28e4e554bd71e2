"""config.json and picture settings of published checkpoints, key for key, at tiny width.

The keys are those of the files on the hub, remote code's `auto_map` and everything that nobody reads among them; sizes
are small, and so are the numbers that follow from them. Molmo's and XComposer2's files don't say what their tower is
like (it stands in their code): there a field of ours does, because theirs is a ViT-L.
"""

from __future__ import annotations

from typing import Any

WIDTH, LAYERS, HEADS, MLP = 48, 2, 4, 96
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
CLIP = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
GENERATION = {
    "add_cross_attention": False, "bad_words_ids": None, "chunk_size_feed_forward": 0, "diversity_penalty": 0.0,
    "do_sample": False, "finetuning_task": None, "id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "is_decoder": False,
    "length_penalty": 1.0, "max_length": 20, "num_beams": 1, "output_attentions": False, "pruned_heads": {},
    "return_dict": True, "temperature": 1.0, "tie_encoder_decoder": False, "top_k": 50, "torchscript": False,
    "torch_dtype": "bfloat16", "transformers_version": "4.37.2", "typical_p": 1.0, "use_bfloat16": True,
}  # fmt: skip


def _remote(module: str, config: str, model: str) -> dict[str, str]:
    return {
        "AutoConfig": f"configuration_{module}.{config}",
        "AutoModel": f"modeling_{module}.{model}",
        "AutoModelForCausalLM": f"modeling_{module}.{model}",
    }


def _qwen2(vocab: int, **more: Any) -> dict[str, Any]:
    return {
        "_name_or_path": "Qwen/Qwen2-0.5B-Instruct", "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0,
        "bos_token_id": 151643, "eos_token_id": 151645, "hidden_act": "silu", "hidden_size": WIDTH,
        "initializer_range": 0.02, "intermediate_size": MLP, "max_position_embeddings": 32768, "max_window_layers": 24,
        "model_type": "qwen2", "num_attention_heads": HEADS, "num_hidden_layers": LAYERS, "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "sliding_window": 32768, "tie_word_embeddings": False,
        "use_cache": True, "use_sliding_window": False, "vocab_size": vocab, **more,
    }  # fmt: skip


def _internlm2(vocab: int) -> dict[str, Any]:
    return {
        "_name_or_path": "internlm/internlm2_5-7b-chat", "architectures": ["InternLM2ForCausalLM"],
        "attn_implementation": "flash_attention_2", "bias": False, "bos_token_id": 1, "eos_token_id": 2,
        "auto_map": _remote("internlm2", "InternLM2Config", "InternLM2ForCausalLM"), "hidden_act": "silu",
        "hidden_size": WIDTH, "initializer_range": 0.02, "intermediate_size": MLP, "max_position_embeddings": 32768,
        "model_type": "internlm2", "num_attention_heads": HEADS, "num_hidden_layers": LAYERS, "num_key_value_heads": 2,
        "pad_token_id": 2, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
        "rope_scaling": {"factor": 2.0, "type": "dynamic"}, "rope_theta": 1000000,
        "tie_word_embeddings": False, "use_cache": True, "vocab_size": vocab,
    }  # fmt: skip


def _phi3(vocab: int) -> dict[str, Any]:
    pairs = WIDTH // HEADS // 2
    factors = {"long_factor": [1.0 + i for i in range(pairs)], "short_factor": [1.0 + i / 10 for i in range(pairs)]}
    return {
        "_name_or_path": "microsoft/Phi-3-mini-128k-instruct", "architectures": ["Phi3ForCausalLM"],
        "attention_bias": False, "attention_dropout": 0.0, "attn_implementation": "flash_attention_2",
        "auto_map": _remote("phi3", "Phi3Config", "Phi3ForCausalLM"), "bos_token_id": 1, "embd_pdrop": 0.0,
        "eos_token_id": 32000, "hidden_act": "silu", "hidden_size": WIDTH, "initializer_range": 0.02,
        "intermediate_size": MLP, "max_position_embeddings": 131072, "model_type": "phi3", "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS, "num_key_value_heads": HEADS, "original_max_position_embeddings": 4096,
        "pad_token_id": 32000, "resid_pdrop": 0.0, "rms_norm_eps": 1e-05, "rope_scaling": {**factors, "type": "su"},
        "rope_theta": 10000.0, "sliding_window": 262144, "tie_word_embeddings": False, "use_cache": True,
        "vocab_size": vocab,
    }  # fmt: skip


def _llama3(vocab: int) -> dict[str, Any]:
    return {
        "_name_or_path": "NousResearch/Hermes-2-Theta-Llama-3-70B", "architectures": ["LlamaForCausalLM"],
        "attention_bias": False, "attention_dropout": 0.0, "attn_implementation": "flash_attention_2",
        "bos_token_id": 128000, "eos_token_id": 128003, "hidden_act": "silu", "hidden_size": WIDTH,
        "initializer_range": 0.02, "intermediate_size": MLP, "max_position_embeddings": 8192, "mlp_bias": False,
        "model_type": "llama", "num_attention_heads": HEADS, "num_hidden_layers": LAYERS, "num_key_value_heads": 2,
        "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": None, "rope_theta": 500000.0,
        "tie_word_embeddings": False, "use_cache": True, "vocab_size": vocab,
    }  # fmt: skip


def _intern_vit(large: bool) -> dict[str, Any]:
    return {
        "architectures": ["InternVisionModel"], "attention_dropout": 0.0, "drop_path_rate": 0.0, "dropout": 0.0,
        "hidden_act": "gelu", "hidden_size": 32, "image_size": 56, "initializer_factor": 0.1 if large else 1.0,
        "initializer_range": 1e-10 if large else 0.02, "intermediate_size": 64, "layer_norm_eps": 1e-06,
        "model_type": "intern_vit_6b", "norm_type": "rms_norm" if large else "layer_norm", "num_attention_heads": 2,
        "num_channels": 3, "num_hidden_layers": 3, "patch_size": 14, "qk_normalization": large, "qkv_bias": not large,
        "use_flash_attn": True, **GENERATION,
    }  # fmt: skip


def internvl(llm: dict[str, Any], version: str, large: bool = False) -> dict[str, Any]:
    """The authors' own layout; `version` is the template that the file names."""
    return {
        "_commit_hash": None, "architectures": ["InternVLChatModel"],
        "auto_map": _remote("internvl_chat", "InternVLChatConfig", "InternVLChatModel"), "downsample_ratio": 0.5,
        "dynamic_image_size": True, "force_image_size": 56, "hidden_size": WIDTH, "llm_config": {**GENERATION, **llm},
        "max_dynamic_patch": 12, "min_dynamic_patch": 1, "model_type": "internvl_chat", "pad2square": False,
        "ps_version": "v2", "select_layer": -1, "template": version, "torch_dtype": "bfloat16",
        "transformers_version": None, "use_backbone_lora": 0, "use_llm_lora": 0, "use_thumbnail": True,
        "vision_config": _intern_vit(large),
    }  # fmt: skip


def internvl_hf(vocab: int) -> dict[str, Any]:
    """transformers' own layout."""
    vision = {
        "architectures": ["InternVisionModel"], "attention_bias": True, "attention_dropout": 0.0, "dropout": 0.0,
        "hidden_act": "gelu", "hidden_dropout_prob": 0.0, "hidden_size": 32, "image_size": [56, 56],
        "initializer_factor": 0.1, "initializer_range": 1e-10, "intermediate_size": 64, "layer_norm_eps": 1e-06,
        "layer_scale_init_value": 0.1, "model_type": "internvl_vision", "norm_type": "layer_norm",
        "num_attention_heads": 2, "num_channels": 3, "num_hidden_layers": 3, "patch_size": [14, 14],
        "projection_dropout": 0.0, "torch_dtype": "bfloat16", "use_absolute_position_embeddings": True,
        "use_mask_token": False, "use_mean_pooling": True, "use_qk_norm": False,
    }  # fmt: skip
    return {
        "architectures": ["InternVLForConditionalGeneration"], "downsample_ratio": 0.5, "image_seq_length": 4,
        "image_token_id": 0, "model_type": "internvl", "projector_hidden_act": "gelu", "text_config": _qwen2(vocab),
        "torch_dtype": "bfloat16", "transformers_version": "4.52.0.dev0", "vision_config": vision,
        "vision_feature_layer": -1, "vision_feature_select_strategy": "default",
    }  # fmt: skip


def qwen_vl(vocab: int, second: bool) -> dict[str, Any]:
    """Qwen2-VL's or Qwen2.5-VL's flat file, as the hub has it."""
    old = {"depth": 2, "embed_dim": 32, "hidden_size": WIDTH, "in_channels": 3, "in_chans": 3, "mlp_ratio": 4,
           "num_heads": 2, "patch_size": 14, "spatial_merge_size": 2, "spatial_patch_size": 14,
           "temporal_patch_size": 2}  # fmt: skip
    new = {"depth": 2, "fullatt_block_indexes": [1], "hidden_act": "silu", "hidden_size": 32, "in_chans": 3,
           "intermediate_size": 64, "num_heads": 2, "out_hidden_size": WIDTH, "patch_size": 14,
           "spatial_merge_size": 2, "spatial_patch_size": 14, "temporal_patch_size": 2, "tokens_per_second": 2,
           "window_size": 112}  # fmt: skip
    text = {k: v for k, v in _qwen2(vocab).items() if k not in ("_name_or_path", "model_type", "architectures")}
    version = "2_5" if second else "2"
    return {
        **text, "architectures": [f"Qwen{version}_VLForConditionalGeneration".replace("Qwen2_VL", "Qwen2VL")],
        "image_token_id": 0, "model_type": f"qwen{version}_vl", "torch_dtype": "bfloat16", "video_token_id": 1,
        "rope_scaling": {"mrope_section": [2, 2, 2], "type": "mrope"}, "transformers_version": "4.41.2",
        "vision_config": new if second else old,
        "vision_end_token_id": 151653, "vision_start_token_id": 151652, "vision_token_id": 151654,
    }  # fmt: skip


def kimi(vocab: int) -> dict[str, Any]:
    """Kimi-VL-A3B."""
    text = {
        "attention_bias": False, "attention_dropout": 0.0, "aux_loss_alpha": 0.001, "bos_token_id": 163584,
        "eos_token_id": 163585, "ep_size": 1, "first_k_dense_replace": 1, "hidden_act": "silu", "hidden_size": WIDTH,
        "initializer_range": 0.02, "intermediate_size": MLP, "kv_lora_rank": 16, "max_position_embeddings": 131072,
        "model_type": "deepseek_v3", "moe_intermediate_size": 32, "moe_layer_freq": 1, "n_group": 1,
        "n_routed_experts": 8, "n_shared_experts": 2, "norm_topk_prob": True, "num_attention_heads": HEADS,
        "num_experts_per_tok": 6, "num_hidden_layers": LAYERS, "num_key_value_heads": HEADS, "pretraining_tp": 1,
        "q_lora_rank": None, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "rms_norm_eps": 1e-05,
        "rope_scaling": None, "rope_theta": 800000.0, "routed_scaling_factor": 2.446, "scoring_func": "sigmoid",
        "seq_aux": True, "tie_word_embeddings": False, "topk_group": 1, "topk_method": "noaux_tc",
        "torch_dtype": "bfloat16", "use_cache": True, "v_head_dim": 16, "vocab_size": vocab,
    }  # fmt: skip
    vision = {
        "hidden_size": 32, "init_pos_emb_height": 8, "init_pos_emb_width": 8, "intermediate_size": 64,
        "merge_kernel_size": [2, 2], "model_type": "moonvit", "num_attention_heads": 2, "num_hidden_layers": 2,
        "patch_size": 14, "torch_dtype": "bfloat16",
    }  # fmt: skip
    return {
        "architectures": ["KimiVLForConditionalGeneration"],
        "auto_map": _remote("kimi_vl", "KimiVLConfig", "KimiVLForConditionalGeneration"), "ignore_index": -100,
        "media_placeholder_token_id": 0, "model_type": "kimi_vl", "text_config": text, "torch_dtype": "bfloat16",
        "transformers_version": "4.50.3", "vision_config": vision, "vocab_size": vocab,
    }  # fmt: skip


MOLMO_TOWER = {"image_size": 112, "patch_size": 14, "hidden_size": 32, "num_layers": 3, "num_heads": 2, "mlp_dim": 64,
               "layers": [-2, -3], "margin": 2}  # fmt: skip


def molmo(vocab: int, **more: Any) -> dict[str, Any]:
    """Molmo; what the three kinds of language model differ in is given."""
    shape = {
        "architectures": ["MolmoForCausalLM"], "attention_layer_norm": False,
        "auto_map": {"AutoConfig": "config_molmo.MolmoConfig",
                     "AutoModelForCausalLM": "modeling_molmo.MolmoForCausalLM"},
        "clip_qkv": None, "embedding_size": vocab, "hidden_size": WIDTH, "initializer_range": 0.02,
        "intermediate_size": 2 * MLP, "layer_norm_eps": 1e-06, "layer_norm_type": "rms",
        "max_position_embeddings": 4096, "model_type": "molmo", "norm_after": False, "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS, "num_key_value_heads": 2, "qkv_bias": True, "rope_theta": 1000000.0,
        "tie_word_embeddings": False, "torch_dtype": "float32", "transformers_version": "4.43.3", "use_cache": True,
        "use_position_ids": True, "vocab_size": vocab, "weight_tying": False, "vision_backbone": MOLMO_TOWER,
    }  # fmt: skip
    return shape | more


def cogvlm(vocab: int, second: bool, video: bool = False) -> dict[str, Any]:
    """CogVLM's or CogVLM2's file."""
    vision = {
        "dropout_prob": 0.0, "hidden_act": "gelu", "hidden_size": 32, "image_size": 56, "in_channels": 3,
        "intermediate_size": 64, "layer_norm_eps": 1e-06, "num_heads": 2, "num_hidden_layers": 2,
        "num_positions": 17, "patch_size": 14,
    }  # fmt: skip
    config: dict[str, Any] = {
        "architectures": ["CogVLMVideoForCausalLM" if video else "CogVLMForCausalLM"],
        "auto_map": {"AutoConfig": "configuration_cogvlm.CogVLMConfig",
                     "AutoModelForCausalLM": "modeling_cogvlm.CogVLMForCausalLM"},
        "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu", "hidden_size": WIDTH, "initializer_range": 0.02,
        "intermediate_size": MLP, "max_position_embeddings": 2048, "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS, "pad_token_id": 0, "rms_norm_eps": 1e-05, "template_version": "chat",
        "tie_word_embeddings": False, "torch_dtype": "bfloat16", "transformers_version": "4.35.0", "use_cache": True,
        "vision_config": vision, "vocab_size": vocab,
    }  # fmt: skip
    if second:
        config |= {"bos_token_id": 128000, "eos_token_id": [128001, 128009], "max_position_embeddings": 8192,
                   "num_multi_query_heads": 2, "pad_token_id": 128002 % vocab}  # fmt: skip
    return config


def xcomposer(vocab: int) -> dict[str, Any]:
    """InternLM-XComposer2-4KHD."""
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
             "image_size": 56, "patch_size": 14, "projection_dim": 32, "model_type": "clip_vision_model"}  # fmt: skip
    return {
        "architectures": ["InternLMXComposer2ForCausalLM"], "attn_implementation": "flash_attention_2",
        "auto_map": _remote("internlm_xcomposer2", "InternLMXcomposer2Config", "InternLMXComposer2ForCausalLM"),
        "bias": False, "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu", "hidden_size": WIDTH,
        "initializer_range": 0.02, "intermediate_size": MLP, "max_length": 4096, "max_position_embeddings": 32768,
        "model_type": "internlm", "num_attention_heads": HEADS, "num_hidden_layers": LAYERS, "num_key_value_heads": 2,
        "pad_token_id": 2, "rms_norm_eps": 1e-05, "rope_scaling": {"factor": 1.0, "type": "dynamic"},
        "rope_theta": 1000000, "tie_word_embeddings": False, "torch_dtype": "float32",
        "transformers_version": "4.33.1", "use_cache": False, "vocab_size": vocab, "vision_config": tower,
    }  # fmt: skip


CLIP_FEATURES = {
    "crop_size": 448, "do_center_crop": True, "do_normalize": True, "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor", **IMAGENET, "resample": 3, "size": 448,
}  # fmt: skip
QWEN_PICTURES = {
    "min_pixels": 3136, "max_pixels": 12845056, "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2, **CLIP,
    "image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2VLProcessor",
}  # fmt: skip
MOLMO_PICTURES = {
    "auto_map": {"AutoImageProcessor": "image_preprocessing_molmo.MolmoImageProcessor",
                 "AutoProcessor": "preprocessing_molmo.MolmoProcessor"},
    "base_image_input_size": [112, 112], "do_normalize": True, **CLIP, "image_padding_mask": True,
    "image_patch_size": 14, "image_processor_type": "MolmoImageProcessor", "image_token_length_h": 4,
    "image_token_length_w": 4, "max_crops": 12, "overlap_margins": [2, 2], "processor_class": "MolmoProcessor",
}  # fmt: skip
KIMI_PICTURES = {
    "auto_map": {"AutoImageProcessor": "image_processing_kimi_vl.KimiVLImageProcessor",
                 "AutoProcessor": "processing_kimi_vl.KimiVLProcessor"},
    "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "in_token_limit": 4096,
    "merge_kernel_size": [2, 2], "num_pooled_tokens": 1024, "pad_input": True, "patch_size": 14,
}  # fmt: skip
TILES = {
    "crop_size": None, "crop_to_patches": False, "data_format": "channels_first", "default_to_square": True,
    "do_convert_rgb": True, "do_normalize": True, "do_rescale": True, "do_resize": True, **IMAGENET,
    "image_processor_type": "GotOcr2ImageProcessorFast", "max_patches": 12, "min_patches": 1,
    "processor_class": "InternVLProcessor", "resample": 3, "rescale_factor": 1 / 255,
    "size": {"height": 56, "width": 56},
}  # fmt: skip


def published(vocab: int) -> dict[str, tuple[dict[str, Any], dict[str, Any] | None]]:
    """Name of a checkpoint → its config.json and its picture settings, for a vocabulary of `vocab`."""
    olmo = {"attention_layer_norm": True, "norm_after": True, "num_key_value_heads": None, "qkv_bias": False,
            "rope_theta": 500000.0}  # fmt: skip
    olmoe = {"attention_layer_norm": True, "intermediate_size": 32, "layer_norm_eps": 1e-05, "moe_num_experts": 8,
             "moe_top_k": 2, "num_key_value_heads": None, "qkv_bias": False, "rope_theta": 10000.0}  # fmt: skip
    return {
        "InternVL-Chat-V1-5": (internvl(_internlm2(vocab), "internlm2-chat", large=True), CLIP_FEATURES),
        "InternVL2-1B": (internvl(_qwen2(vocab), "Hermes-2"), CLIP_FEATURES),
        "InternVL2-2B": (internvl(_internlm2(vocab), "internlm2-chat"), CLIP_FEATURES),
        "InternVL2-4B": (internvl(_phi3(vocab), "phi3-chat"), CLIP_FEATURES),
        "InternVL2-Llama3-76B": (internvl(_llama3(vocab), "Hermes-2", large=True), CLIP_FEATURES),
        "InternVL2_5-4B": (internvl(_qwen2(vocab, tie_word_embeddings=False), "internvl2_5"), CLIP_FEATURES),
        "InternVL2_5-38B": (internvl(_qwen2(vocab), "internvl2_5", large=True), CLIP_FEATURES),
        "InternVL2_5-HF": (internvl_hf(vocab), TILES),
        "Qwen2-VL-7B-Instruct": (qwen_vl(vocab, second=False), QWEN_PICTURES),
        "Qwen2-VL-2B-Instruct": (qwen_vl(vocab, second=False) | {"tie_word_embeddings": True}, QWEN_PICTURES),
        "Qwen2.5-VL-7B-Instruct": (qwen_vl(vocab, second=True), QWEN_PICTURES),
        "Kimi-VL-A3B-Instruct": (kimi(vocab), KIMI_PICTURES),
        "Molmo-7B-D-0924": (molmo(vocab), MOLMO_PICTURES),
        "Molmo-7B-O-0924": (molmo(vocab, **olmo), MOLMO_PICTURES),
        "MolmoE-1B-0924": (molmo(vocab, **olmoe), MOLMO_PICTURES),
        "cogvlm-chat-hf": (cogvlm(vocab, second=False), None),
        "cogvlm2-llama3-chat-19B": (cogvlm(vocab, second=True), None),
        "cogvlm2-video-llama3-chat": (cogvlm(vocab, second=True, video=True), None),
        "internlm-xcomposer2-4khd-7b": (xcomposer(vocab), None),
    }
