"""Options of `memlm attach`."""

import argparse


def attach_parser(program: str) -> argparse.ArgumentParser:
    """Parser of the arguments of `attach`, which have its names."""
    parser = argparse.ArgumentParser(
        prog=program,
        description="Put a memory into a causal language model, which then learns facts as memlm's own models do.",
        allow_abbrev=False,
    )
    parser.add_argument("base", help="folder or GGUF file of the model, or its id on the hub: owner/name@commit")
    parser.add_argument("out", help="new folder or s3://bucket/prefix to write to")
    parser.add_argument("--layer", type=int, required=True, help="decoder layer, counted from 0")
    parser.add_argument("--slots", type=int, required=True, help="number of slots, a square")
    parser.add_argument(
        "--placement",
        choices=("parallel", "replace"),
        default="parallel",
        help="add the memory to the layer's feed-forward network (default), or replace it",
    )
    parser.add_argument(
        "--form",
        choices=("whole", "adapter"),
        default="whole",
        help="write the whole model (default), or the memory alone, which is loaded into the base",
    )
    parser.add_argument("--heads", type=int, default=4, dest="num_heads", help="(default: 4)")
    parser.add_argument("--top-k", type=int, help="slots read per head and token (default: 16)")
    parser.add_argument("--key-dim", type=int, help="width of a query (default: 128)")
    parser.add_argument("--value-dim", type=int, help="width of a value (default: that of the base)")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto", help="(default: the base's)")
    parser.add_argument(
        "--keys",
        choices=("fitted", "random"),
        default="fitted",
        help="fit the keys to text, so that every slot is used (default), or draw them at random",
    )
    parser.add_argument(
        "--text", help="folder of text to fit the keys to, as shards (default: text that the model writes by itself)"
    )
    parser.add_argument(
        "--key-tokens", type=int, help="tokens to fit the keys to (default: 16,384, or 48 per half-key)"
    )
    parser.add_argument(
        "--probes",
        type=int,
        default=20,
        dest="num_probes",
        help="facts that it learns and forgets again, to measure it (default: 20)",
    )
    parser.add_argument(
        "--control", action="store_true", help="also measure a dense network in its place that computes as much"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the keys (default: 0)")
    return parser
