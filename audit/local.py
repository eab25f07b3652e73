"""Models on disk: what they make of a text, and what they write. The one file here with torch.

A model is a transformers directory, or a run directory of `distill`, which also holds the
checkpoint the student started from. Scores are float32 whatever the weights were stored in.

Shapes: B sequences, S tokens, V vocabulary.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from audit.attest import file_digest, tree_digest
from audit.errors import AuditError, InputError
from audit.population import Array
from student import device as devices

_BATCH = 32

Progress = Callable[[str, int, int, str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFiles:
    """Where a model's files are.

    Attributes:
        model: directory of the weights.
        start: directory of the checkpoint before training, where known.
        run: the run directory it came from, where it is one.
    """

    name: str
    model: Path
    start: Path | None
    run: Path | None

    def sha256(self) -> str:
        """Return the digest of the weights' directory."""
        return tree_digest(self.model)

    def inherits(self) -> str | None:
        """Return whose weights the model's own config.json says it began with."""
        try:
            fields = json.loads((self.model / "config.json").read_text(encoding="utf-8"))
        except ValueError:
            return None  # loading it says what is wrong
        stated = fields.get("spiritsafe_inherited") if isinstance(fields, dict) else None
        return str(stated.get("teacher")) if isinstance(stated, dict) else None


def find(name: str, path: Path, start: Path | None = None) -> ModelFiles:
    """Return the files of the model in `path`, a model directory or a run directory.

    Raises:
        InputError: there is no model.
    """
    run = path / "student" / "config.json"
    if run.is_file():
        first = path / "checkpoints" / "step-000000"
        own = first if first.is_dir() else None
        return ModelFiles(name=name, model=path / "student", start=start or own, run=path)
    if not (path / "config.json").is_file():
        what = "an unfinished run directory" if (path / "config.yaml").is_file() else "no model"
        raise InputError(
            f"{name}: {path} is {what}; give a responses file (.jsonl), a model directory, "
            "or a finished run directory."
        )
    return ModelFiles(name=name, model=path, start=start, run=None)


def require_same_vocabulary(models: Sequence[ModelFiles]) -> None:
    """Refuse to compare log-probabilities a token between models that cut tokens differently.

    Raises:
        InputError: names the two that differ.
    """
    digests = {model.name: file_digest(_tokenizer_file(model)) for model in models}
    first = models[0].name
    for name, sha256 in digests.items():
        if sha256 != digests[first]:
            raise InputError(
                f"{first} and {name} have different vocabularies (tokenizer.json differs), so "
                "their log-probabilities a token cannot be compared; use controls with the "
                "suspect's tokenizer."
            )


def _tokenizer_file(model: ModelFiles) -> Path:
    path = model.model / "tokenizer.json"
    if not path.is_file():
        raise InputError(f"{model.name}: {model.model} has no tokenizer.json.")
    return path


