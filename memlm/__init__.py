"""memlm: teach a language model new facts without breaking what it knew.

The path of the data, which is also the map of the code:

    corpus shards --jobs/prepare_corpus--> token blocks --jobs/pretrain--> checkpoint
    --jobs/count_accesses--> background counts facts --> data/facts: stream of batches -->
    training/finetune: one method, one stream --> learned model, patch, scores many of those
    --jobs/pareto_sweep--> frontier: learning against forgetting

To read the paper's method (Lin et al. 2025, arXiv 2510.15103): slots/ in the order accesses,
counts, ranking, selection; then methods/sparse_memory.py; then training/step.py.
"""

from memlm.model.registration import register_when_imported

register_when_imported()
