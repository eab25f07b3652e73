"""A teacher on disk: any transformers causal language model whose head is one matrix.

Shapes: B sequences, S tokens, T the teacher's hidden size, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from audit.attest import tree_digest
from distill.errors import TeacherError
from distill.heads import logits
from distill.signals import Head
from student import device as devices
from student import weights
from student.errors import WeightsError

_TOKENS = 8192  # in work at once, pads among them
# Of the largest logit, in bfloat16: a head applied in another order.
_HEAD_GAP = 2**-5
# Of what a change of earlier tokens does to later states: rounding alone, in bfloat16.
_LEAK = 2**-5


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
        self.head = _head(self.model)
        self._keeps_apart = False  # as far as is known
        if len(self.tokenizer) > self.vocab_size:
            raise TeacherError(
                f"teacher {name!r}: its tokenizer has {len(self.tokenizer)} tokens but its head "
                f"only {self.vocab_size}; the two files do not belong together."
            )
        self._require_plain_head()

    def move(self, device: torch.device) -> None:
        """Bring weights and head to `device`."""
        if device != self.device:
            self.model.to(device)
            self.device, self.head = device, _head(self.model)

    def cast(self, dtype: torch.dtype) -> None:
        """Run in `dtype` from now on."""
        self.model.to(dtype)
        self.head = _head(self.model)

    @property
    def vocab_size(self) -> int:
        """Rows of the output head."""
        return int(self.head.weight_VT.shape[0])

    @property
    def width(self) -> int:
        """T, the size of its last hidden state."""
        return int(self.head.weight_VT.shape[1])

    @torch.inference_mode()
    def hidden(self, token_BS: torch.Tensor, start_BS: torch.Tensor | None = None) -> torch.Tensor:
        """Return the last hidden states `[B, S, T]`, which `head` turns into logits.

        Args:
            token_BS: int64.
            start_BS: bool, where the context begins anew inside a row; None where it does not.
                transformers keeps what follows from what was before by its position ids.

        Raises:
            TeacherError: the model cannot begin anew inside a row.
        """
        if start_BS is not None and not self._keeps_apart:
            self._require_apart()
        return self._states(token_BS, start_BS)

    def _states(self, token_BS: torch.Tensor, start_BS: torch.Tensor | None) -> torch.Tensor:
        position_BS = None if start_BS is None else _positions(start_BS).to(self.device)
        backbone = self.model.get_decoder()
        made = backbone(
            input_ids=token_BS.to(self.device), position_ids=position_BS, use_cache=False
        )
        return made.last_hidden_state

    @torch.inference_mode()
    def _require_plain_head(self) -> None:
        """Refuse a model that does more to its logits than `head` does.

        Raises:
            TeacherError: it scales them, for example.
        """
        token_BS = torch.arange(min(8, self.vocab_size), device=self.device)[None]
        theirs_NV = self.model(input_ids=token_BS, use_cache=False).logits[0].float()
        ours_NV = logits(self.hidden(token_BS)[0], self.head)
        gap = float((ours_NV - theirs_NV).abs().max())
        if not gap <= _HEAD_GAP * max(1.0, float(theirs_NV.abs().max())):
            raise TeacherError(
                f"teacher {self.name!r}: its logits are not its head's product with its last "
                f"hidden states, even with bias and soft cap (they differ by {gap:.3g}); models "
                "that scale their logits are not supported as teachers."
            )

    def _require_apart(self) -> None:
        """Refuse a model in which what follows a start still depends on what was before it.

        So it is with recurrent layers, and where a model takes no position ids.

        Raises:
            TeacherError: it does.
        """
        token_BS = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3], [3, 2, 1, 0, 0, 1, 2, 3]])
        start_BS = (torch.arange(8) % 4 == 0).expand(2, -1)
        apart, joined = (
            float((states_BST[0, 4:] - states_BST[1, 4:]).abs().max())
            for states_BST in (self._states(token_BS, one).float() for one in (start_BS, None))
        )
        if not apart <= _LEAK * joined:
            raise TeacherError(
                f"teacher {self.name!r}: its documents cannot be kept apart, for "
                f"{self.model.config.model_type} models do not begin anew at a position; set "
                "text.documents: joined."
            )
        self._keeps_apart = True


def _head(model: PreTrainedModel) -> Head:
    """Return a model's output head, in the dtype the model runs in."""
    layer = model.get_output_embeddings()
    cap = model.config.get_text_config().to_dict().get("final_logit_softcapping")
    bias = layer.bias if isinstance(layer, torch.nn.Linear) else None
    return Head(layer.weight, bias, None if cap is None else float(cap))


def _positions(start_BS: torch.Tensor) -> torch.Tensor:
    """Return each token's place after the last start before it, int64 `[B, S]`."""
    place_S = torch.arange(start_BS.shape[1], device=start_BS.device)
    begun_BS = torch.where(start_BS, place_S, 0).cummax(dim=1).values
    return place_S - begun_BS


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


def write(
    teacher: LocalTeacher, prompts: Sequence[str], max_tokens: int, temperature: float, *, seed: int
) -> list[str]:
    """Return how a teacher goes on from each text; texts begin as documents do."""
    tokenizer = teacher.tokenizer
    found: dict[int, list[int]] = {}
    rows = [tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]
    bos = tokenizer.bos_token_id
    rows = [row if bos is None or row[:1] == [bos] else [bos, *row] for row in rows]
    for part in rows_alike([len(row) + max_tokens for row in rows]):
        asked = [rows[i] for i in part]
        written = write_tokens(teacher, asked, max_tokens, temperature, seed=seed)
        found |= zip(part, written, strict=True)
    return [str(tokenizer.decode(found[i], skip_special_tokens=True)) for i in range(len(rows))]


@torch.inference_mode()
def write_tokens(
    teacher: LocalTeacher,
    rows: Sequence[list[int]],
    max_tokens: int,
    temperature: float = 0.0,
    *,
    seed: int = 0,
) -> list[list[int]]:
    """Return the tokens a teacher writes after each row, to the end token of the longest.

    At temperature 0 the likeliest token is taken; otherwise all rows share one stream of random
    numbers.
    """
    model = teacher.model
    ends = _ends(model.generation_config.eos_token_id, teacher.tokenizer.eos_token_id)
    longest = max(map(len, rows))
    filled = [[0] * (longest - len(row)) + row for row in rows]
    mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
    sampled = {"temperature": temperature, "top_k": 0} if temperature else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        written = model.generate(
            input_ids=torch.tensor(filled, device=teacher.device),
            attention_mask=torch.tensor(mask, device=teacher.device),
            generation_config=GenerationConfig(
                do_sample=temperature > 0,
                **sampled,
                max_new_tokens=max_tokens,
                repetition_penalty=1.0,
                pad_token_id=min(ends, default=0),  # which is no part of a text
                eos_token_id=ends or None,
            ),
        )
    tokens: list[list[int]] = written[:, longest:].tolist()
    return tokens


def _ends(models: int | list[int] | None, tokenizers: int | None) -> list[int]:
    """Return all tokens that end an answer: those the model comes with, and the tokenizer's."""
    listed = models if isinstance(models, list) else [models]
    return sorted({token for token in (*listed, tokenizers) if token is not None})


def rows_alike(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yield the places of rows, the longest first, as many at a time as are not too many tokens."""
    left = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    while left:
        count = max(1, _TOKENS // lengths[left[0]])
        yield left[:count]
        left = left[count:]
