"""How large a student is: parameters, bytes of cache, multiply-adds a token.

Arithmetic alone, from the shapes of DeepSeek-V3 (arXiv 2412.19437, section 2.1) and DeepSeek-V4
(arXiv 2606.19348, sections 2.2 to 2.4); nothing is built and torch is not loaded. Counts of the
trunk and of the prediction layers (MTP) are kept apart, as the reports do.

Letters: D hidden size, V vocabulary, H heads, M residual streams, E experts, m tokens an entry.
"""

from fractions import Fraction
from typing import Literal, NamedTuple

from student.arguments import whole
from student.config import LayerType, MLAConfig, V4Config

Config = MLAConfig | V4Config


class Parameters(NamedTuple):
    """How many parameters a student has; buffers (routing bias, hash table) are not counted.

    Attributes:
        total: of the trunk: embedding, layers, head. The built network has `total + mtp`.
        active: of the trunk, those that work on one token: chosen and shared experts, one row of
            the input embedding, the whole head.
        mtp: of the prediction layers, which share embedding and head.
    """

    total: int
    active: int
    mtp: int


class Cache(NamedTuple):
    """The cache of one sequence, in bytes.

    Attributes:
        grows: latents, or compressed entries and the indexer's keys to them.
        constant: sliding windows, and the tokens that wait to be compressed.
    """

    grows: int
    constant: int

    @property
    def total(self) -> int:
        """Return both together."""
        return self.grows + self.constant


class Flops(NamedTuple):
    """Operations of one token, a multiply-add being two.

    Products of matrices are counted, and the mixing of residual streams; norms, softmax, rotary
    turns, gates, pooling and Sinkhorn's iterations are not.

    Attributes:
        projections: into and out of attention, the compressors' included.
        attention: scores and sums over what a token attends to.
        indexer: its projections, and its scores of every visible entry.
        experts: chosen and shared experts, or the dense network in their place.
        router: affinities to all experts.
        streams: hyper-connections; 0 in the `mla` family.
        head: logits over the vocabulary.
    """

    projections: float
    attention: float
    indexer: float
    experts: float
    router: float
    streams: float
    head: float

    @property
    def total(self) -> float:
        """Return all parts together."""
        return sum(self)


class _Layer(NamedTuple):
    """Parameters of one layer, by what they do for a token.

    Attributes:
        kind: of attention; the one kind of the `mla` family is `mla`.
        projections: multiplied in attention.
        indexer: multiplied in the indexer.
        experts: multiplied in the experts that work on a token, or in the dense network.
        idle: of the experts that do not.
        router: multiplied in the router.
        streams: multiplied for the hyper-connections' coefficients.
        rest: norms, sinks, position biases: in no product.
    """

    kind: Literal["mla"] | LayerType
    projections: int
    indexer: int
    experts: int
    idle: int
    router: int
    streams: int
    rest: int

    @property
    def active(self) -> int:
        """Return all that work on a token."""
        parts = self.projections, self.indexer, self.experts, self.router, self.streams, self.rest
        return sum(parts)


class _Seen(NamedTuple):
    """What a token attends to, in tokens and entries; the indexer scores `scored` of these."""

    tokens: float
    scored: float = 0
    chosen: float = 0
    hca: float = 0


def count_parameters(config: Config, vocab_size: int) -> Parameters:
    """Count what the optimizer trains: weights, norms, routers, hyper-connections, indexers.

    Raises:
        ConfigError: there is no vocabulary of that size.
    """
    vocab_size = whole("vocab_size", vocab_size, 1)
    d, layers = config.hidden_size, _layers(config)
    table = vocab_size * d
    row = 0 if config.tie_word_embeddings else d
    active = sum(layer.active for layer in layers) + _stream_head(config) + d + table + row
    idle = sum(layer.idle for layer in layers)
    unread = 0 if config.tie_word_embeddings else table - row
    return Parameters(active + idle + unread, active, config.num_mtp_layers * _prediction(config))


def kv_cache_bytes_per_token(config: Config, bytes_per_value: int = 2) -> int | float:
    """Return the bytes by which the cache of a long sequence grows with each token, on average.

    `mla`: the latent and the shared rotary key of every layer. `v4`: an entry, and in CSA layers
    its key for the indexer, every m tokens; windows do not grow.

    Raises:
        ConfigError: a value takes no whole number of bytes.
    """
    bytes_per_value = whole("bytes_per_value", bytes_per_value, 1)
    if isinstance(config, MLAConfig):
        values = Fraction(config.num_layers * (config.kv_lora_rank + config.qk_rope_head_dim))
    else:
        csa, hca = config.layer_types.count("csa"), config.layer_types.count("hca")
        values = Fraction(csa * (config.head_dim + config.index_head_dim), config.csa_compression)
        values += Fraction(hca * config.head_dim, config.hca_compression)
    grown = values * bytes_per_value
    return int(grown) if grown.denominator == 1 else float(grown)


