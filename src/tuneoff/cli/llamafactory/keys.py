"""Keys of LLaMA-Factory by what becomes of them, where one key alone decides it."""

from collections.abc import Callable
from typing import Any

Take = Callable[[Any], list[str]]  # of a value: the words that say it here
# Values that switch a feature off; a file may say so.
OFF = (None, False, "", 0, "no", "none")


def rename(ours: str) -> Take:
    """The same value under another name; null is left out."""
    return lambda value: [] if value is None else [f"{ours}={format_plain(value)}"]


def invert(value: Any) -> str:
    """A switch turned over, as a command line has it; what is none is left, for our own key to refuse."""
    return format_plain(not value if isinstance(value, bool | int) else value)


def format_plain(value: Any) -> str:
    """A value as a command line has it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(format_plain, value))}]"
    return str(value)


def write_number(value: float) -> str:
    """A number with all its digits, without those behind the point of a whole one."""
    return str(value).removesuffix(".0")


# ---------------------------------------------------------------- taken under another name, or the same
# transformers' ways to draw rows, but for the usual one.
SAMPLING = {"sequential": ["shuffle=false"], "group_by_length": ["group_by_length=true"]}
TAKEN: dict[str, Take] = {
    "trust_remote_code": rename("model.trust_remote_code"),
    "enable_liger_kernel": rename("model.liger"),
    "cutoff_len": rename("max_length"),
    "per_device_train_batch_size": rename("batch_size"),
    "per_device_eval_batch_size": rename("eval_batch_size"),
    "gradient_accumulation_steps": rename("gradient_accumulation_steps"),
    "learning_rate": rename("lr"),
    "weight_decay": rename("weight_decay"),
    "seed": rename("seed"),
    "neftune_noise_alpha": rename("neftune_alpha"),
    "tf32": rename("tf32"),
    "torch_compile": rename("compile"),
    "disable_shuffling": lambda value: [f"shuffle={format_plain(not value)}"],
    "train_sampling_strategy": lambda value: SAMPLING.get(str(value), []),
    "use_liger_kernel": rename("model.liger"),
    "full_determinism": rename("deterministic"),
    "train_from_scratch": lambda value: [f"model.pretrained={invert(value)}"] if value else [],
    "group_by_length": rename("group_by_length"),
    "save_total_limit": rename("keep_checkpoints"),
    "overwrite_output_dir": rename("rerun"),
    "output_dir": rename("hydra.run.dir"),
    "max_grad_norm": lambda value: [f"max_grad_norm={value or 'null'}"],
    "disable_gradient_checkpointing": lambda value: [f"gradient_checkpointing={invert(value)}"],
}
# ---------------------------------------------------------------- ignored, and why it changes nothing
SAME_STEPS = "says how fast or where it runs, and changes no step"
ONE_PROCESS = "one process reads the rows"
EVERY_STEP = "every step is logged"
ON_DEMAND = "a checkpoint here is whole or not there, and can be gone on with"
NO_TEXT = "is for images, videos and sound; text alone is trained"
AT_GENERATION = "is for generating text, after training"
NO_METRICS = "metrics are those of this project: exact_match=, forgetting.data=, benchmarks="
CHECKPOINTING = "disable_gradient_checkpointing says it"
LAUNCHED = "a launcher says it"
IGNORED: dict[str, str] = {
    "do_train": "training is what a run does",
    "eval_on_each_dataset": "the loss of each set is in the record",
    "do_eval": "a run is evaluated before and after training",
    "plot_loss": "a report draws the loss: python -m tuneoff report",
    "run_name": "method, rate and seed name a run",
    "overwrite_cache": "a file that has changed is read anew",
    "tokenized_path": "tokenised rows are kept by themselves, and found again",
    "preprocessing_batch_size": ONE_PROCESS,
    "preprocessing_num_workers": ONE_PROCESS,
    "data_shared_file_system": ONE_PROCESS,
    "remove_unused_columns": "columns are found by their names",
    "logging_dir": "the record lies in the run's folder",
    "log_level": "changes no step",
    "disable_tqdm": "progress=false does it",
    "save_only_model": ON_DEMAND,
    "save_safetensors": "safetensors is what is saved",
    "ddp_timeout": "ranks wait as long as they must",
    "ddp_find_unused_parameters": SAME_STEPS,
    "use_fast_tokenizer": "the fast tokenizer is taken where there is one",
    "low_cpu_mem_usage": SAME_STEPS,
    "gradient_checkpointing": "disable_gradient_checkpointing says it",
    "use_reentrant_gc": "recomputes the same either way",
    "gradient_checkpointing_kwargs": "recomputes the same either way",
    "use_unsloth_gc": SAME_STEPS,
    "use_v1_kernels": SAME_STEPS,
    "use_kv_cache": AT_GENERATION,
    "cache_dir": "HF_HOME says where the hub's files are kept",
    "print_param_status": "the record counts what trains",
    "include_num_input_tokens_seen": "tokens are counted in every record",
    "include_effective_tokens_per_second": "tokens a second are measured in every run",
    "include_tokens_per_second": "tokens a second are measured in every run",
    "compute_accuracy": "the loss is what is compared; exact_match= measures answers",
    "ignore_pad_token_for_loss": "padding is never trained",
    "infer_backend": AT_GENERATION,
    "infer_dtype": AT_GENERATION,
    "do_sample": AT_GENERATION,
    "temperature": AT_GENERATION,
    "top_p": AT_GENERATION,
    "top_k": AT_GENERATION,
    "num_beams": AT_GENERATION,
    "eval_num_beams": AT_GENERATION,
    "max_new_tokens": AT_GENERATION,
    "repetition_penalty": AT_GENERATION,
    **dict.fromkeys(("max_length", "length_penalty", "skip_special_tokens"), AT_GENERATION),
    "sortish_sampler": AT_GENERATION,
    **dict.fromkeys(("media_dir", "crop_to_patches", "use_audio_in_video"), NO_TEXT),
    **dict.fromkeys(
        ("hf_hub_token", "ms_hub_token", "om_hub_token"), "HF_TOKEN is the hub's token"
    ),
    "ld_alpha": "is for another stage",
    "offload_folder": "nothing is moved to a disk",
    "freeze_vision_tower": NO_TEXT,
    "freeze_multi_modal_projector": NO_TEXT,
    "tool_format": "is for rows with tools, which are refused where they are read",
    "placement_strategy": "is for Ray",
    "resources_per_worker": "is for Ray",
    "fsdp_transformer_layer_cls_to_wrap": "the decoder layers are found",
    "fsdp_config": "the launcher's file says it",
    "buffer_size": "is for streaming",
    "moe_aux_loss_coef": "transformers adds such a loss only where the router's logits are asked for",
    "data_seed": "seed fixes the order of rows too",
    "average_tokens_across_devices": "the loss is the mean over the tokens of all ranks",
    "eval_on_start": "a run is evaluated before and after training",
    "eval_delay": "a run is evaluated before and after training",
    "prediction_loss_only": "the loss is what is compared",
    **dict.fromkeys(("bf16_full_eval", "fp16_full_eval"), "evaluation computes as training does"),
    **dict.fromkeys(
        ("include_for_metrics", "include_inputs_for_metrics", "label_names"), NO_METRICS
    ),
    **dict.fromkeys(("batch_eval_metrics", "past_index", "debug", "log_on_each_node"), SAME_STEPS),
    **dict.fromkeys(("use_cache", "torch_empty_cache_steps", "skip_memory_metrics"), SAME_STEPS),
    **dict.fromkeys(("activation_checkpointing", "activation_checkpointing_kwargs"), CHECKPOINTING),
    **dict.fromkeys(("save_on_each_node", "enable_jit_checkpoint", "ignore_data_skip"), ON_DEMAND),
    "restore_callback_states_from_checkpoint": ON_DEMAND,
    "length_column_name": "lengths are counted in tokens",
    **dict.fromkeys(("local_rank", "master_addr", "master_port", "ddp_backend"), LAUNCHED),
    "project": "wandb_project names a tracker's project",
    "log_level_replica": "changes no step",
    "liger_kernel_config": "Liger's kernels are all put in but those of the loss",
    "profile_modules": SAME_STEPS,
    "half_precision_backend": "autocast is torch's",
    "use_swanlab": "the record has every figure; tracker=wandb, tensorboard and trackio show them",
    "enable_torch_profiler": SAME_STEPS,
    "fp8_backend": "is for fp8",
    "fp8_enable_fsdp_float8_all_gather": "is for fp8",
}
# Beginnings of keys that are for something else, which is refused where it is on.
PREFIXES: dict[str, str] = {
    "pref_": "is for another stage",
    "dpo_": "is for another stage",
    "kto_": "is for another stage",
    "ppo_": "is for another stage",
    "simpo_": "is for another stage",
    "ref_model": "is for another stage",
    "reward_model": "is for another stage",
    "swanlab": "the record has every figure; tracker=wandb and tensorboard show them",
    "trackio": "wandb_project names a tracker's project",
    "hub_": "push=owner/name says what a run uploads",
    "ray_": "num_processes= and a launcher start several; hydra/launcher=ray runs jobs of a sweep",
    "profiler_": SAME_STEPS,
    "dataloader_": ONE_PROCESS,
    "logging_": EVERY_STEP,
    "kt_": "is for use_kt",
    "export_": "is for merging, after training",
    "image_": NO_TEXT,
    "video_": NO_TEXT,
    "audio_": NO_TEXT,
    "ddp_": SAME_STEPS,
    "vllm_": AT_GENERATION,
    "sglang_": AT_GENERATION,
    "eval_": "changes nothing of what is evaluated",
    "generation_": AT_GENERATION,
    "torchdynamo": SAME_STEPS,
}
# ---------------------------------------------------------------- refused unless off, and what it would need
OTHER_LOSS = "trains by another loss than that of the next token"
KTRANSFORMERS = "needs KTransformers, which computes experts on the CPU"
MEGATRON = "needs Megatron, whose model is another; conf/accelerate has FSDP and ZeRO"
REFUSED: dict[str, str] = {
    "use_dft_loss": OTHER_LOSS,
    "use_asft_loss": OTHER_LOSS,
    "asft_alpha": OTHER_LOSS,
    "use_eaft_loss": OTHER_LOSS,
    "eaft_alpha": OTHER_LOSS,
    "use_llama_pro": "needs a model with added blocks, of which only those train",
    "use_unsloth": "needs unsloth's models; model.liger=true has kernels of Liger",
    "use_kt": KTRANSFORMERS,
    "use_mca": MEGATRON,
    "use_megatron_bridge": MEGATRON,
    "tensor_model_parallel_size": MEGATRON,
    "pipeline_model_parallel_size": MEGATRON,
    "expert_model_parallel_size": MEGATRON,
    "context_parallel_size": MEGATRON,
    "sequence_parallel": MEGATRON,
    "use_distributed_optimizer": MEGATRON,
    "overlap_param_gather": MEGATRON,
    "overlap_grad_reduce": MEGATRON,
    "bias_activation_fusion": MEGATRON,
    "apply_rope_fusion": MEGATRON,
    "moe_grouped_gemm": MEGATRON,
    "moe_token_dispatcher_type": MEGATRON,
    "recompute_granularity": MEGATRON,
    "use_packed_sequences": MEGATRON,
    "export_hf_on_finish": MEGATRON,
    "mixed_precision": MEGATRON,
    "freeze_moe_router": MEGATRON,
    "use_hyper_parallel": "needs HyperParallel; conf/accelerate has FSDP and ZeRO",
    "fp8": "needs multiplication in 8 bits, which no run here does",
    "mixture_of_depths": "needs a model that was made for it",
    "shift_attn": "needs LongLoRA's shifted attention",
    "rope_scaling": "needs a model whose config has it, as model.config.rope_parameters",
    "resize_vocab": "needs new rows of the embeddings",
    "add_tokens": "needs new rows of the embeddings",
    "add_special_tokens": "needs new rows of the embeddings",
    "init_special_tokens": "needs new rows of the embeddings",
    "new_special_tokens_config": "needs new rows of the embeddings",
    "upcast_layernorm": "needs norms in float32 beside other weights in bfloat16; dtype=float32 has all in it",
    "upcast_lmhead_output": "needs an output head of its own type; logits are float32 in the loss already",
    "streaming": "needs data.limit: a stream without an end has no epochs",
    "freeze_language_model": "needs a part beside the language model to train",
    "quantization_device_map": "needs a model over several devices",
    "split_special_tokens": "needs a tokenizer without special tokens",
    "do_predict": "needs no training: python train.py exact_match=… test=true, or python -m tuneoff chat",
    **dict.fromkeys(("adam_beta1", "adam_beta2"), "needs other betas than those of AdamW"),
    "label_smoothing_factor": OTHER_LOSS,
    "optim_args": "needs options of an optimizer, which has the constants of its paper here",
    "optim_target_modules": "is written galore_target or apollo_target here",
    "auto_find_batch_size": "needs a batch that depends on the memory; task=predict gib=… finds the largest",
    "accelerator_config": "needs options of accelerate's own, which go into the launcher's file",
    "parallelism_config": "needs more ways to split a model than conf/accelerate has",
    **dict.fromkeys(("use_cpu", "no_cuda"), "is written CUDA_VISIBLE_DEVICES= before the command"),
    **dict.fromkeys(
        ("use_mps_device", "tpu_num_cores"), "needs another device than CUDA and a CPU"
    ),
    "jit_mode_eval": "needs a traced model",
    "fp16_opt_level": "needs apex; autocast is torch's",
    "generation_config": "needs settings of generation; answers are greedy",
    **dict.fromkeys(
        ("megatron_bridge_args", "hyper_parallel_args", "hyper_parallel_cp_size"), MEGATRON
    ),
    "adam_epsilon": "needs another epsilon than that of AdamW",
}
# Values at which a key of REFUSED or of the words below says no more than the default.
DEFAULTS: dict[str, tuple] = {
    "adam_epsilon": (1e-8,),
    "fp16_opt_level": ("O1",),
    "adam_beta1": (0.9,),
    "adam_beta2": (0.999,),
    "tensor_model_parallel_size": (1,),
    "pipeline_model_parallel_size": (1,),
    "expert_model_parallel_size": (1,),
    "context_parallel_size": (1,),
}
