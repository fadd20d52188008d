"""Pretrain the memory model, or its dense twin (--architecture dense), on the prepared blocks.

python pipelines/pretrain.py [recipe] [--architecture dense]
"""

from memlm.cli import main_of

if __name__ == "__main__":
    main_of(__doc__, "pretrain")
