"""One layer's attention in the v4 family: window, compressed entries, sink, grouped output.

DeepSeek-V4 report, section 2.3. Queries come through a low-rank latent and are normalised a head;
one head serves as key and value for all queries. As values are turned by their position too, the
output is turned back, so that only distances matter. The heads leave through a grouped low-rank
projection.

Shapes: N tokens, D hidden_size, R q_lora_rank, H heads, F head_dim, T entries, K chosen entries.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import nn

from student.cache import V4Cache, read
from student.compressor import Compressor
from student.config import LayerType, V4Config
from student.documents import Documents
from student.indexer import Indexer, Queries, choose, index_loss
from student.norm import RMSNorm, unit_rms
from student.rotary import Angles, Turn, Wheel, angles, rotate
from student.sparse_attention import Pool, attend, plan


@dataclass(frozen=True, slots=True)
class Positions:
    """The angles of one stream: of its tokens, and of its entries by compression.

    Layers without entries turn by `rope_theta`, all others by `compress_rope_theta`.
    """

    documents: Documents
    main_R: torch.Tensor
    compress_R: torch.Tensor
    main: Angles
    compress: Angles
    _of_entries: dict[int, Angles] = field(default_factory=dict)

    @classmethod
    def of(
        cls, documents: Documents, main_R: torch.Tensor, compress_R: torch.Tensor
    ) -> "Positions":
        """Return the positions of a stream, given both lists of frequencies."""
        place_N = documents.position_N
        main, compress = angles(place_N, main_R), angles(place_N, compress_R)
        return cls(documents, main_R, compress_R, main, compress)

    def tokens(self, kind: LayerType) -> Angles:
        """Return the tokens' angles in a layer of this kind."""
        return self.main if kind == "swa" else self.compress

    def entries(self, compression: int) -> Angles:
        """Return the entries' angles: each stands where its window begins."""
        if compression not in self._of_entries:
            place_T = self.documents.entries(compression).position_T
            self._of_entries[compression] = angles(place_T, self.compress_R)
        return self._of_entries[compression]


class Turns(NamedTuple):
    """How far the tokens of one decoding step are turned.

    Attributes:
        main: heads of layers without entries.
        compress: heads of layers with entries.
        indexer: heads of indexers.
    """

    main: Turn
    compress: Turn
    indexer: Turn


class Wheels:
    """Makes the turns of a student's decoding steps."""

    def __init__(self, config: V4Config, main_R: torch.Tensor, compress_R: torch.Tensor) -> None:
        self.main = Wheel(main_R, config.head_dim)
        self.compress = Wheel(compress_R, config.head_dim)
        self.indexer = Wheel(compress_R, config.index_head_dim)

    def at(self, place_B: torch.Tensor) -> Turns:
        """Return the turns of tokens at these positions."""
        return Turns(self.main.at(place_B), self.compress.at(place_B), self.indexer.at(place_B))


class Attended(NamedTuple):
    """What a layer's attention returns.

    Attributes:
        output_ND: to be written to the streams.
        choice_NK: the entries the indexer chose, where its choice binds.
        index_loss: the indexer's own loss, where it was asked for and there is an indexer.
        memory: what cached decoding needs, to be kept or dropped.
    """

    output_ND: torch.Tensor
    choice_NK: torch.Tensor | None
    index_loss: torch.Tensor | None
    memory: "Memory"


class Memory(NamedTuple):
    """What later tokens need of these: keys, entries, and the makings of entries to come."""

    key_NF: torch.Tensor
    entry_TF: torch.Tensor | None
    makings: tuple[torch.Tensor, torch.Tensor] | None
    index_entry_TF: torch.Tensor | None
    index_makings: tuple[torch.Tensor, torch.Tensor] | None


