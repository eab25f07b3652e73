"""The network of a student, both families, from tokens to what the output head reads.

Read top-down: `Student` runs its blocks over one stream of documents and then its prediction
layers. `block.py` has a layer, `beginning.py` what its weights are at first.

Shapes: N tokens of the stream, D hidden_size, M streams of v4's residual, V vocabulary, E experts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from student.arguments import whole
from student.beginning import initialise
from student.block import Made, MLABlock, Pass, V4Block
from student.cache import Clock, EntryMaker, IndexCache, MLACache, V4Cache
from student.choices import Choices
from student.config import MLAConfig, V4Config
from student.documents import Documents
from student.errors import ShapeError
from student.fit import (
    check_cache,
    check_choices,
    check_documents,
    check_entries,
    check_experts,
    check_step,
    check_tokens,
)
from student.hyper_connection import StreamHead
from student.mla import MLAPositions
from student.mtp import MLAPredictor, V4Predictor
from student.norm import RMSNorm
from student.rotary import Angles, angles, frequencies
from student.v4_attention import Memory, Positions, Turns, Wheels
from student.vocabulary import Vocabulary

if TYPE_CHECKING:
    from student.generate import Sampling


class Ahead(NamedTuple):
    """What a prediction layer made: row p predicts what the main head predicts at `target_P[p]`.

    Attributes:
        hidden_PD: what the shared head reads.
        target_P: int64 places in the stream, on the student's device.
        target: the same on the host.
    """

    hidden_PD: torch.Tensor
    target_P: torch.Tensor
    target: np.ndarray


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """One forward pass.

    Attributes:
        hidden_ND: normed; the output head reads it.
        ahead: a depth of multi-token prediction each, empty unless asked for.
        choices: what routers and indexers chose.
        loads: float32 `[E]` a layer, tokens each expert was given; None in dense layers.
            Prediction layers, where they ran, come last.
        balance_loss: sum over layers, to be weighted (1e-4 in both reports); 0 unless asked for.
        index_loss: sum over indexers, in nats; moves nothing but them; 0 unless asked for.
        memory: what cached decoding keeps, a layer each.
    """

    hidden_ND: torch.Tensor
    ahead: tuple[Ahead, ...]
    choices: Choices
    loads: tuple[torch.Tensor | None, ...]
    balance_loss: torch.Tensor
    index_loss: torch.Tensor
    memory: tuple[Memory | torch.Tensor, ...]


@dataclass(frozen=True, slots=True)
class Cache:
    """What decoding remembers: how far each sequence is, a table a layer, and v4's wheels."""

    clock: Clock
    layers: list[MLACache | V4Cache]
    wheels: Wheels | None


class Prefilled(NamedTuple):
    """Prompts that were run: what the head reads at the end of each, and their cache."""

    hidden_BD: torch.Tensor
    cache: Cache


