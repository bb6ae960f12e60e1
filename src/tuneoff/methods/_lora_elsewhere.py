"""What the LoRA family and its options are called in other programs."""

CHOICES = {
    **dict.fromkeys(("finetuning_type=lora", "adapter=lora", "peft_type=lora"), "lora"),
    "use_rslora=true": "rslora",
    "loraplus_lr_ratio": "loraplus",
    "use_dora=true": "dora",
    **dict.fromkeys(("pissa_init=true", "use_pissa=true", "init_lora_weights=pissa"), "pissa"),
}
ALIASES: dict[str, tuple[str, ...]] = {"qlora": ("method=lora", "quantization=4bit")}
OPTIONS = {
    **dict.fromkeys(("lora_r", "r", "rank"), "lora_rank"),
    **dict.fromkeys(("target_modules", "lora_target_modules"), "lora_target"),
    **dict.fromkeys(("modules_to_save", "lora_modules_to_save"), "additional_target"),
    "adapter_name_or_path": "adapter_path",
}
