# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Windows equal dense attention under a band mask; backends agree; rotary phases hold over a million tokens."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AttentionInterface

from modeling_concept import ConceptEncoder, ConceptEncoderForMaskedLM, decoder
from modeling_concept import attention as attention_module
from modeling_concept.attention import (
    VARLEN,
    ConceptAttention,
    ConceptRotaryEmbedding,
    Segments,
    Stream,
    attend_in_parts,
    cross_windows,
    eager_attention_forward,
    read_documents,
    read_neighbours,
    segment_ranges,
    self_windows,
    varlen_attention_forward,
    window_ranges,
)
from modeling_concept.kernels import rotate
from tests.modeling.kernel_runs import attend_under_a_mask
from tests.modeling.tiny import (
    LENGTH_DEPENDENT,
    SWITCHES,
    VARIANTS,
    document,
    masked_batch,
    packed_batch,
    padded_batch,
    tiny_config,
    tiny_model,
)


def attention(key_width: int | None = None) -> ConceptAttention:
    torch.manual_seed(1)
    config = tiny_config()
    config._attn_implementation = "eager"
    module = ConceptAttention(config, 32, key_width).double()
    for projection in (module.qkv_proj, module.q_proj, module.kv_proj):
        if projection is not None:
            torch.nn.init.normal_(projection.weight)
    return module


@pytest.mark.parametrize("window", [2, 6, 7, 64])
@pytest.mark.parametrize(("slots", "used"), [(1, 1), (5, 5), (24, 24), (25, 11), (30, 1)])
def test_blocked_local_attention_equals_masked_attention(slots, used, window):
    module, states = attention(), torch.randn(2, slots, 32, dtype=torch.float64)
    visible = (torch.arange(slots) < used).expand(2, -1)
    blocked, _ = module(states, windows=self_windows(visible, window))
    distance = (torch.arange(slots)[:, None] - torch.arange(slots)).abs()
    band = (distance <= window // 2) & visible[0]
    dense, _ = module(states, attention_mask=(band | (distance == 0))[None, None])
    torch.testing.assert_close(blocked[:, :used], dense[:, :used], atol=1e-10, rtol=0)


@pytest.mark.parametrize("window", [2, 6, 7, 40])
def test_windowed_reads_equal_masked_attention(window):
    module = attention(key_width=16)
    keys = torch.randn(3, 13, 16, dtype=torch.float64)
    num_keys = torch.tensor([[13], [7], [0]])
    steps = torch.randint(0, 2, (3, 29), generator=torch.Generator().manual_seed(0))
    rank = torch.minimum(steps.cumsum(dim=1), num_keys)
    queries = torch.randn(3, 29, 32, dtype=torch.float64)
    blocked, _ = module(queries, keys, windows=cross_windows(rank, torch.zeros_like(num_keys), num_keys, 13, window))
    rank = torch.minimum(rank, (num_keys - 1).clamp(min=0))
    key_rank = torch.arange(13)
    band = ((rank[..., None] - key_rank).abs() <= window // 2) & (key_rank < num_keys.clamp(min=1)[..., None])
    dense, _ = module(queries, keys, attention_mask=band[:, None])
    torch.testing.assert_close(blocked, dense, atol=1e-10, rtol=0)
    wanted = torch.tensor([[3, 0, 28], [5, 6, 29], [11, 29, 29]])
    sparse, _ = module(
        queries.gather(1, wanted.clamp(max=28)[..., None].expand(-1, -1, 32)),
        keys,
        windows=cross_windows(rank, torch.zeros_like(num_keys), num_keys, 13, window, wanted),
    )
    for row, slot in ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 0)):
        torch.testing.assert_close(sparse[row, slot], dense[row, wanted[row, slot]], atol=1e-10, rtol=0)


