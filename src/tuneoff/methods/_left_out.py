"""Reasons: methods of other packages than PEFT that cannot be had, and why."""

LEFT_OUT = {
    "q_galore": (
        "does not run: q-galore-torch 1.0 reads a setting in each step, `percentile_clipping`, that bitsandbytes 0.50 has "
        "no longer. It also waits for CUDA in each step, and the wheel lacks the INT8 layers that its weights need"
    ),
}
