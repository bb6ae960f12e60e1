#!/bin/bash
# SmolLM2-135M-Instruct on grade-school mathematics, whole, on one GPU: the rates, and those beyond an edge, then five
# seeds, of which several jobs share the GPU, so that their speeds rank nothing; then each method alone for its speed.
#   sweeps/smollm2_gsm8k_gpu.sh SECONDS JOBS [WORDS...]
# After SECONDS all is stopped; what had finished is kept, and the same command goes on from there. (NVIDIA's
# Multi-Process Service, where it runs, lets the jobs' kernels run at the same time.)
set -uo pipefail
ends=$((SECONDS + $1))
words=("${@:3}" tracker=none)
beside=(hydra/launcher=joblib "jobs_per_device=$2")
log=outputs/smollm2_gsm8k_tune.log
mkdir -p outputs

train() {
    local left=$((ends - SECONDS))
    [ "$left" -gt 0 ] || exit 124
    timeout --signal=INT --kill-after=60 "$left" python train.py "$@"
    local code=$?
    [ $code -lt 2 ] || exit $code  # 1 says that a job failed; the others may still tell something
}

train -cd sweeps -cn smollm2_gsm8k_tune "${words[@]}" "${beside[@]}" 2>&1 | tee "$log" || exit
# One job after another in each, since a launcher's worker for every core would start in each, too; with one thread, as
# the launcher's jobs have.
while read -r _ _ further; do
    OMP_NUM_THREADS=1 eval "train ${further/hydra\/launcher=joblib /}" &
done < <(grep '^  python .*train.py ' "$log")
wait

train -cd sweeps -cn smollm2_gsm8k_compare "${words[@]}" "${beside[@]}"

train -cd sweeps -cn smollm2_gsm8k_compare "${words[@]}" tuned=null seed=1 max_steps=30 epochs=null test=false \
    exact_match=null exact_match_batch_size=null hydra.sweep.dir=outputs/smollm2_gsm8k_alone
