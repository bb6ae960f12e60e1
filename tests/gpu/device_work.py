"""What the GPU check does on the device beside tuneoff's own runs: each function in a process of its own."""

import statistics
import time
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import torch


class Shape(NamedTuple):
    """The widths of a Llama."""

    hidden: int
    intermediate: int
    heads: int
    vocabulary: int


LLAMA_1B = Shape(2048, 5461, 32, 32000)  # of model=llama_1b
EVEN_1B = LLAMA_1B._replace(intermediate=5504)  # bitsandbytes' kernels fail on odd widths
DRY = Shape(64, 172, 4, 8192)
WARMUP_STEPS = 3
MATRIX_REPEATS = 10
BUSY_PRODUCTS = 20
REFRESH_RANK, DRY_REFRESH_RANK = 128, 16
PACKAGES = (
    "transformers",
    "accelerate",
    "peft",
    "bitsandbytes",
    "flash-attn",
    "liger-kernel",
    "triton",
)
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
    versions = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    facts: dict[str, Any] = {
        "versions": versions,
        "driver_folder": Path("/proc/driver/nvidia/gpus").exists(),
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


def make_model(folder: Path, layers: int, shape: Shape) -> dict:
    """Random weights, saved in bfloat16 with the tokenizer that ships."""
    from helpers import TINY
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

    config = LlamaConfig(
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        vocab_size=shape.vocabulary,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
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


class BareLoop(NamedTuple):
    """What a bare loop trains, and whether it reads the loss at each step's end."""

    method: str  # full, or lora
    batch_size: int
    length: int
    steps: int
    reads: bool


def run_bare_loop(folder: Path, loop: BareLoop) -> dict:
    """The loop that everyone writes first: bfloat16, fused AdamW."""
    device = choose_device()
    model = load_bare_model(folder, loop.method).to(device).train()
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    ids = torch.randint(10, 3000, (loop.steps + WARMUP_STEPS, loop.batch_size, loop.length))
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
        if loop.reads:
            loss.item()
    wait_for(device)
    seconds = time.perf_counter() - started
    tokens_per_second = loop.steps * loop.batch_size * loop.length / seconds
    figures: dict[str, Any] = {"tokens_per_second": round(tokens_per_second, 1)}
    if loop.method == "full":
        flops = count_flops_per_token(model, loop.length)
        figures["teraflops"] = round(tokens_per_second * flops / TERA, 2)
    if device.type == "cuda":
        figures["peak_gib"] = torch.cuda.max_memory_allocated() / GIB
    return figures


def load_bare_model(folder: Path, method: str) -> Any:
    """The saved model in bfloat16, for `lora` with PEFT's adapters on every linear layer."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    if method == "full":
        return model
    from peft import LoraConfig, get_peft_model

    return get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear"))


def time_refreshes(dry: bool) -> dict:
    """Seconds of a renewal of GaLore's subspace at rank 128: galore-torch's SVD, and the iterated one's first and next."""
    from tuneoff.methods._galore_projectors import Projector

    device = choose_device()
    shape = DRY if dry else LLAMA_1B
    sizes = ((shape.hidden, shape.hidden), (shape.hidden, shape.intermediate))
    rank = DRY_REFRESH_RANK if dry else REFRESH_RANK
    figures = {}
    for rows, columns in sizes:
        gradient = torch.randn(rows, columns, device=device)
        iterated = Projector(rank, update_proj_gap=1)
        iterated.iterates_subspace = True
        exact = Projector(rank, update_proj_gap=1)
        exact.project(gradient[:rank, :rank], 0)  # libraries are loaded at the first call
        figures[f"{rows}x{columns}"] = {
            "exact_seconds": time_refresh(exact, gradient),
            "first_seconds": time_refresh(iterated, gradient),
            "subspace_seconds": time_refresh(iterated, gradient),
        }
    return figures


def time_refresh(projector: Any, gradient: torch.Tensor) -> float:
    """Seconds of one renewal and projection."""
    wait_for(gradient.device)
    started = time.perf_counter()
    projector.project(gradient, 1)
    wait_for(gradient.device)
    return round(time.perf_counter() - started, 4)


def gather_beside_the_device(dry: bool) -> dict:
    """Seconds in which a rank tells the others something while its device is busy, and those that it was busy for.

    By the group that ranks speak in beside NCCL, here of one rank, since NCCL takes a card once.
    """
    from torch import distributed

    from tuneoff.distributed.ranks import join_hosts

    device = choose_device()
    backend = "nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, store=distributed.HashStore(), rank=0, world_size=1)
    group = join_hosts()
    size = 64 if dry else 8192
    matrix = torch.randn(size, size, device=device)
    reduced = torch.zeros((), device=device)
    distributed.all_reduce(reduced)
    wait_for(device)
    started = time.perf_counter()
    for _ in range(BUSY_PRODUCTS):
        matrix @ matrix
    items: list = [None]
    asked = time.perf_counter()
    distributed.all_gather_object(items, "a step's figures", group=group)
    gather_seconds = time.perf_counter() - asked
    wait_for(device)
    busy_seconds = time.perf_counter() - started
    distributed.destroy_process_group()
    return {"gather_seconds": round(gather_seconds, 5), "busy_seconds": round(busy_seconds, 5)}


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


def time_attention_shapes(dry: bool) -> dict:
    """Median seconds of attention, forward and backward, on a length's first and second call, with cuDNN's and without.

    Without a mask, as rows that are padded behind need none.
    """
    device = choose_device()
    length_count = 2 if dry else 12
    figures = {}
    for with_cudnn in (True, False):
        torch.backends.cuda.enable_cudnn_sdp(with_cudnn)
        first_seconds = []
        second_seconds = []
        time_attention(device, 64)  # libraries are loaded at the first call
        for index in range(length_count):
            length = 100 + 13 * index + with_cudnn  # no length of the other half
            first_seconds.append(time_attention(device, length))
            second_seconds.append(time_attention(device, length))
        figures["cudnn" if with_cudnn else "without_cudnn"] = {
            "first_seconds": round(statistics.median(first_seconds), 5),
            "second_seconds": round(statistics.median(second_seconds), 5),
        }
    torch.backends.cuda.enable_cudnn_sdp(True)
    return figures


def time_attention(device: torch.device, length: int) -> float:
    """Seconds of one call in bfloat16, forward and backward, of eight rows."""
    size = (8, 9, length, 64)  # rows, heads, tokens, width
    query = torch.randn(size, device=device, dtype=torch.bfloat16, requires_grad=True)
    wait_for(device)
    started = time.perf_counter()
    attend = torch.nn.functional.scaled_dot_product_attention
    attended = attend(query, query, query, is_causal=True)
    attended.sum().backward()
    wait_for(device)
    return time.perf_counter() - started