class Student(nn.Module):
    """A causal language model of either family.

    `Student.build` makes one from a seed, `Student.load` reads one from disk.
    """

    def __init__(self, config: MLAConfig | V4Config, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.config, self.vocabulary = config, vocabulary
        d, eps = config.hidden_size, config.rms_norm_eps
        self.embed = nn.Embedding(vocabulary.size, d)
        self.layers = nn.ModuleList(_blocks(config, vocabulary.size))
        self.norm = RMSNorm(d, eps)
        self.stream_head = StreamHead(config) if isinstance(config, V4Config) else None
        self.mtp = nn.ModuleList(_predictors(config, vocabulary.size))
        if not config.tie_word_embeddings:
            self.head = nn.Linear(d, vocabulary.size, bias=False)
        for name, frequency_R in _frequencies(config).items():
            self.register_buffer(name, frequency_R, persistent=False)

    @classmethod
    def build(
        cls,
        config: MLAConfig | V4Config,
        vocabulary: Vocabulary,
        *,
        seed: int = 0,
        device: torch.device | None = None,
    ) -> "Student":
        """Return a new student in float32; no random state but its own is used.

        Raises:
            ConfigError: the seed is no whole number from 0 on.
        """
        whole("seed", seed, 0)
        with torch.random.fork_rng(devices=[]):  # what layers begin with is drawn, and replaced
            student = cls(config, vocabulary).float()
        initialise(student, seed)
        return student.to(device or torch.device("cpu"))

    @classmethod
    def load(cls, path: Path | str, *, device: torch.device | None = None) -> "Student":
        """Return the student in the directory `path`; see `student.weights.load`.

        Raises:
            WeightsError: there is none, or its files are damaged or not of these families.
        """
        from student import weights  # files know the network; the network need not know files

        return weights.load(Path(path), device=device or torch.device("cpu"))

    def save(self, path: Path | str, tokenizer: Any = None) -> None:
        """Write the released layout, which transformers loads; see `student.weights.save`.

        Raises:
            WeightsError: the disk refused; what stood at `path` before still stands.
        """
        from student import weights

        weights.save(self, tokenizer, Path(path))

    def generate(
        self,
        prompts: Sequence[Sequence[int]] | torch.Tensor,
        *,
        max_new_tokens: int,
        sampling: "Sampling | None" = None,
        stop: Sequence[int] | None = None,
    ) -> list[list[int]]:
        """Return what the student writes after each prompt; see `student.generate.generate`."""
        from student.generate import generate

        return generate(self, prompts, max_new_tokens=max_new_tokens, sampling=sampling, stop=stop)

    def head_weight(self) -> nn.Parameter:
        """Return the output projection `[V, D]`, which is the embedding where they are tied."""
        table: nn.Module = self.embed if self.config.tie_word_embeddings else self.head
        return table.get_parameter("weight")

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embed.weight.device

    def blocks(self) -> Iterator[MLABlock | V4Block]:
        """Yield every block, prediction layers' last, in the order of `Output.loads`."""
        for module in (*self.layers, *(predictor.block for predictor in self.mtp)):
            assert isinstance(module, MLABlock | V4Block)
            yield module

    def forward(
        self,
        token_N: torch.Tensor,
        documents: Documents,
        *,
        replay: Choices | None = None,
        dense: bool = False,
        losses: bool = False,
        ahead: bool = False,
        recompute: bool = False,
    ) -> Output:
        """Run the student on one stream of documents.

        Args:
            token_N: int64 tokens on the student's device.
            documents: where documents begin and end; on the same device.
            replay: choices to repeat where they are given.
            dense: v4: attend to every entry seen; the stage before sparse attention.
            losses: compute the balance and indexer losses.
            ahead: run the prediction layers too.
            recompute: keep each block's input alone and run the block again in the backward pass.

        Raises:
            ShapeError: tokens, documents or choices do not fit the student or one another; a
                token outside the vocabulary is seen on the CPU alone.
        """
        check_documents(documents, self.config.max_position_embeddings, self.device)
        check_tokens("token_N", token_N, self.vocabulary.size, self.device)
        if token_N.shape != (documents.num_tokens,):
            raise ShapeError(
                f"token_N has shape {tuple(token_N.shape)}; documents of {documents.num_tokens} "
                "tokens need one dimension of that length."
            )
        run = _Run(self.config, replay, dense, losses, recompute)
        positions = self.positions(documents)
        state = self._embed(token_N)
        for module in self.layers:
            state = run.block(module, state, positions, token_N)
        hidden_ND = self.norm(state if self.stream_head is None else self.stream_head(state))
        further: list[Ahead] = []
        if ahead:
            state = hidden_ND if self.stream_head is None else state
            further = self._look_ahead(run, state, token_N, documents)
        return run.output(hidden_ND, further)

    def _look_ahead(
        self, run: "_Run", state: torch.Tensor, token_N: torch.Tensor, documents: Documents
    ) -> list[Ahead]:
        """Run the prediction layers, each on a stream one token a document shorter."""
        further: list[Ahead] = []
        left: Documents | None = documents
        for depth, predictor in enumerate(self.mtp, start=1):
            assert isinstance(predictor, MLAPredictor | V4Predictor) and left is not None
            cut, step = documents.shortened(depth), left.shortened(1)
            left = step.documents
            if left is None:
                break
            target_P = cut.kept_P + depth
            later_P = token_N[target_P]
            state = predictor.join(self.embed(later_P), state[step.kept_P])
            state = run.block(predictor.block, state, self.positions(left), later_P)
            read_PD = predictor.read(state)
            further.append(Ahead(read_PD, target_P, cut.kept + depth))
            state = read_PD if self.stream_head is None else state
        return further

    @torch.no_grad()
    def remember(self, token_N: torch.Tensor, documents: Documents, capacity: int) -> "Prefilled":
        """Run prompts, a document each, and keep what decoding needs of them; no gradient is kept.

        Args:
            token_N: int64 tokens on the student's device.
            documents: the prompts.
            capacity: tokens a sequence may reach, prompt included.

        Raises:
            ShapeError: a prompt is longer than `capacity`, or capacity than the student's, or
                tokens and documents do not fit.
        """
        longest = self.config.max_position_embeddings
        check_documents(documents, longest, self.device)
        whole("capacity", capacity, 1)
        if capacity > longest:
            raise ShapeError(
                f"capacity is {capacity} tokens, more than max_position_embeddings ({longest})."
            )
        clock = Clock(documents.lengths, capacity, self.device)
        output = self(token_N, documents)
        caches = []
        for block, memory in zip(self.layers, output.memory, strict=True):
            assert isinstance(block, MLABlock | V4Block)
            caches.append(self._cache(block, clock, documents, memory))
        hidden_BD = output.hidden_ND[documents.last()]
        wheels = None
        if isinstance(self.config, V4Config):
            main_R, compress_R = self.get_buffer("main_R"), self.get_buffer("compress_R")
            wheels = Wheels(self.config, main_R, compress_R)
        return Prefilled(hidden_BD, Cache(clock, caches, wheels))

    def _cache(
        self,
        block: "MLABlock | V4Block",
        clock: Clock,
        documents: Documents,
        memory: Memory | torch.Tensor,
    ) -> MLACache | V4Cache:
        if isinstance(memory, torch.Tensor):
            kept = MLACache(clock, memory.shape[-1], memory.dtype)
            kept.fill(documents, memory)
            return kept
        assert isinstance(block, V4Block)
        attn, frequency_R = block.attn, self.get_buffer("compress_R")
        dtype, maker, index = memory.key_NF.dtype, None, None
        if attn.compressor is not None:
            maker = EntryMaker(clock, attn.compressor, frequency_R, dtype)
        if attn.indexer is not None and memory.index_entry_TF is not None:
            assert memory.index_makings is not None
            of_index = EntryMaker(clock, attn.indexer.compressor, frequency_R, dtype)
            index = IndexCache(clock, of_index, dtype)
            index.fill(documents, memory.index_entry_TF, memory.index_makings)
        table = V4Cache(clock, attn.window, memory.key_NF.shape[-1], maker, index, dtype)
        table.fill(documents, memory.key_NF, memory.entry_TF, memory.makings)
        return table

    @torch.no_grad()
    def decode(
        self, token_B: torch.Tensor, cache: "Cache", *, replay: Choices | None = None
    ) -> tuple[torch.Tensor, Choices]:
        """Run one more token of each sequence; no gradient is kept.

        Args:
            token_B: int64 tokens on the student's device.
            cache: from `remember`; moved on by one token.
            replay: entries to attend to in place of the indexer's choice, places in each
                sequence's own entries.

        Returns:
            hidden_BD: what the output head reads.
            choices: of experts and of entries.

        Raises:
            ShapeError: the cache is full, or made for another batch, or tokens or choices do not
                fit.
        """
        clock = cache.clock
        check_tokens("token_B", token_B, self.vocabulary.size, self.device)
        if token_B.shape != clock.place_B.shape:
            raise ShapeError(
                f"token_B has shape {tuple(token_B.shape)}; the cache holds "
                f"{len(clock.place)} sequences, so give one token for each."
            )
        check_cache(cache.layers, self.config)
        if replay is not None:
            check_step(replay, token_B, clock.place_B, self.config)
        clock.check_room()
        # Prediction layers, the last of the blocks, have no part in decoding.
        turns: Turns | Angles = (
            angles(clock.place_B, self.get_buffer("main_R"))
            if cache.wheels is None
            else cache.wheels.at(clock.place_B)
        )
        state = self._embed(token_B)
        experts, entries = [], []
        for place, (block, layer) in enumerate(zip(self.blocks(), cache.layers, strict=False)):
            given = None if replay is None else replay.entries[place]
            state, expert_BK, entry_BK = block.step(state, layer, turns, token_B, given)
            experts.append(expert_BK)
            entries.append(entry_BK)
        clock.advance()
        hidden_BD = self.norm(state if self.stream_head is None else self.stream_head(state))
        return hidden_BD, Choices(
            experts=tuple(experts), entries=tuple(entries), family=self.config.family
        )

    def logits(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        """Return `[N, V]`; for a few rows at a time, as in decoding.

        Raises:
            ShapeError: the rows are not as wide as the student's hidden states.
        """
        width = self.config.hidden_size
        if hidden_ND.shape[-1:] != (width,):
            raise ShapeError(
                f"hidden_ND has shape {tuple(hidden_ND.shape)}; its last dimension must be "
                f"hidden_size ({width})."
            )
        return F.linear(hidden_ND, self.head_weight())

    def _embed(self, token_N: torch.Tensor) -> torch.Tensor:
        embedded_ND = self.embed(token_N)
        if isinstance(self.config, MLAConfig):
            return embedded_ND
        return embedded_ND.unsqueeze(1).expand(-1, self.config.hc_streams, -1).contiguous()

    def positions(self, documents: Documents) -> MLAPositions | Positions:
        """Return the angles of a stream's tokens."""
        if isinstance(self.config, MLAConfig):
            return MLAPositions.of(documents, self.get_buffer("main_R"))
        main_R, compress_R = self.get_buffer("main_R"), self.get_buffer("compress_R")
        return Positions.of(documents, main_R, compress_R)


class _Run:
    """One forward pass under way: what is wanted of every block, and what they made."""

    def __init__(
        self,
        config: MLAConfig | V4Config,
        replay: Choices | None,
        dense: bool,
        losses: bool,
        recompute: bool,
    ) -> None:
        if replay is not None:
            check_choices(replay, config)
        self.config = config
        self.replay, self.dense, self.losses, self.recompute = replay, dense, losses, recompute
        self.made: list[Made] = []

    def block(
        self,
        block: nn.Module,
        state: torch.Tensor,
        positions: MLAPositions | Positions,
        token_N: torch.Tensor,
    ) -> torch.Tensor:
        """Run one block, note what it made, return the new residual."""
        place = len(self.made)
        experts, entries = (None, None) if self.replay is None else self.replay.at(place)
        if experts is not None:
            check_experts(place, experts, token_N, self.config)
        if entries is not None:
            check_entries(place, entries, token_N, positions.documents, self.config)
        given = (state, positions, Pass(token_N, self.dense, self.losses), experts, entries)
        if self.recompute and torch.is_grad_enabled():
            # Nothing here draws random numbers, so there is no state of a generator to restore.
            made = checkpoint(block, *given, use_reentrant=False, preserve_rng_state=False)
        else:
            made = block(*given)
        self.made.append(made)
        return self.made[-1].state

    def output(self, hidden_ND: torch.Tensor, ahead: list[Ahead]) -> Output:
        """Gather what all blocks made."""
        nothing = torch.zeros((), dtype=torch.float32, device=hidden_ND.device)
        balance = [made.balance_loss for made in self.made if made.balance_loss is not None]
        index = [made.index_loss for made in self.made if made.index_loss is not None]
        return Output(
            hidden_ND=hidden_ND,
            ahead=tuple(ahead),
            choices=Choices(
                experts=tuple(made.experts for made in self.made),
                entries=tuple(made.entries for made in self.made),
                family=self.config.family,
            ),
            loads=tuple(made.load_E for made in self.made),
            balance_loss=torch.stack(balance).sum() if balance else nothing,
            index_loss=torch.stack(index).sum() if index else nothing,
            memory=tuple(made.memory for made in self.made),
        )


def _blocks(config: MLAConfig | V4Config, vocab_size: int) -> Iterator[nn.Module]:
    if isinstance(config, MLAConfig):
        for layer in range(config.num_layers):
            yield MLABlock(config, dense=layer < config.num_dense_layers)
        return
    for layer, kind in enumerate(config.layer_types):
        yield V4Block(config, kind, vocab_size, hashed=layer < config.num_hash_layers)


def _predictors(config: MLAConfig | V4Config, vocab_size: int) -> Iterator[nn.Module]:
    for _ in range(config.num_mtp_layers):
        if isinstance(config, MLAConfig):
            yield MLAPredictor(config, MLABlock(config, dense=False))
        else:
            yield V4Predictor(config, V4Block(config, "swa", vocab_size, hashed=False))


def _frequencies(config: MLAConfig | V4Config) -> dict[str, torch.Tensor]:
    """Return the rotary frequencies; in v4 only layers with entries are stretched."""
    width, names = config.qk_rope_head_dim, ["main_R"]
    if isinstance(config, V4Config):
        names.append("compress_R")
    if config.rope_frequencies is not None:
        return {n: torch.tensor(config.rope_frequencies, dtype=torch.float32) for n in names}
    if isinstance(config, MLAConfig):
        return {"main_R": frequencies(width, config.rope_theta, config.yarn)}
    return {
        "main_R": frequencies(width, config.rope_theta, None),
        "compress_R": frequencies(width, config.compress_rope_theta, config.yarn),
    }
