"""Dask workers as Slurm jobs (``pip install dask-jobqueue``), one GPU each. Run it where ``sbatch`` can be called:

python docs/examples/cluster/slurm_dask.py 8
"""

import subprocess
import sys

from dask_jobqueue import SLURMCluster

workers = int(sys.argv[1]) if len(sys.argv) > 1 else 4
cluster = SLURMCluster(
    cores=2,  # one shard is computed while the one before it is committed
    processes=1,
    memory="32GB",
    walltime="12:00:00",
    job_cpu=8,
    job_extra_directives=["--gres=gpu:1"],
    job_script_prologue=["source .venv/bin/activate"],
)
cluster.scale(workers)
command = [sys.executable, "cli.py", "extract", "--executor", "dask", "--scheduler", cluster.scheduler_address]
sys.exit(subprocess.run(command).returncode)