class LocalModel:
    """One loaded model with its tokenizer."""

    def __init__(self, path: Path, *, device: torch.device, dtype: torch.dtype) -> None:
        """Load from `path`.

        Raises:
            AuditError: the files are damaged, incomplete, or no causal language model.
        """
        try:
            self.model, found = transformers.AutoModelForCausalLM.from_pretrained(
                path, dtype=dtype, local_files_only=True, output_loading_info=True
            )
            self.tokenizer = transformers.AutoTokenizer.from_pretrained(path, local_files_only=True)
        except Exception as error:  # transformers raises whatever its readers raise
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise AuditError(f"cannot load the model in {path}: {first}") from error
        if found["missing_keys"]:  # transformers would go on with random numbers in their place
            raise AuditError(
                f"cannot load the model in {path}: its files hold no "
                f"{sorted(found['missing_keys'])[0]}; get them again."
            )
        self.model.to(device).eval()
        self.device = device

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    @torch.inference_mode()
    def mean_logprobs(
        self, prompts: Sequence[str], continuations: Sequence[str], tick: Callable[[int], None]
    ) -> Array:
        """Return, for each pair, the mean log-probability a token of the continuation, in nats.

        Prompt and continuation are tokenised apart, so that the same prompt is the same tokens
        whatever follows. `tick` is told how many pairs were scored.
        """
        out = np.empty(len(prompts))
        rows = [(self._ids(p), self._ids(c)) for p, c in zip(prompts, continuations, strict=True)]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]) + len(rows[i][1]))
        for first in range(0, len(order), _BATCH):
            batch = order[first : first + _BATCH]
            for i, value in zip(batch, self._score([rows[i] for i in batch]), strict=True):
                out[i] = value
            tick(len(batch))
        return out

    def _score(self, rows: Sequence[tuple[list[int], list[int]]]) -> list[float]:
        """Score one batch, padded on the right, where causal attention makes padding exact."""
        longest = max(len(prompt) + len(text) for prompt, text in rows)
        pad = self.tokenizer.eos_token_id or 0
        tokens_BS = torch.full((len(rows), longest), pad, dtype=torch.int64)
        mask_BS = torch.zeros_like(tokens_BS)
        for i, (prompt, text) in enumerate(rows):
            length = len(prompt) + len(text)
            tokens_BS[i, :length] = torch.tensor(prompt + text)
            mask_BS[i, :length] = 1
        tokens_BS, mask_BS = tokens_BS.to(self.device), mask_BS.to(self.device)
        logits_BSV = self.model(input_ids=tokens_BS, attention_mask=mask_BS, use_cache=False).logits
        values = []
        for i, (prompt, text) in enumerate(rows):
            span = slice(len(prompt) - 1, len(prompt) + len(text) - 1)
            logp_SV = logits_BSV[i, span].float().log_softmax(-1)
            labels_S1 = tokens_BS[i, len(prompt) : len(prompt) + len(text), None]
            values.append(float(logp_SV.gather(1, labels_S1).mean()))
        return values

    @torch.inference_mode()
    def continuations(
        self,
        prompts: Sequence[str],
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
        tick: Callable[[int], None],
    ) -> list[str]:
        """Return one sampled continuation of each prompt.

        Prompts of equal length are continued together, so no padding enters; `seed` fixes the
        sample on one machine and version of torch.
        """
        ids = [self._ids(prompt) for prompt in prompts]
        by_length: dict[int, list[int]] = defaultdict(list)
        for i, row in enumerate(ids):
            by_length[len(row)].append(i)
        out = [""] * len(prompts)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for length in sorted(by_length):
                same = by_length[length]
                for first in range(0, len(same), _BATCH):
                    batch = same[first : first + _BATCH]
                    texts = self._continue([ids[i] for i in batch], max_tokens, temperature)
                    for i, text in zip(batch, texts, strict=True):
                        out[i] = text
                    tick(len(batch))
        return out

    def _continue(self, ids: Sequence[list[int]], max_tokens: int, temperature: float) -> list[str]:
        tokens_BS = torch.tensor(ids, device=self.device)
        settings: dict[str, Any] = {"do_sample": True, "temperature": temperature, "top_k": 0}
        out_BS = self.model.generate(
            tokens_BS,
            attention_mask=torch.ones_like(tokens_BS),
            generation_config=transformers.GenerationConfig(
                **settings,
                top_p=1.0,
                max_new_tokens=max_tokens,
                eos_token_id=self.tokenizer.eos_token_id,
                pad_token_id=self.tokenizer.eos_token_id,
            ),
        )
        new_BS = out_BS[:, tokens_BS.shape[1] :]
        return [str(t) for t in self.tokenizer.batch_decode(new_BS, skip_special_tokens=True)]


def load(path: Path, device_name: str, *, exact: bool) -> LocalModel:
    """Return the model in `path`: in float32 for scores (`exact`), else in the quickest dtype."""
    device = devices.pick(device_name)
    dtype = torch.float32 if exact else devices.compute_dtype(device)
    return LocalModel(path, device=device, dtype=dtype)