class V4Attention(nn.Module):
    """Window attention in every layer, with compressed entries where `kind` has them."""

    def __init__(self, config: V4Config, kind: LayerType) -> None:
        super().__init__()
        d, heads, width = config.hidden_size, config.num_heads, config.head_dim
        self.kind: LayerType = kind
        self.heads, self.window, self.groups = heads, config.sliding_window, config.o_groups
        self.eps, self.scale = config.rms_norm_eps, width**-0.5
        self.q_a = nn.Linear(d, config.q_lora_rank, bias=False)
        self.q_norm = RMSNorm(config.q_lora_rank, config.rms_norm_eps)
        self.q_b = nn.Linear(config.q_lora_rank, heads * width, bias=False)
        self.kv = nn.Linear(d, width, bias=False)
        self.kv_norm = RMSNorm(width, config.rms_norm_eps)
        rank = config.o_groups * config.o_lora_rank
        self.o_a = nn.Linear(heads * width // config.o_groups, rank, bias=False)
        self.o_b = nn.Linear(rank, d, bias=False)
        self.sinks = nn.Parameter(torch.empty(heads))
        self.compression = config.compression(kind)
        self.compressor: Compressor | None = None
        self.indexer: Indexer | None = None
        if kind != "swa":
            self.compressor = Compressor(
                d, width, self.compression, config.rms_norm_eps, overlap=kind == "csa"
            )
        if kind == "csa":
            self.indexer = Indexer(config)

    def forward(
        self,
        x_ND: torch.Tensor,
        positions: Positions,
        *,
        choice_NK: torch.Tensor | None = None,
        dense: bool = False,
        train_indexer: bool = False,
    ) -> Attended:
        """Attend within each document of a stream.

        Args:
            x_ND: normed input.
            positions: the stream's documents and angles.
            choice_NK: entries to attend to in place of the indexer's choice (replay).
            dense: attend to every entry seen, as before sparse attention is introduced.
            train_indexer: also return the indexer's loss.
        """
        documents, turn = positions.documents, positions.tokens(self.kind)
        latent_NR, q_NHF = self.heads_of(x_ND)
        q_NHF, key_NF = rotate(q_NHF, turn), rotate(self.kv_norm(self.kv(x_ND)), turn)
        pool, memory, queries = None, Memory(key_NF, None, None, None, None), None
        if self.compressor is not None:
            makings = self.compressor.project(x_ND)
            entries = documents.entries(self.compression)
            place = positions.entries(self.compression)
            entry_TF = self.compressor(*makings, entries, place)
            memory = memory._replace(entry_TF=entry_TF, makings=makings)
            if self.indexer is not None:
                queries, memory = self._index(x_ND, latent_NR, positions, memory)
                if dense or not self.indexer.binds(entries):
                    choice_NK = None
                elif choice_NK is None:
                    choice_NK = choose(queries, documents, entries, self.indexer.top_k)
            pool = Pool(entry_TF, entries, choice_NK)
        cut = plan(documents, pool, window=self.window, heads=self.heads, device=x_ND.device)
        learning = train_indexer and queries is not None and cut.entries is not None
        out_NHF, mass = attend(
            q_NHF, key_NF, self.sinks, pool, cut, scale=self.scale, want_mass=learning
        )
        loss = index_loss(queries, choice_NK, mass, cut) if learning and queries else None
        output_ND = self.output(rotate(out_NHF, turn.reversed()))
        return Attended(output_ND, choice_NK, loss, memory)

    def step(
        self,
        x_BD: torch.Tensor,
        cache: V4Cache,
        turns: Turns,
        *,
        choice_BK: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attend from one more token of each sequence.

        Returns:
            output_BD: to be written to the streams.
            choice_BK: places in each sequence's own entries, -1 for none, where the indexer's
                choice binds for some sequence; None otherwise.
        """
        latent_BR, q_BHF = self.heads_of(x_BD)
        # One key beside the heads, so that all are turned at once.
        key_B1F = self.kv_norm(self.kv(x_BD)).unsqueeze(1)
        turn = turns.main if self.kind == "swa" else turns.compress
        turned = turn.forth(torch.cat((q_BHF, key_B1F), dim=1))
        q_BHF = turned[:, :-1]
        row_BYF, bias_B1Y = cache.add(x_BD, turned[:, -1])
        if self.indexer is not None and cache.index is not None:
            key_BTF = cache.index.add(x_BD)
            if key_BTF.shape[1] <= self.indexer.top_k:
                choice_BK = None
            elif choice_BK is None:
                hidden_BT = bias_B1Y[:, 0, cache.first_entry :]
                choice_BK = self.indexer.choose_step(
                    x_BD, latent_BR, turns.indexer, key_BTF, hidden_BT
                )
            if choice_BK is not None:
                row_BYF, bias_B1Y = _chosen(row_BYF, bias_B1Y, cache.first_entry, choice_BK)
        out_BHF = read(q_BHF, row_BYF, bias_B1Y, self.sinks, self.scale)
        return self.output(turn.back(out_BHF)), choice_BK

    def heads_of(self, x_ND: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the latent `[N, R]` and the normalised query heads `[N, H, F]`, not yet turned."""
        latent_NR = self.q_norm(self.q_a(x_ND))
        q_NHF = self.q_b(latent_NR).unflatten(-1, (self.heads, -1))
        return latent_NR, unit_rms(q_NHF, self.eps)

    def output(self, out_NHF: torch.Tensor) -> torch.Tensor:
        """Project the heads, turned back, group by group, `[N, D]`."""
        total, weight_RF = len(out_NHF), self.o_a.weight
        out_GNF = out_NHF.reshape(total, self.groups, -1).transpose(0, 1)
        weight_GFR = weight_RF.view(self.groups, -1, weight_RF.shape[1]).transpose(1, 2)
        mixed_GNR = torch.bmm(out_GNF, weight_GFR)
        return self.o_b(mixed_GNR.transpose(0, 1).reshape(total, -1))

    def _index(
        self, x_ND: torch.Tensor, latent_NR: torch.Tensor, positions: Positions, memory: Memory
    ) -> tuple[Queries, Memory]:
        """Return what the indexer scores with; nothing of it reaches back into the network."""
        assert self.indexer is not None
        x_ND, latent_NR = x_ND.detach(), latent_NR.detach()
        makings = self.indexer.compressor.project(x_ND)
        entries = positions.documents.entries(self.compression)
        place = positions.entries(self.compression)
        key_TF = self.indexer.compressor(*makings, entries, place)
        q_NIF, weight_NI = self.indexer.queries(x_ND, latent_NR, positions.compress)
        memory = memory._replace(index_entry_TF=key_TF, index_makings=makings)
        return Queries(q_NIF, weight_NI, key_TF), memory


def _chosen(
    row_BYF: torch.Tensor, bias_B1Y: torch.Tensor, first: int, choice_BK: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return sink, window and chosen entries alone; a table's entries begin at row `first`."""
    place_BK = first + choice_BK.clamp_min(0)
    taken_BKF = row_BYF.gather(1, place_BK.unsqueeze(-1).expand(-1, -1, row_BYF.shape[-1]))
    bias_B1K = bias_B1Y.gather(2, place_BK.unsqueeze(1))
    bias_B1K = bias_B1K.masked_fill((choice_BK < 0).unsqueeze(1), float("-inf"))
    rows = torch.cat((row_BYF[:, :first], taken_BKF), dim=1)
    return rows, torch.cat((bias_B1Y[:, :, :first], bias_B1K), dim=2)
