"""A teacher on disk: any transformers causal language model whose head is one matrix.

Shapes: B sequences, S tokens, T the teacher's hidden size, V vocabulary.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from audit.attest import tree_digest
from distill.errors import TeacherError
from student import device as devices
from student import weights
from student.errors import WeightsError
from student.vocabulary import Vocabulary


class LocalTeacher:
    """A frozen model that says, position by position, what it would write next."""

    def __init__(self, name: str, path: Path, *, device: torch.device, dtype: torch.dtype) -> None:
        """Load the model and its tokenizer.

        Raises:
            TeacherError: the directory holds no such model, or its vocabularies disagree.
        """
        self.name = name
        self.path = path
        self.device = device
        try:
            self.model = load_model(path, device=device, dtype=dtype).requires_grad_(False)
            self.tokenizer = weights.load_tokenizer(path)
        except WeightsError as error:
            raise TeacherError(f"teacher {name!r}: {error}") from error
        self.sha256 = tree_digest(path)
        if len(self.tokenizer) > self.vocab_size:
            raise TeacherError(
                f"teacher {name!r}: its tokenizer has {len(self.tokenizer)} tokens but its head "
                f"only {self.vocab_size}; the two files do not belong together."
            )

    @property
    def head_VT(self) -> torch.Tensor:
        """The output head, in the dtype the model runs in."""
        weight: torch.Tensor = self.model.get_output_embeddings().weight
        return weight

    def cast(self, dtype: torch.dtype) -> None:
        """Run in `dtype` from now on."""
        self.model.to(dtype)

    @property
    def vocab_size(self) -> int:
        """Rows of the output head."""
        return int(self.head_VT.shape[0])

    def vocabulary(self) -> Vocabulary:
        """Return the vocabulary a same-tokenizer student is built for."""
        tokenizer = self.tokenizer
        bos = tokenizer.bos_token_id
        eos = tokenizer.eos_token_id
        if bos is None or eos is None:
            raise TeacherError(
                f"teacher {self.name!r}: its tokenizer names no begin or end token; "
                "add bos_token and eos_token to its tokenizer_config.json."
            )
        pad = eos if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        return Vocabulary(size=self.vocab_size, bos=bos, eos=eos, pad=pad)

    @torch.inference_mode()
    def hidden(self, tokens_BS: torch.Tensor) -> torch.Tensor:
        """Return the last hidden states `[B, S, T]`, whose product with the head is the logits."""
        backbone = self.model.get_decoder()
        return backbone(input_ids=tokens_BS.to(self.device), use_cache=False).last_hidden_state


def load_model(
    path: Path, *, device: torch.device, dtype: torch.dtype = torch.float32
) -> PreTrainedModel:
    """Return the causal language model in `path`, in eval mode.

    Raises:
        WeightsError: there is no model there, or its files are damaged.
    """
    weights.require(path)
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, local_files_only=True, output_loading_info=True
        )
    except Exception as error:  # transformers raises whatever its readers raise
        reason = weights.first_line(error)
        raise WeightsError(f"cannot load the model in {path}: {reason}") from error
    if found["missing_keys"]:  # transformers would go on with random numbers in their place
        missing = sorted(found["missing_keys"])
        raise WeightsError(
            f"cannot load the model in {path}: its files hold no {missing[0]} "
            f"({len(missing)} of its tensors are missing)."
        )
    if not devices.has_grouped_experts(device):
        model.set_experts_implementation("eager")
    return model.to(device).eval()


@torch.inference_mode()
def answer(model: Any, tokenizer: Any, prompt: str, max_tokens: int, *, seed: int) -> str:
    """Return how a model goes on from the plain text `prompt`: a seeded sample at temperature 0.7.

    Greedy text of a young student is one token over and over, which shows a reader nothing.
    """
    ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False).to(model.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        out = model.generate(
            **ids,
            do_sample=True,
            temperature=0.7,
            top_p=0.95,
            max_new_tokens=max_tokens,
            pad_token_id=tokenizer.eos_token_id,
        )
    return str(tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True))
