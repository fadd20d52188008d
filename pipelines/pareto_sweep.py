"""Sweep every method over its settings and seeds, and draw the learning-forgetting frontier.
Makes whatever it needs first.

python pipelines/pareto_sweep.py [recipe] --dry-run python pipelines/pareto_sweep.py [recipe]
[--sweep.methods sparse_memory lora full] [--field value ...] RAY_AUTH_MODE=token ray job submit
--working-dir . -- python pipelines/pareto_sweep.py --storage s3://bucket/prefix
"""

from memlm.cli import job_of, launch, parse

if __name__ == "__main__":
    config = parse(__doc__, stage="pareto_sweep")

    def sweep() -> None:
        from tune_spaces import load_spaces

        # Before the job is imported, so that an unknown method ends in a moment.
        spaces = load_spaces(config.sweep.methods, config.sweep.scale)
        job_of(config, "pareto_sweep")(config, spaces)

    launch(sweep)