@pytest.mark.parametrize("window", [2, 6, 7, 200])
def test_windows_without_padding_equal_blocked_ones(window):
    module, states = attention(), torch.randn(2, 150, 32, dtype=torch.float64)
    sizes = torch.tensor([[70, 1, 60, 0], [0, 150, 0, 0]])
    places = torch.arange(150).expand(2, -1)
    documents = torch.searchsorted(sizes.cumsum(dim=1), places.contiguous(), right=True).clamp(max=3)
    used = places < sizes.sum(dim=1, keepdim=True)
    stream = Stream(2, 150, 150, used, documents, sizes)
    blocked, _ = module(states, **read_neighbours(stream, window, unpadded=False, device=states.device))
    module.config._attn_implementation = VARLEN
    unpadded, _ = module(states, **read_neighbours(stream, window, unpadded=True, device=states.device))
    torch.testing.assert_close(unpadded[used], blocked[used], atol=1e-10, rtol=0)


def test_documents_without_padding_equal_masked_ones():
    """Among them one without queries, one without keys, and unused slots on either side."""
    module = attention(key_width=16)
    states, keys = torch.randn(2, 9, 32, dtype=torch.float64), torch.randn(2, 14, 16, dtype=torch.float64)
    streams = []
    for length, sizes in ((9, [[4, 0, 3], [2, 7, 0]]), (14, [[5, 6, 3], [9, 1, 0]])):
        sizes = torch.tensor(sizes)
        places = torch.arange(length).expand(2, -1).contiguous()
        documents = torch.searchsorted(sizes.cumsum(dim=1), places, right=True).clamp(max=2)
        streams.append(Stream(2, length, length, places < sizes.sum(dim=1, keepdim=True), documents, sizes))
    masked, _ = module(states, keys, **read_documents(*streams, unpadded=False))
    module.config._attn_implementation = VARLEN
    unpadded, _ = module(states, keys, **read_documents(*streams, unpadded=True))
    used = streams[0].mask
    torch.testing.assert_close(unpadded[used], masked[used], atol=1e-10, rtol=0)

    segments, reverse = (read_documents(*pair, unpadded=True)["segments"] for pair in (streams, streams[::-1]))
    torch.testing.assert_close(read_documents(*streams, unpadded=True, reverse=reverse), {"segments": segments})


@pytest.mark.parametrize("window", [None, 3])
def test_ranges_of_segments_say_what_documents_say(window):
    """Among them documents without queries, without keys, and unused slots."""
    sizes = [torch.tensor(it) for it in ([[4, 0, 3], [2, 6, 0]], [[5, 6, 0], [9, 1, 0]])]
    streams = [
        Stream(2, length, length, torch.arange(length) < used.sum(dim=1, keepdim=True), None, used)
        for length, used in zip((9, 14), sizes, strict=True)
    ]
    queries, keys = streams if window is None else (streams[1], streams[1])
    unused = max(queries.num_unused, keys.num_unused)
    starts = [stream.starts(3, unused, torch.device("cpu")) for stream in (queries, keys)]
    segments = Segments(*starts, queries.longest, keys.longest, window)
    first, last = segment_ranges(segments, 2 * queries.length)
    expected = torch.zeros(2 * queries.length, 2 * keys.length, dtype=torch.bool)
    places = torch.arange(2 * keys.length)
    for begin, end, key_begin, key_end in zip(starts[0], starts[0][1:], starts[1], starts[1][1:], strict=False):
        for query in range(begin, end):
            near = True if window is None else (places - query).abs() <= window
            expected[query] = (places >= key_begin) & (places < key_end) & near
    assert torch.equal((places >= first[0, :, None]) & (places <= last[0, :, None]), expected)


class Searches(TorchDispatchMode):
    """Keeps what is searched in."""

    def __init__(self):
        super().__init__()
        self.sorted: list[torch.Tensor] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.searchsorted.Tensor:
            self.sorted.append(args[0])
        return function(*args, **(kwargs or {}))


def test_what_is_searched_in_is_one_row_that_begins_where_its_storage_does(monkeypatch):
    """
    For a GPU, the compiler of PyTorch 2.11 searches from there, which gives wrong documents without a word, and makes
    no code of searches by row.
    """
    monkeypatch.setattr("modeling_concept.attention.kernels_run_on", lambda device: True)
    monkeypatch.setattr("modeling_concept.attention.has_range_kernels", lambda *kind: False)
    model = tiny_model(ConceptEncoderForMaskedLM)
    model.set_attn_implementation(VARLEN)
    with Searches() as searches:
        model(**packed_batch())
    assert len(searches.sorted) > 2
    assert all(tensor.dim() == 1 and tensor.storage_offset() == 0 for tensor in searches.sorted)


