"""Score a checkpoint on the facts to learn, the held-out questions and the held-out text.

python pipelines/evaluate.py [recipe] [--checkpoint URI]
"""

from memlm.cli import main_of

if __name__ == "__main__":
    main_of(__doc__, "evaluate")
