"""Reasons: methods of other packages than PEFT that cannot be had, and why."""

LEFT_OUT = {
    "q_galore": (
        "does not run: q-galore-torch 1.0 reads a setting in each step, `percentile_clipping`, that bitsandbytes 0.50 "
        "lacks. It also waits for CUDA in each step, and the wheel has no INT8 layers, which its weights need"
    ),
}