@pytest.mark.parametrize("variant", [*VARIANTS, *SWITCHES])
@pytest.mark.parametrize("make_batch", [padded_batch, packed_batch])
def test_no_document_is_longer_than_kernels_are_told(variant, make_batch, monkeypatch):
    """They would leave out what it has beyond that, which no CPU does."""
    told: list[Segments] = []

    def spying(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, segments: Segments, scaling: float):
        told.append(segments)
        return attend_segments(query, key, value, segments, scaling)

    attend_segments = attention_module._attend_segments
    monkeypatch.setattr(attention_module, "_attend_segments", spying)
    model, batch = tiny_model(ConceptEncoderForMaskedLM, variant), make_batch()
    batch.pop("masked_positions", None)
    model.set_attn_implementation(VARLEN)
    model(**batch)
    assert told
    for segments in told:
        assert segments.query_starts.diff().max() <= segments.max_queries
        assert segments.key_starts.diff().max() <= segments.max_keys


@pytest.mark.parametrize("window", [2, 7])
def test_windows_as_ranges_equal_those_in_blocks(window):
    num_keys = torch.tensor([[13], [7], [0]])
    rank = torch.randint(0, 2, (3, 29), generator=torch.Generator().manual_seed(0)).cumsum(dim=1).minimum(num_keys)
    wanted = torch.tensor([[3, 0, 28], [5, 6, 29], [11, 29, 29]])
    module, first = attention(key_width=16), torch.zeros_like(num_keys)
    queries, keys = torch.randn(3, 3, 32, dtype=torch.float64), torch.randn(3, 13, 16, dtype=torch.float64)
    blocked, _ = module(queries, keys, windows=cross_windows(rank, first, num_keys, 13, window, wanted))
    low, high = window_ranges(rank, first, num_keys, 13, window, wanted)
    places = torch.arange(13)
    mask = (places >= low[..., None]) & (places <= high[..., None])
    dense, _ = module(queries, keys, attention_mask=mask[:, None])
    there = wanted < 29
    torch.testing.assert_close(blocked[there], dense[there], atol=1e-10, rtol=0)


def test_windows_of_a_document_without_keys_stay_in_their_row():
    """Two documents of eight and two tokens, of which those of the second are not seen."""
    rank, first, end = (torch.tensor([values]) for values in ([0, 4, 8, 8], [0, 0, 8, 8], [8, 8, 8, 8]))
    ranges = window_ranges(rank, first, end, 8, 4)
    assert [bound.tolist() for bound in ranges] == [[[0, 2, 7, 7]], [[2, 6, 7, 7]]]


@pytest.fixture
def range_kernels(monkeypatch):
    """Range kernels seem to run here, in double precision; counts their calls."""
    calls = []

    def counted(*arguments):
        calls.append(arguments)
        return attend_under_a_mask(*arguments)

    monkeypatch.setattr(attention_module, "kernels_run_on", lambda device: True)
    for module in (attention_module, decoder):
        monkeypatch.setattr(module, "has_range_kernels", lambda *where: True)
    monkeypatch.setattr(attention_module, "attend_ranges", counted)
    return calls


@pytest.mark.parametrize("short", [0, 1000])
@pytest.mark.parametrize("batch", ["packed", "padded", "whole"])
@pytest.mark.parametrize("variant", ["hybrid", "bottleneck", "thin"])
def test_ranges_equal_masks_in_loss_and_gradients(variant, batch, short, range_kernels, monkeypatch):
    monkeypatch.setattr(attention_module, "SHORT", short)
    model, inputs = tiny_model(ConceptEncoderForMaskedLM, variant), masked_batch()
    if batch == "padded":
        mask = torch.ones_like(inputs["input_ids"])
        mask[1, 30:] = 0
        inputs["labels"][1, 30:] = -100
        del inputs["masked_positions"]
        inputs["attention_mask"] = mask
    if batch == "packed":
        length = inputs["input_ids"].shape[1]
        inputs["document_lengths"] = torch.tensor([[length - 17, 9, 8], [length - 20, 13, 0], [length, 0, 0]])
        inputs["labels"][1, length - 7 :] = -100
        del inputs["masked_positions"]
    results = []
    for backend in ("eager", "varlen"):
        model.set_attn_implementation(backend)
        model.zero_grad()
        loss = model(**inputs).loss
        loss.backward()
        results.append([loss, *(p.grad for p in model.parameters())])
    torch.testing.assert_close(*results, atol=1e-10, rtol=1e-8)
    windows, documents = {"bottleneck": (3, 7)}.get(variant, (7, 8))
    # A batch that is one document in every row needs none of its documents told apart.
    assert len(range_kernels) == windows + documents * (short > 0 and batch != "whole")


