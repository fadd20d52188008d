"""Let one method learn a stream of facts; writes its scores and a patch that 'memlm apply' and
'memlm undo' take.

python pipelines/finetune.py [recipe] [--method NAME] [--field value ...] RAY_AUTH_MODE=token ray
job submit --working-dir . -- python pipelines/finetune.py --storage s3://bucket/prefix
"""

from memlm.cli import main_of

if __name__ == "__main__":
    main_of(__doc__, "finetune")
