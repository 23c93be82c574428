"""Where the runs of a sweep may be started: Hydra's launchers that this project knows."""

LAUNCHERS = {
    "basic": "one after the other, in this process",
    "joblib": "beside each other on this machine: hydra.launcher.n_jobs=N",
    "submitit_local": "as processes of their own on this machine, with logs",
    "submitit_slurm": "as jobs of a Slurm cluster: hydra.launcher.partition=NAME",
}
"""By the name behind ``hydra/launcher=``; all but the first come with the extra ``sweeps``."""