def test_only_holes_between_concepts_bring_masks_back():
    """Without padding nothing is masked but the decoder's windows; nested dropout leaves holes, which SDPA skips."""
    masks = []

    def spying(module, query, key, value, attention_mask, **kwargs):
        masks.append(attention_mask is not None)
        return varlen_attention_forward(module, query, key, value, attention_mask, **kwargs)

    model, rows = tiny_model(ConceptEncoder), torch.tensor([[12, 5, 0], [20, 0, 0]])
    model.set_attn_implementation(VARLEN)
    AttentionInterface.register(VARLEN, spying)
    try:
        ids = torch.stack([document(20), document(20, seed=1)])
        model(ids, document_lengths=rows)
        assert not any(masks)
        model(ids, document_lengths=rows, kept_concepts=0.5)
        assert any(masks)
    finally:
        AttentionInterface.register(VARLEN, varlen_attention_forward)


@pytest.mark.parametrize(("keys", "parts"), [(40, 4), (41, 3), (7, 7), (5, 1)])
def test_keys_in_parts_equal_keys_at_once(keys, parts):
    def kernel(query, key, value, segments, scaling):
        outputs, log_sums = [], []
        for (first, last), (start, end) in zip(
            segments.query_starts.unfold(0, 2, 1).tolist(), segments.key_starts.unfold(0, 2, 1).tolist(), strict=True
        ):
            logits = torch.einsum("qhd,khd->hqk", query[first:last], key[start:end]) * scaling
            outputs.append(torch.einsum("hqk,khd->qhd", logits.softmax(-1), value[start:end]))
            log_sums.append(logits.logsumexp(-1))
        return torch.cat(outputs), torch.cat(log_sums, dim=1)

    query, key, value = (torch.randn(2, 3, length, 8, dtype=torch.float64) for length in (6, keys, keys))
    whole = torch.nn.functional.scaled_dot_product_attention(query, key, value, scale=0.3).transpose(1, 2)
    torch.testing.assert_close(attend_in_parts(query, key, value, 0.3, parts, kernel), whole, atol=1e-10, rtol=0)


def test_attention_dropout_is_refused_without_padding():
    model = tiny_model(ConceptEncoder, attention_dropout=0.1).train()
    model.set_attn_implementation(VARLEN)
    with pytest.raises(ValueError, match=r"attention_dropout=0\.1"):
        model(document(20)[None], document_lengths=torch.tensor([[12, 8]]))


@pytest.mark.parametrize("variant", VARIANTS)
def test_sdpa_equals_eager_in_value_and_gradient(variant):
    model, batch = tiny_model(ConceptEncoderForMaskedLM, variant), masked_batch()
    mask = torch.ones_like(batch["input_ids"])
    mask[1, 30:] = 0
    batch["labels"][1, 30:] = -100
    del batch["masked_positions"]
    results = []
    for backend in ("sdpa", "eager", "varlen"):
        model.set_attn_implementation(backend)
        model.zero_grad()
        loss = model(**batch, attention_mask=mask).loss
        loss.backward()
        results.append([loss, *(p.grad for p in model.parameters())])
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_attention_goes_through_the_interface(variant):
    modules = []

    def recording(module, *args, **kwargs):
        modules.append(module)
        return eager_attention_forward(module, *args, **kwargs)

    AttentionInterface.register("recording", recording)
    model = tiny_model(ConceptEncoderForMaskedLM, variant)
    model.set_attn_implementation("recording")
    model(document(20)[None])
    assert set(modules) == {m for m in model.modules() if isinstance(m, ConceptAttention)}


