#!/usr/bin/env bash
# A stage on one machine, or on several, by torchrun; here NEG. From the repository, on one machine with 8 GPUs:
#   STUDENT=meta-llama/Llama-3.1-8B bash docs/cluster/torchrun.sh
# On two machines, the same line on both, but for NODE_RANK:
#   STUDENT=… NODES=2 NODE_RANK=0 MASTER_ADDR=host0 bash docs/cluster/torchrun.sh
# More options are those of `fit` and override what stands here: bash docs/cluster/torchrun.sh --trainer.max_epochs 1
# Killed, by whatever: start it again on all machines, and it goes on from the last checkpoint.
set -euo pipefail
: "${STUDENT:?the base: a Hugging Face directory or a hub name}"

NODES=${NODES:-1}
GPUS=${GPUS:-8}                                  # of each machine: one process per GPU
RUN=${RUN:-runs/mine}                            # a file system that all machines share
export HF_HOME=${HF_HOME:-$HOME/.cache/huggingface}   # shared too, or filled on each machine beforehand
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-8}     # cores of a machine / GPUs
export NCCL_DEBUG=${NCCL_DEBUG:-WARN}            # INFO says which network NCCL chose
# export NCCL_SOCKET_IFNAME=eth0                 # where it chooses wrongly; GLOO_SOCKET_IFNAME for processes on CPUs

exec torchrun --nnodes "$NODES" --nproc-per-node "$GPUS" --node-rank "${NODE_RANK:-0}" --max-restarts 0 \
    --master-addr "${MASTER_ADDR:-127.0.0.1}" --master-port "${MASTER_PORT:-29500}" \
    cli.py fit --config configs/neg.yaml --config configs/trainer/multi_node.yaml \
    --trainer.num_nodes "$NODES" --trainer.devices "$GPUS" \
    --model.student "$STUDENT" \
    --data.train "$RUN/data/negative.jsonl" --trainer.default_root_dir "$RUN/neg" "$@"