def kv_cache_bytes(config: Config, context_tokens: int, bytes_per_value: int = 2) -> Cache:
    """Return the whole cache of one sequence; prediction layers keep none.

    Until its entry is whole, a compressor keeps key and gate of each token: of m tokens, and in
    CSA layers, whose entries overlap, of the m before them too, each twice as wide.

    Raises:
        ConfigError: a number of tokens or bytes that cannot be.
    """
    context_tokens = whole("context_tokens", context_tokens, 0)
    bytes_per_value = whole("bytes_per_value", bytes_per_value, 1)
    if isinstance(config, MLAConfig):
        return Cache(int(kv_cache_bytes_per_token(config, bytes_per_value)) * context_tokens, 0)
    csa, hca = config.layer_types.count("csa"), config.layer_types.count("hca")
    csa_width, m = config.head_dim + config.index_head_dim, config.csa_compression
    grows = csa * csa_width * (context_tokens // m)
    grows += hca * config.head_dim * (context_tokens // config.hca_compression)
    constant = config.num_layers * config.sliding_window * config.head_dim
    constant += csa * (2 * m) * 2 * (2 * csa_width)
    constant += hca * config.hca_compression * 2 * config.head_dim
    return Cache(grows * bytes_per_value, constant * bytes_per_value)


def forward_flops_per_token(config: Config, vocab_size: int, context: int) -> Flops:
    """Return the operations of the token that makes the context `context` tokens long.

    Prediction layers are left out. `mla` is counted with keys and values unfolded from the
    latent, as in training; attending in the latent space instead, as decoding may, takes
    `2 kv_lora_rank + qk_rope_head_dim` for `qk_nope + qk_rope + v` a head and token.

    Raises:
        ConfigError: a number of tokens that cannot be.
    """
    vocab_size, context = whole("vocab_size", vocab_size, 1), whole("context", context, 0)
    if isinstance(config, MLAConfig):
        return _flops(config, vocab_size, _Seen(context))
    entries = context // config.csa_compression
    return _flops(
        config,
        vocab_size,
        _Seen(
            tokens=min(context, config.sliding_window),
            scored=entries,
            chosen=min(entries, config.index_top_k),
            hca=context // config.hca_compression,
        ),
    )


def training_flops_per_token(config: Config, vocab_size: int, sequence_tokens: int) -> float:
    """Return forward and backward operations, a mean over the positions of one sequence.

    Backward is counted as twice forward; recomputation is not counted, prediction layers are.

    Raises:
        ConfigError: a vocabulary or sequence without a token.
    """
    vocab_size, n = whole("vocab_size", vocab_size, 1), whole("sequence_tokens", sequence_tokens, 1)
    if isinstance(config, MLAConfig):
        seen = _Seen(_mean_seen(n, 1, n))
    else:
        m = config.csa_compression
        seen = _Seen(
            tokens=_mean_seen(n, 1, config.sliding_window),
            scored=_mean_seen(n, m, n),
            chosen=_mean_seen(n, m, config.index_top_k),
            hca=_mean_seen(n, config.hca_compression, n),
        )
    trunk = _flops(config, vocab_size, seen).total
    return 3 * (trunk + config.num_mtp_layers * _prediction_flops(config, vocab_size, seen))


def _mean_seen(tokens: int, block: int, cap: int) -> float:
    """Return the mean of `min(t // block, cap)` over t = 1 to `tokens`."""
    most = min(tokens // block, cap)
    return (most * (tokens + 1) - block * most * (most + 1) / 2) / tokens


def _flops(config: Config, vocab_size: int, seen: _Seen) -> Flops:
    layers = [_layer_flops(config, layer, seen) for layer in _layers(config)]
    parts = Flops(*(sum(column) for column in zip(*layers, strict=True)))
    head = 2 * vocab_size * config.hidden_size
    return parts._replace(head=head, streams=parts.streams + _stream_head_flops(config))


def _layer_flops(config: Config, layer: _Layer, seen: _Seen) -> Flops:
    return Flops(
        projections=2 * layer.projections,
        attention=_attention_flops(config, layer.kind, seen),
        indexer=2 * layer.indexer + _scoring_flops(config, layer.kind, seen),
        experts=2 * layer.experts,
        router=2 * layer.router,
        streams=2 * layer.streams + _mixing_flops(config),
        head=0,
    )


def _attention_flops(config: Config, kind: str, seen: _Seen) -> float:
    if isinstance(config, MLAConfig):
        width = config.qk_nope_head_dim + config.qk_rope_head_dim + config.v_head_dim
        return 2 * config.num_heads * width * seen.tokens
    entries = {"swa": 0, "csa": seen.chosen, "hca": seen.hca}[kind]
    return 2 * config.num_heads * 2 * config.head_dim * (seen.tokens + entries)


def _scoring_flops(config: Config, kind: str, seen: _Seen) -> float:
    """Return what the indexer's scores take: a product a head, and the weighted sum over heads."""
    if isinstance(config, MLAConfig) or kind != "csa":
        return 0
    return 2 * config.index_num_heads * (config.index_head_dim + 1) * seen.scored


def _mixing_flops(config: Config) -> int:
    """Return what mixing takes, in attention and network each: read, carry over, write back."""
    if isinstance(config, MLAConfig):
        return 0
    m = config.hc_streams
    return 2 * 2 * (m + m * m + m) * config.hidden_size


def _stream_head_flops(config: Config) -> int:
    if isinstance(config, MLAConfig):
        return 0
    m = config.hc_streams
    return 2 * (m * m + m) * config.hidden_size


def _prediction_flops(config: Config, vocab_size: int, seen: _Seen) -> float:
    """Return what one prediction layer takes; in v4 each stream is projected before it joins."""
    layer = _layer_flops(config, _prediction_layer(config), seen).total
    streams = config.hc_streams if isinstance(config, V4Config) else 1
    join = 2 * (1 + streams) * config.hidden_size**2
    return layer + join + _stream_head_flops(config) + 2 * vocab_size * config.hidden_size


def _layers(config: Config) -> list[_Layer]:
    if isinstance(config, V4Config):
        return [_v4_layer(config, kind) for kind in config.layer_types]
    dense = config.num_dense_layers
    return [_mla_layer(config, dense=layer < dense) for layer in range(config.num_layers)]


def _prediction_layer(config: Config) -> _Layer:
    """Return the layer inside a prediction layer: without entries, never dense."""
    return _v4_layer(config, "swa") if isinstance(config, V4Config) else _mla_layer(config, False)


def _prediction(config: Config) -> int:
    """Count one prediction layer: two norms before, a projection of both, its layer, its norm."""
    layer, d = _prediction_layer(config), config.hidden_size
    return layer.active + layer.idle + 3 * d + 2 * d * d + _stream_head(config)


def _stream_head(config: Config) -> int:
    """Count what joins the residual streams at the end."""
    if isinstance(config, MLAConfig):
        return 0
    m = config.hc_streams
    return m * m * config.hidden_size + m + 1


def _mla_layer(config: MLAConfig, dense: bool) -> _Layer:
    d, heads, rank = config.hidden_size, config.num_heads, config.q_lora_rank
    query = heads * (config.qk_nope_head_dim + config.qk_rope_head_dim)
    latent, value = config.kv_lora_rank, heads * config.v_head_dim
    projections = d * query if rank is None else rank * (d + query)
    projections += d * (latent + config.qk_rope_head_dim)
    projections += latent * (heads * config.qk_nope_head_dim + value) + value * d
    expert = 3 * d * config.moe_intermediate_size
    working = config.num_experts_per_token + config.num_shared_experts
    idle = config.num_routed_experts - config.num_experts_per_token
    return _Layer(
        kind="mla",
        projections=projections,
        indexer=0,
        experts=3 * d * config.intermediate_size if dense else working * expert,
        idle=0 if dense else idle * expert,
        router=0 if dense else config.num_routed_experts * d,
        streams=0,
        rest=2 * d + (rank or 0) + latent + _mla_biases(config),
    )


def _mla_biases(config: MLAConfig) -> int:
    if not config.attention_bias:
        return 0
    compressed = config.q_lora_rank or 0
    return compressed + config.kv_lora_rank + config.qk_rope_head_dim + config.hidden_size


def _v4_layer(config: V4Config, kind: LayerType) -> _Layer:
    d, rank, width = config.hidden_size, config.q_lora_rank, config.head_dim
    query, streams = config.num_heads * width, config.hc_streams
    projections = rank * (d + query) + d * width
    projections += config.o_lora_rank * (query + config.o_groups * d)
    entries, in_entries = _compressor(config, kind, width)
    heads, key = config.index_num_heads, config.index_head_dim
    keys, in_keys = _compressor(config, kind, key) if kind == "csa" else (0, 0)
    expert = 3 * d * config.moe_intermediate_size
    idle = config.num_routed_experts - config.num_experts_per_token
    coefficients = (2 + streams) * streams
    return _Layer(
        kind=kind,
        projections=projections + entries,
        indexer=heads * key * rank + heads * d + keys if kind == "csa" else 0,
        experts=(config.num_experts_per_token + 1) * expert,
        idle=idle * expert,
        router=config.num_routed_experts * d,
        streams=2 * coefficients * streams * d,
        rest=2 * d
        + rank
        + width
        + config.num_heads
        + in_entries
        + in_keys
        + 2 * (coefficients + 3),
    )


def _compressor(config: V4Config, kind: LayerType, width: int) -> tuple[int, int]:
    """Count a compressor's products (keys and gates) and the rest (position bias and norm)."""
    if kind == "swa":
        return 0, 0
    wide = 2 * width if kind == "csa" else width  # CSA's entries overlap: two of each
    return 2 * wide * config.hidden_size, config.compression(kind) * wide + width
