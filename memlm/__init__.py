"""memlm: teach a language model new facts without breaking what it knew.

The path of the data, which is also the map of the code:

    corpus shards --jobs/prepare_corpus--> token blocks --jobs/pretrain--> checkpoint
    checkpoint --jobs/count_accesses--> background counts
    facts --data/questions--> stream of batches
    checkpoint, counts, stream --training/finetune: one method--> learned model, patch, scores
    many finetunes --jobs/pareto_sweep--> frontier of learning against forgetting

To read the paper's method (Lin et al. 2025, arXiv 2510.15103), start with slots/ in the order
accesses, counts, ranking, selection; then read methods/parts/sparse_memory_finetuning.py and
training/step.py.
"""

from memlm.model.registration import register_when_imported

register_when_imported()
