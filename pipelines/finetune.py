"""Teach a stream of facts to the model by one method, and score it before and after.

Writes the scores and a patch, which `memlm apply` adds to a checkpoint and `memlm undo` removes.

    python pipelines/finetune.py [recipe] [--method NAME]
"""

from memlm.cli import main_of

if __name__ == "__main__":
    main_of(__doc__, "finetune")
