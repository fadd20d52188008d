"""Write with a local model: any Hugging Face causal model, by folder or hub id, in batches."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, snapshot_download
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from memlm.credentials import HUB as HUB_TOKENS
from memlm.credentials import strip_credentials
from memlm.data.encoding import encode
from memlm.data.tokenizer import HUB_TIMEOUT_SECONDS
from memlm.data.writers.config import WriterConfig
from memlm.data.writers.interface import Request, Writer, WriterError
from memlm.outside import reading, reason_of


def find_revision(model: str, revision: str) -> str:
    """Identifies the exact weights: by their commit on the hub, which the cache knows without a
    network, or by a digest of a folder's files."""
    if Path(model).is_dir():
        digest = hashlib.sha256()
        for path in sorted(path for path in Path(model).iterdir() if path.is_file()):
            with path.open("rb") as file:
                digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
        return f"sha256:{digest.hexdigest()}"
    strip_credentials(*HUB_TOKENS)
    try:
        return Path(snapshot_download(model, revision=revision or None, local_files_only=True)).name
    except (OSError, ValueError):
        pass  # not in the cache
    try:
        return str(HfApi().model_info(model, revision=revision or None, timeout=HUB_TIMEOUT_SECONDS).sha)
    except (
        Exception
    ) as error:  # the hub's client lets errors of its HTTP library through, which changes between releases
        raise _not_loaded(model, next(iter(str(error).splitlines()), type(error).__name__)) from error


PLACE = "\ue000"
"""Placeholder for the prompt while a chat is formatted: a character that no text uses."""


class HuggingFaceWriter(Writer):
    """Gives the prompt as a chat if the model has a chat template, otherwise as a text to
    continue."""

    def __init__(self, config: WriterConfig, *, revision: str, device: torch.device) -> None:
        source: dict[str, Any] = {} if Path(config.model).is_dir() else {"revision": revision}
        source["trust_remote_code"] = False
        try:
            with reading(lambda reason: _not_loaded(config.model, reason)):
                self.tokenizer = AutoTokenizer.from_pretrained(config.model, padding_side="left", **source)
                model = AutoModelForCausalLM.from_pretrained(config.model, dtype="auto", use_safetensors=True, **source)
                self.model = model.to(device).eval()
        except OSError as error:  # the hub's client and transformers raise it, with several lines of text
            raise _not_loaded(config.model, reason_of(error)) from error
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.config = config
        # All sampling parameters are set, because a model's own defaults would sample in ways that
        # the manifest does not record.
        sampled = {"do_sample": True, "temperature": config.temperature, "top_p": config.top_p, "top_k": 0}
        self.generation = GenerationConfig(
            max_new_tokens=config.max_new_tokens,
            eos_token_id=self.model.generation_config.eos_token_id or self.tokenizer.eos_token_id,
            pad_token_id=self.tokenizer.pad_token_id,
            **(sampled if config.temperature > 0 else {"do_sample": False}),
        )

    def write(self, requests: Sequence[Request]) -> list[str]:
        prompts = [self._tokens_of(request.prompt) for request in requests]
        texts = []
        for start in range(0, len(requests), self.config.batch_size):
            batch = slice(start, start + self.config.batch_size)
            texts += self._write_batch(prompts[batch], [request.seed for request in requests[batch]])
        return texts

    def _tokens_of(self, prompt: str) -> list[int]:
        tokens = self._chat_tokens(prompt) if self.tokenizer.chat_template else self.tokenizer(prompt)["input_ids"]
        context = getattr(self.model.config, "max_position_embeddings", None)
        if context and len(tokens) + self.config.max_new_tokens > context:
            raise WriterError(
                f"a prompt has {len(tokens)} tokens, and with writer.max_new_tokens ({self.config.max_new_tokens}) it must fit into the "
                f"{context} of {self.config.model!r}; lower writer.max_new_tokens or questions.documents.chunk_tokens, or name a model with a longer context"
            )
        return tokens

    def _chat_tokens(self, prompt: str) -> list[int]:
        """Tokens of the prompt as a chat. Chat marks that the prompt spells out, as a document may,
        remain part of the user's message."""
        special = [token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special]
        spelled = any(token in prompt for token in special)
        messages = [{"role": "user", "content": PLACE if spelled else prompt}]
        text = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        parts = [self.tokenizer(part, add_special_tokens=False)["input_ids"] for part in text.split(PLACE)]
        return [*parts[0], *encode(self.tokenizer, prompt), *parts[1]] if spelled else parts[0]

    @torch.no_grad()
    def _write_batch(self, prompts: Sequence[Sequence[int]], seeds: Sequence[int]) -> list[str]:
        padded = self.tokenizer.pad({"input_ids": list(map(list, prompts))}, return_tensors="pt").to(self.model.device)
        drawn = hashlib.sha256(repr((self.config.seed, prompts, seeds)).encode()).digest()
        devices = [self.model.device] if self.model.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            # The batch's own content is its seed, so a unit that is written again is identical.
            torch.manual_seed(int.from_bytes(drawn[:8], "big") >> 1)
            written = self.model.generate(
                input_ids=padded["input_ids"],
                attention_mask=padded["attention_mask"],
                generation_config=self.generation,
            )
        answers = written[:, padded["input_ids"].shape[1] :]
        return [text.strip() for text in self.tokenizer.batch_decode(answers, skip_special_tokens=True)]


def _not_loaded(model: str, reason: str) -> WriterError:
    return WriterError(
        f"writer.model {model!r} could not be loaded from a folder or the hub: {reason.rstrip('.')}. Give the folder of a saved model "
        "(safetensors, without code of its own: memlm runs none), a Hugging Face hub id (which needs the network once), or set writer.endpoint.base_url for a model on another server."
    )
