#!/bin/bash
# Eight jobs of a Slurm array, each with a GPU of its own. No job knows of the others; any of them may be stopped and started again.
# Submit:  sbatch docs/examples/cluster/slurm_array.sh
#SBATCH --job-name=elisa-extract
#SBATCH --array=0-7
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@60
#SBATCH --output=extract-%A_%a.log
set -u

params=${PARAMS:-params.yaml}
source .venv/bin/activate

# srun passes SIGTERM on. Exit code 75: stopped, or waiting for another part; the job goes into the queue again and goes on from there.
srun python cli.py --params "$params" extract --part "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT"
code=$?
if [ "$code" -eq 75 ]; then
    scontrol requeue "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"
fi
exit "$code"
