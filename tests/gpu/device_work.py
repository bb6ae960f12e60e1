"""What the GPU check does on the device beside tuneoff's own runs: each function in a process of its own."""

import time
from pathlib import Path
from typing import Any

import torch

HIDDEN, INTERMEDIATE, HEADS, VOCABULARY = 2048, 5461, 32, 32000  # of model=llama_1b
DRY_HIDDEN, DRY_INTERMEDIATE, DRY_HEADS, DRY_VOCABULARY = 64, 172, 4, 8192
WARMUP_STEPS = 3
MATRIX_REPEATS = 10
TERA = 1e12
GIB = 2**30


def choose_device() -> torch.device:
    """The card, or in a dry run the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def wait_for(device: torch.device) -> None:
    """Wait until the device has done all it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def describe_machine(dry: bool) -> dict:
    """The card, the versions, and the rate at which it multiplies bfloat16 matrices."""
    from tuneoff.distributed.visible import visible_devices

    device = choose_device()
    facts: dict[str, Any] = {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "visible_devices": visible_devices(),
        "matrix_teraflops": round(measure_matrix_rate(device, 256 if dry else 8192) / TERA, 2),
    }
    if device.type == "cuda":
        facts["card"] = torch.cuda.get_device_name()
        facts["memory_gib"] = round(torch.cuda.get_device_properties(0).total_memory / GIB, 2)
    return facts


def measure_matrix_rate(device: torch.device, size: int) -> float:
    """Operations a second of square bfloat16 matrices."""
    first = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    second = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    for _ in range(WARMUP_STEPS):
        first @ second
    wait_for(device)
    started = time.perf_counter()
    for _ in range(MATRIX_REPEATS):
        first @ second
    wait_for(device)
    return 2 * size**3 * MATRIX_REPEATS / (time.perf_counter() - started)


def make_model(folder: Path, layers: int, dry: bool) -> dict:
    """Random weights of the shape of model=llama_1b, saved in bfloat16 with the tokenizer that ships."""
    from helpers import TINY
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

    heads = DRY_HEADS if dry else HEADS
    config = LlamaConfig(
        hidden_size=DRY_HIDDEN if dry else HIDDEN,
        intermediate_size=DRY_INTERMEDIATE if dry else INTERMEDIATE,
        vocab_size=DRY_VOCABULARY if dry else VOCABULARY,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        num_hidden_layers=layers,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
        rms_norm_eps=1e-6,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    with choose_device():
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(TINY).save_pretrained(folder)
    return {"parameters": sum(weight.numel() for weight in model.parameters())}


def run_bare_loop(folder: Path, batch_size: int, length: int, steps: int) -> dict:
    """The loop that everyone writes first: bfloat16, fused AdamW, the loss read at each step's end."""
    from transformers import AutoModelForCausalLM

    device = choose_device()
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    ids = torch.randint(10, 3000, (steps + WARMUP_STEPS, batch_size, length))
    started = 0.0
    for step, rows in enumerate(ids):
        if step == WARMUP_STEPS:
            wait_for(device)
            started = time.perf_counter()
        tokens = rows.to(device)
        logits = model(input_ids=tokens, use_cache=False).logits[:, :-1].flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(logits.float(), tokens[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
    wait_for(device)
    seconds = time.perf_counter() - started
    tokens_per_second = steps * batch_size * length / seconds
    flops = count_flops_per_token(model, length)
    return {
        "tokens_per_second": round(tokens_per_second, 1),
        "teraflops": round(tokens_per_second * flops / TERA, 2),
        "peak_gib": torch.cuda.max_memory_allocated() / GIB if device.type == "cuda" else None,
    }


def count_flops_per_token(model: Any, length: int) -> float:
    """Of a train step: six a weight that is multiplied with, and twelve a layer, width and position of attention."""
    config = model.config
    embeddings = config.vocab_size * config.hidden_size
    weights = sum(weight.numel() for weight in model.parameters()) - embeddings
    attention = config.num_hidden_layers * config.hidden_size * length
    return 6 * weights + 12 * attention


def list_attention_kernels(folder: Path, length: int) -> dict:
    """Which attention operations a forward and backward pass calls, by type of the weights."""
    from transformers import AutoModelForCausalLM

    device = choose_device()
    kernels = {}
    for dtype in (torch.bfloat16, torch.float32):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device)
        ids = torch.randint(10, 3000, (2, length), device=device)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            model(input_ids=ids, use_cache=False).logits.float().mean().backward()
        names = {event.key for event in profile.key_averages()}
        kernels[str(dtype)] = sorted(name for name in names if "attention" in name)
    return kernels