def test_no_mask_grows_with_the_square_of_the_length():
    sizes = []

    def measuring(module, query, key, value, attention_mask, **kwargs):
        sizes.append(0 if attention_mask is None else attention_mask.numel())
        return torch.zeros_like(query).transpose(1, 2), None

    AttentionInterface.register("measuring", measuring)
    model = tiny_model(ConceptEncoderForMaskedLM, max_concepts=8)
    model.set_attn_implementation("measuring")
    largest = []
    for length in (512, 1024):
        sizes.clear()
        ids = document(length, masked=0.3)[None]
        model(ids, attention_mask=torch.ones_like(ids))
        largest.append(max(sizes))
    assert largest[1] <= 2.1 * largest[0]
    assert largest[1] < 1024**2 / 16


def test_maps_come_on_request_only():
    model = tiny_model(ConceptEncoder)
    ids = document(20)[None]
    assert model(ids).attentions is None
    model.set_attn_implementation("eager")
    outputs = model(ids, output_attentions=True, output_hidden_states=True)
    assert [a.shape for a in outputs.attentions] == [(1, 4, 7, 7)] * 2
    assert [a.shape for a in outputs.cross_attentions] == [(1, 4, 7, 20)] * 2
    torch.testing.assert_close(outputs.attentions[0].sum(-1), torch.ones(1, 4, 7, dtype=torch.float64))
    assert len(outputs.hidden_states) == 3
    assert torch.equal(outputs.hidden_states[-1], outputs.last_hidden_state)


def test_rotary_phase_survives_a_million_tokens():
    rotary = ConceptRotaryEmbedding(tiny_config())
    query, key = torch.randn(2, 1, 1, 4, 8, generator=torch.Generator().manual_seed(0))

    def score(shift: int) -> torch.Tensor:
        at = [rotary(query, torch.tensor([[float(place + shift)]])) for place in (0, 3)]
        return (rotate(query, at[0]) * rotate(key, at[1])).sum(-1)

    torch.testing.assert_close(score(1_000_000), score(0), atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_cast_model_keeps_its_frequencies(dtype):
    model = ConceptEncoder(tiny_config())
    state, far = torch.zeros(1), torch.tensor([[123_456.5]])
    before = model.rotary_emb(state, far)
    torch.testing.assert_close(model.to(dtype).rotary_emb(state, far), before, atol=0, rtol=0)


@pytest.mark.parametrize("rope_type", ["linear", "yarn", "dynamic"])
def test_rope_types_of_the_library_work_and_differ(rope_type):
    rope = {"rope_type": rope_type, "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16}
    plain, scaled = (
        tiny_model(ConceptEncoder, max_position_embeddings=16, rope_parameters=parameters)
        for parameters in (None, rope)
    )
    ids = document(40)[None]
    assert torch.isfinite(scaled(ids).last_hidden_state).all()
    assert not torch.allclose(plain(ids).last_hidden_state, scaled(ids).last_hidden_state)


@pytest.mark.parametrize("rope", LENGTH_DEPENDENT)
@pytest.mark.parametrize("length", [17, 40])
def test_frequencies_go_by_the_text_and_not_by_what_is_decoded(rope, length):
    """Concepts and the decoded positions may lie in front of the place behind which texts have other frequencies."""
    rope = LENGTH_DEPENDENT[rope]
    model = tiny_model(ConceptEncoderForMaskedLM, "seen_masks", max_position_embeddings=16, rope_parameters=rope)
    ids, some = document(length)[None], torch.tensor([[2, 5]])
    frequencies = []
    model.model.rotary_emb.register_forward_hook(lambda rotary, *_: frequencies.append(rotary.inv_freq.clone()))
    torch.testing.assert_close(
        model(ids, masked_positions=some).logits, model(ids).logits[:, some[0]], atol=1e-10, rtol=0
    )
    assert all(torch.equal(used, frequencies[0]) for used in frequencies)
