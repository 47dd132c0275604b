# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Attention on ranges of keys equals attention under a mask, in both passes; on a CPU in Triton's interpreter."""

import sys

import pytest
import torch
from torch._dynamo.utils import counters
from torch.utils.checkpoint import checkpoint
from transformers.dynamic_module_utils import get_imports

from modeling_concept import range_kernels
from modeling_concept.range_kernels import KEY_TILE, QUERY_TILE, KeyRanges, query_tiles
from tests.modeling.kernel_runs import (
    DEVICE,
    INTERPRETED,
    attend_under_a_mask,
    beside_the_interpreter,
    check_in_interpreter,
    on_gpu,
    on_kernels,
    traced,
    written_by_kernels,
)

SCALING = 0.3
# Matrix products of float32 are shortened on a GPU.
ATOL = 1e-4 if DEVICE == "cpu" else 2e-2


def states(batch: int, queries: int, keys: int, heads: int, head_dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries, and the fused projection of keys and values."""
    torch.manual_seed(0)
    shapes = ((batch, queries, heads, head_dim), (batch, keys, 2, heads, head_dim))
    return tuple(torch.randn(shape, device=DEVICE, requires_grad=True) for shape in shapes)


def ascending(batch: int, queries: int, keys: int, width: int) -> KeyRanges:
    """Ranges of at most `width` keys that move on with their queries, as those of a text do."""
    centre = torch.randint(keys, (batch, queries), device=DEVICE).sort(dim=1).values
    first, last = (centre - width // 2).clamp(min=0), (centre + width // 2).clamp(max=keys - 1)
    return KeyRanges(first.int(), last.int())


def scattered(batch: int, queries: int, keys: int) -> KeyRanges:
    """Ranges of any place and length, in no order."""
    ends = torch.randint(keys, (2, batch, queries), device=DEVICE).sort(dim=0).values
    return KeyRanges(*ends.int())


def under_a_mask(query: torch.Tensor, both: torch.Tensor, ranges: KeyRanges) -> torch.Tensor:
    return attend_under_a_mask(query, *both.unbind(2), ranges, SCALING)


def in_triton(query: torch.Tensor, both: torch.Tensor, ranges: KeyRanges) -> torch.Tensor:
    return range_kernels.attend_ranges(query, *both.unbind(2), ranges, SCALING)


def outputs_and_gradients(function, query: torch.Tensor, both: torch.Tensor, ranges: KeyRanges) -> list[torch.Tensor]:
    """What comes out, and the gradients, for an upstream one whose heads lie before its positions."""
    output = function(query, both, ranges)
    upstream = torch.linspace(-9, 9, output.numel(), device=DEVICE).sin().to(output.dtype)
    output.transpose(1, 2).backward(upstream.view_as(output.transpose(1, 2)))
    gradients = [query.grad, both.grad]
    query.grad = both.grad = None
    return [output.detach(), *gradients]


@beside_the_interpreter
def test_kernels_pass_in_triton_interpreter():
    check_in_interpreter(__file__)


@on_kernels
@pytest.mark.parametrize("shape", [(1, 1, 1, 1, 16), (2, 70, 150, 3, 16), (1, 200, 65, 1, 32), (3, 5, 300, 2, 64)])
@pytest.mark.parametrize("kind", ["ascending", "scattered", "one key"])
def test_kernels_equal_attention_under_a_mask(shape, kind):
    query, both = states(*shape)
    width = 40 if kind == "ascending" else 0
    ranges = scattered(*shape[:3]) if kind == "scattered" else ascending(*shape[:3], width)
    results = [outputs_and_gradients(function, query, both, ranges) for function in (in_triton, under_a_mask)]
    torch.testing.assert_close(*results, atol=ATOL, rtol=1e-3)


@on_kernels
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_near_exact_attention(dtype):
    if INTERPRETED and dtype == torch.bfloat16:
        pytest.skip("the interpreter multiplies no matrices of bfloat16")
    query, both = (it.detach().to(dtype).requires_grad_() for it in states(1, 150, 170, 2, 128))
    ranges = ascending(1, 150, 170, 30)
    found = outputs_and_gradients(in_triton, query, both, ranges)
    exact = (it.detach().double().requires_grad_() for it in (query, both))
    expected = outputs_and_gradients(under_a_mask, *exact, ranges)
    assert all(tensor.dtype == dtype for tensor in found)
    for ours, theirs in zip(found, expected, strict=True):
        assert float((ours.double() - theirs).norm() / theirs.norm()) < 2 * torch.finfo(dtype).eps


@on_kernels
def test_keys_behind_the_last_are_not_read():
    """They would be those of the next row, or of nobody."""
    query, both = states(2, 3, 40, 1, 16)
    beyond = KeyRanges(*(torch.tensor([[30] * 3, [50] * 3], dtype=torch.int32, device=DEVICE) + n for n in (0, 30)))
    output, _, gradient = outputs_and_gradients(in_triton, query, both, beyond)
    within = KeyRanges(beyond.first[:1], beyond.last[:1].clamp(max=39))
    torch.testing.assert_close(output[:1], under_a_mask(query[:1], both[:1], within), atol=ATOL, rtol=1e-3)
    assert output[1].eq(0).all()
    assert gradient[1].eq(0).all()


@on_kernels
def test_queries_without_keys_give_zeros_and_add_nothing_to_gradients():
    query, both = states(1, 70, 90, 2, 16)
    ranges = ascending(1, 70, 90, 20)
    none = torch.arange(70, device=DEVICE) % 3 == 0
    empty = KeyRanges(ranges.first, ranges.last.masked_fill(none, -1))
    found = outputs_and_gradients(in_triton, query, both, empty)
    assert found[0][:, none].eq(0).all()
    assert found[1][:, none].eq(0).all()
    kept = KeyRanges(*(bound[:, ~none] for bound in ranges))

    def of_the_others(query: torch.Tensor, both: torch.Tensor, ranges: KeyRanges) -> torch.Tensor:
        return torch.zeros_like(query).index_copy(
            1, (~none).nonzero().flatten(), under_a_mask(query[:, ~none], both, kept)
        )

    expected = outputs_and_gradients(of_the_others, query, both, ranges)
    torch.testing.assert_close(found, expected, atol=ATOL, rtol=1e-3)


@on_kernels
def test_keys_that_nobody_reads_get_gradients_of_zero():
    query, both = states(1, 3, 200, 2, 16)
    ranges = KeyRanges(*(torch.tensor([[place] * 3], dtype=torch.int32, device=DEVICE) for place in (70, 75)))
    _, _, gradient = outputs_and_gradients(in_triton, query, both, ranges)
    assert gradient[:, 70:76].ne(0).any(dim=(2, 3, 4)).all()
    gradient[:, 70:76] = 0
    assert gradient.eq(0).all()


@on_kernels
def test_no_queries_leave_gradients_of_zero():
    query, both = states(2, 0, 9, 2, 16)
    ranges = KeyRanges(*torch.zeros(2, 2, 0, dtype=torch.int32, device=DEVICE))
    output, _, gradient = outputs_and_gradients(in_triton, query, both, ranges)
    assert output.shape == (2, 0, 2, 16)
    assert gradient.eq(0).all()


@on_kernels
def test_gradients_are_the_same_every_time_and_under_checkpointing():
    (query, both), ranges = states(2, 150, 170, 2, 16), ascending(2, 150, 170, 30)

    def checkpointed(*operands):
        return checkpoint(in_triton, *operands, use_reentrant=False)

    first, *others = (outputs_and_gradients(f, query, both, ranges) for f in (in_triton, in_triton, checkpointed))
    for other in others:
        torch.testing.assert_close(other, first, atol=0, rtol=0)


@on_kernels
def test_operator_keeps_the_rules_of_operators():
    (query, both), ranges = states(1, 5, 9, 2, 16), ascending(1, 5, 9, 4)
    rules = ("test_schema", "test_autograd_registration")
    operator = range_kernels.attend_ranges_in_triton
    torch.library.opcheck(operator, (query, *both.unbind(2), *ranges, SCALING), test_utils=rules)


@on_gpu
@pytest.mark.parametrize("options", [{"dynamic": False}, {"dynamic": True}, {"mode": "reduce-overhead"}])
def test_compiled_kernels_equal_eager_ones(options):
    (query, both), ranges = states(1, 4000, 6000, 2, 64), ascending(1, 4000, 6000, 100)
    compiled = torch.compile(in_triton, fullgraph=True, **options)
    expected = outputs_and_gradients(in_triton, query, both, ranges)
    for _ in range(3):
        torch.compiler.cudagraph_mark_step_begin()
        torch.testing.assert_close(outputs_and_gradients(compiled, query, both, ranges), expected)


@pytest.mark.skipif(DEVICE != "cuda", reason="no GPU")
def test_compiled_tiles_are_the_same():
    ranges = ascending(1, 40000, 60000, 100)
    compiled = torch.compile(query_tiles, fullgraph=True, dynamic=False)
    assert torch.equal(compiled(ranges, 60000), query_tiles(ranges, 60000))


def test_tiles_for_batches_of_any_size_are_compiled_once(fresh_compiler):
    compiled = torch.compile(query_tiles, backend="aot_eager", fullgraph=True, dynamic=True)
    for queries, keys in ((70, 90), (90, 110), (500, 700), (700, 520), (128, 128)):
        ranges = scattered(1, queries, keys)
        assert torch.equal(compiled(ranges, keys), query_tiles(ranges, keys))
    # One tile of queries is a case of its own.
    assert counters["stats"]["unique_graphs"] <= 2


@traced
def test_compilers_take_nothing_but_outputs_for_written_to(fresh_compiler, monkeypatch):
    """What they take for written to they copy in every step, and record no graph of it."""
    (query, both), ranges = states(2, 70, 150, 2, 16), scattered(2, 70, 150)
    query, key, value, *ranges = (it.detach() for it in (query, *both.unbind(2), *ranges))
    arguments = (query, key, value, *ranges, SCALING)
    written = written_by_kernels(range_kernels.attend_ranges_in_triton, arguments, monkeypatch)
    assert written == [{"output", "log_sums"}]
    backward = (query, query, query.new_zeros(2, 2, 70), *arguments)
    written = written_by_kernels(range_kernels._backward_in_triton, backward, monkeypatch)
    assert written == [{"query_grad", "products"}, {"key_grad", "value_grad"}]


def test_tiles_of_queries_are_those_that_read_a_tile_of_keys():
    ranges = scattered(2, 500, 700)
    tiles = query_tiles(ranges, 700)
    assert tiles.shape == (2, -(-700 // KEY_TILE), 2)
    for row in range(2):
        for tile, begin in enumerate(range(0, 700, KEY_TILE)):
            reads = (ranges.first[row] < begin + KEY_TILE) & (ranges.last[row] >= begin)
            readers = reads.nonzero().flatten() // QUERY_TILE
            assert tiles[row, tile].tolist() == [int(readers.min()), int(readers.max()) + 1]


def test_tiles_of_keys_without_a_reader_are_passed_over():
    place = 2 * KEY_TILE + 3
    ranges = KeyRanges(*(torch.full((1, 3), bound, dtype=torch.int32) for bound in (place, place + 5)))
    assert query_tiles(ranges, 4 * KEY_TILE).tolist() == [[[0, 0], [0, 0], [0, 1], [0, 0]]]


# Capability, and shared memory of a program: A100, RTX 4090, H100, RTX 5090.
@pytest.mark.parametrize(("capability", "shared_bytes"), [(80, 166_912), (89, 101_376), (90, 232_448), (120, 101_376)])
@pytest.mark.parametrize("kernel", ["_attention_kernel", "_attention_query_grad_kernel", "_attention_key_grad_kernel"])
@traced
def test_kernels_are_compiled_for_gpus_that_are_not_here(kernel, capability, shared_bytes, tmp_path, monkeypatch):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.compiler import compile as compile_for

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    function = getattr(range_kernels, kernel)
    constants = {"SCALE": 0.1, "HEADS": 6, "DIM": 128, "QUERIES": range_kernels.QUERY_TILE, "KEYS": KEY_TILE}
    types = dict.fromkeys(("log_sums", "products"), "*fp32") | dict.fromkeys(("first", "last", "tiles"), "*i32")
    types |= dict.fromkeys(constants, "constexpr")
    sizes = ("num_queries", "num_keys", *(name for name in function.arg_names if name.endswith(("_token", "_head"))))
    types |= dict.fromkeys(sizes, "i32")
    signature = {name: types.get(name, "*bf16") for name in function.arg_names}
    options = {"num_stages": range_kernels.num_stages(shared_bytes, 128)}
    source = ASTSource(function, signature, constexprs=constants)
    compiled = compile_for(source, target=GPUTarget("cuda", capability, 32), options=options)
    assert compiled.metadata.shared <= shared_bytes


@pytest.mark.parametrize(
    ("shared_bytes", "head_dim", "stages"),
    [(232_448, 128, 3), (166_912, 128, 3), (101_376, 128, 2), (65_536, 128, 1), (101_376, 64, 3), (1024, 128, 1)],
)
def test_shared_memory_says_how_many_tiles_are_on_their_way(shared_bytes, head_dim, stages):
    assert range_kernels.num_stages(shared_bytes, head_dim) == stages


@on_gpu
@pytest.mark.parametrize("stages", [1, 2])
def test_fewer_tiles_on_their_way_change_nothing(stages, monkeypatch):
    (query, both), ranges = states(1, 150, 170, 2, 128), ascending(1, 150, 170, 30)
    expected = outputs_and_gradients(in_triton, query, both, ranges)
    monkeypatch.setattr(range_kernels, "num_stages", lambda *where: stages)
    compiled = torch.compile(in_triton, fullgraph=True, dynamic=False)
    for function in (in_triton, compiled):
        torch.testing.assert_close(outputs_and_gradients(function, query, both, ranges), expected)


def test_file_needs_no_triton():
    assert set(get_imports(range_kernels.__file__)) <= {"torch", "transformers", *sys.stdlib_module_names}
    assert not range_kernels.has_range_kernels(torch.device("cpu"), torch.bfloat16, 64)
