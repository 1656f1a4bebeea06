#!/bin/bash
# Trains a table on four nodes: sbatch examples/cluster/slurm.sh
# Table, checkpoint and model lie in the directory that sbatch was called from, which all nodes must share.
#SBATCH --job-name=backlit
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1      # one process a node; with GPUs one for each: 8, and --gpus-per-task=1
#SBATCH --cpus-per-task=16
#SBATCH --time=04:00:00
#SBATCH --requeue                # after a lost node the job starts again, and goes on from its checkpoint
#SBATCH --open-mode=append

set -euo pipefail

# An environment with `pip install 'backlit[tables,xla]'`, on GPUs also `pip install 'jax[cuda12]'`.
# shellcheck source=/dev/null
source "${BACKLIT_ENV:-$HOME/backlit}/bin/activate"

# Coordinator, number of processes and process id are found from what srun sets. As soon as one task ends with an error
# all are ended, and the job is put back into the queue.
if ! srun --kill-on-bad-exit=1 backlit train "${TABLE:-table.parquet}" --target "${TARGET:-price}" --distributed \
    --heartbeat 60 --checkpoint run.backlit --out model; then
    if [ "${SLURM_RESTART_COUNT:-0}" -lt 5 ]; then
        scontrol requeue "$SLURM_JOB_ID"
    fi
    exit 1
fi
