"""Finetune with every method, setting and seed, and draw the frontier of learning against
forgetting.

Makes the corpus, checkpoints and counts first if they are missing.

    python pipelines/pareto_sweep.py [recipe] --dry-run
    python pipelines/pareto_sweep.py [recipe] [--sweep.methods sparse_memory lora full]
"""

from memlm.cli import job_of, launch, parse

if __name__ == "__main__":
    config = parse(__doc__, stage="pareto_sweep")

    def sweep() -> None:
        from tune_spaces import load_spaces

        # Loaded before the job's imports, so that an unknown method fails at once.
        spaces = load_spaces(config.sweep.methods, config.sweep.scale)
        job_of(config, "pareto_sweep")(config, spaces)

    launch(sweep)
