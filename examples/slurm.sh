#!/bin/sh
# slurm.sh: one run on many GPUs under Slurm, resumed where it was cut off.
#
#     sbatch --nodes=4 examples/slurm.sh run.yaml runs/mine [--set KEY=VALUE]...
#
# The run file says `backend: cuda`, and its `accumulation` is a multiple of the number of ranks (docs/many-processes.md). All nodes see
# run file, data and run folder under the same names. Ten minutes before the time is up every rank gets SIGTERM: the run
# writes a checkpoint and ends with status 1, the job is put back into the queue, and the next start goes on to the same bits.
#SBATCH --job-name=nibble
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@600
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=nibble-%j.log
set -eu
[ $# -ge 2 ] || { echo "usage: sbatch slurm.sh RUN.yaml FOLDER [--set KEY=VALUE]..." >&2; exit 2; }
run=$1 folder=$2
shift 2

export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"
has_checkpoint() {
    [ -n "$(find "$folder/checkpoints" -maxdepth 1 -name 'step-*' 2> /dev/null)" ]
}
if has_checkpoint; then
    set -- "$@" --resume
fi

status=0
srun "${NIBBLE:-nibble}" train "$run" --set "out=$folder" "$@" || status=$?
# 1 and a checkpoint: it was stopped. A wrong run file (2), or a run that never began, is not tried again.
if [ "$status" = 1 ] && has_checkpoint && [ "${SLURM_RESTART_COUNT:-0}" -lt 100 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
