"""Pretrain the memory model, or with --architecture dense its dense twin, on the prepared blocks.

python pipelines/pretrain.py [recipe] [--field value ...] RAY_AUTH_MODE=token ray job submit
--working-dir . -- python pipelines/pretrain.py --storage s3://bucket/prefix
"""

from memlm.cli import main_of

if __name__ == "__main__":
    main_of(__doc__, "pretrain")
