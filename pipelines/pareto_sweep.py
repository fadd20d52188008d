"""Sweep every method over its settings and seeds, and draw the learning-forgetting frontier. Makes whatever it needs first.

python pipelines/pareto_sweep.py [recipe] [--sweep.methods sparse_memory lora full] [--field value ...]
ray job submit --working-dir . -- python pipelines/pareto_sweep.py --storage s3://bucket/prefix
"""

from memlm.cli import launch, parse

if __name__ == "__main__":
    config = parse(__doc__)

    def sweep() -> None:
        from tune_spaces import load_spaces

        spaces = load_spaces(config.sweep.methods, config.sweep.scale)
        from memlm.jobs.pareto_sweep import run

        run(config, spaces)

    launch(sweep)
