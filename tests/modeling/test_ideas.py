# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""The property that defines each idea of the architecture."""

import pytest
import torch
from torch.nn import functional as F

from modeling_concept import ConceptEncoder, ConceptEncoderForMaskedLM
from modeling_concept.attention import (
    ConceptAttention,
    ConceptRotaryEmbedding,
    ContextualAttention,
    contextual_positions,
    eager_attention_forward,
    slot_attention_forward,
)
from modeling_concept.tokens import TokenConvolution, place_tokens, shifted_mixing
from tests.modeling.tiny import MASK, SWITCHES, VARIANTS, document, masked_batch, tiny_config, tiny_model


def attend(forward, queries: int = 5, keys: int = 7, mask: torch.Tensor | None = None, module=None):
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(2, 3, n, 8, generator=generator, dtype=torch.float64) for n in (queries, keys, keys)
    )
    module = module or ConceptAttention(tiny_config(), 32, 32)
    return forward(module, query, key, value, mask, scaling=0.3), (query, key, value)


def influences(model, ids: torch.Tensor, layers: str) -> torch.Tensor:
    """Bool `[N, N]`: whether the state behind `layers` at `i` changes with the embedding of token `j`."""
    words = model.embed_tokens(ids).detach().requires_grad_()
    states = []
    handle = getattr(model, layers)[-1].register_forward_hook(lambda _, __, output: states.append(output))
    model(inputs_embeds=words)
    handle.remove()
    rows = [torch.autograd.grad(state.sum(), words, retain_graph=True)[0][0].abs().sum(-1) for state in states[0][0]]
    return torch.stack(rows) > 1e-12


def test_open_gates_count_as_distances_do():
    distance = contextual_positions(torch.ones(1, 6, 6))[0]
    index = torch.arange(6)
    assert torch.equal(distance, (index - index[:, None]).abs() + 1.0)


def test_contextual_positions_are_sums_of_gates_between_two_states():
    gates = torch.rand(5, 5, dtype=torch.float64)
    expected = torch.tensor([[gates[i, min(i, j) : max(i, j) + 1].sum() for j in range(5)] for i in range(5)])
    torch.testing.assert_close(contextual_positions(gates), expected.double())


def test_contextual_attention_without_distances_is_attention():
    module = ContextualAttention(tiny_config("cope"), 32, 32).double()
    with torch.no_grad():
        module.distances.zero_()
    (plain, _), _ = attend(eager_attention_forward, 6, 6)
    (counted, _), _ = attend(ContextualAttention.forced_interface, 6, 6, module=module)
    torch.testing.assert_close(counted, plain)
    with torch.no_grad():
        module.distances.normal_()
    assert not torch.allclose(attend(ContextualAttention.forced_interface, 6, 6, module=module)[0][0], plain)


def test_slots_compete_for_keys():
    """Without the second normalisation what a key gives adds up to 1 over the queries; with it each query's does."""
    (_, weights), (query, key, _) = attend(slot_attention_forward)
    shares = (query @ key.transpose(2, 3) * 0.3).softmax(dim=-2)
    torch.testing.assert_close(weights, shares / shares.sum(dim=-1, keepdim=True), atol=1e-4, rtol=1e-4)
    mask = torch.ones(2, 1, 5, 7, dtype=torch.bool)
    mask[:, :, 2], mask[:, :, :, 3] = False, False
    (output, weights), _ = attend(slot_attention_forward, mask=mask)
    assert not output[:, 2].any()
    assert not weights[..., 3].any()


def test_rotary_reads_depend_on_relative_places_alone():
    module = ConceptAttention(tiny_config(), 32, 32).double()
    rotary = ConceptRotaryEmbedding(tiny_config())
    queries, keys = torch.randn(2, 5, 32, dtype=torch.float64), torch.randn(2, 9, 32, dtype=torch.float64)
    outputs = []
    for shift in (0, 1000):
        query_rotation = rotary(queries, torch.linspace(0, 8, 5)[None] + shift)
        key_rotation = rotary(keys, torch.arange(9)[None] + shift)
        outputs.append(module(queries, keys, query_rotation=query_rotation, key_rotation=key_rotation)[0])
    torch.testing.assert_close(outputs[0], outputs[1], atol=1e-10, rtol=0)
    other = module(queries, keys, query_rotation=query_rotation, key_rotation=rotary(keys, torch.arange(9)[None]))[0]
    assert not torch.allclose(other, outputs[0])


def test_write_back_is_the_identity_at_initialisation():
    torch.manual_seed(0)
    model = ConceptEncoderForMaskedLM(tiny_config()).eval()
    without = ConceptEncoderForMaskedLM(tiny_config("no_write_back")).eval()
    without.load_state_dict(model.state_dict(), strict=False)
    ids = document(30, masked=0.3)[None]
    torch.testing.assert_close(model(ids).logits, without(ids).logits)


@pytest.mark.parametrize("switch", [*VARIANTS, *SWITCHES])
def test_fresh_models_have_the_scales_they_should(switch):
    torch.manual_seed(0)
    wide = {"hidden_size": 128, "token_hidden_size": 128, "intermediate_size": 128, "vocab_size": 999}
    model = ConceptEncoderForMaskedLM(tiny_config(switch, **wide))
    depth = (2 * model.config.num_hidden_layers) ** 0.5
    for name, parameter in model.named_parameters():
        if "writes" in name and "o_proj" in name:
            assert not parameter.any(), name
        elif name.endswith(("o_proj.weight", "down_proj.weight", "out_proj.weight")):
            assert 0.9 < parameter.std() * depth / 0.02 < 1.1, name
        elif name.endswith("_proj.weight"):
            assert 0.9 < parameter.std() / 0.02 < 1.1, name


@pytest.mark.parametrize(("ratio", "spans"), [(None, 10), (2, 12), (8, 5), (100, 2)])
def test_the_number_of_concepts_can_be_set_at_call_time(ratio, spans):
    outputs = tiny_model(ConceptEncoder)(document(40)[None], concept_ratio=ratio)
    assert outputs.last_hidden_state.shape[1] == 2 + spans


def test_a_ratio_at_call_time_equals_one_of_the_configuration():
    model, ids = tiny_model(ConceptEncoderForMaskedLM), document(40, masked=0.3)[None]
    other = tiny_model(ConceptEncoderForMaskedLM, concept_ratio=9)
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(model(ids, concept_ratio=9).logits, other(ids).logits)


@pytest.mark.parametrize("variant", ["hybrid", "learned_concepts"])
def test_kept_concepts_are_nested(variant):
    model, ids = tiny_model(ConceptEncoder, variant, max_concepts=64, num_concepts=16), document(64)[None]
    everything = model(ids).concept_mask.sum()
    larger = torch.ones_like(model(ids).concept_mask)
    for share in (1.0, 0.75, 0.5, 0.25, 0.01):
        kept = model(ids, kept_concepts=share).concept_mask
        assert (kept <= larger).all()
        assert kept.sum() >= 1
        free = 2 if variant == "hybrid" else 0
        assert abs(kept.sum() - free - share * (everything - free)) <= 1
        larger = kept


def test_all_concepts_kept_change_nothing_and_dropped_ones_are_not_seen():
    model, ids = tiny_model(ConceptEncoderForMaskedLM, "bottleneck"), document(40, masked=0.3)[None]
    torch.testing.assert_close(model(ids, kept_concepts=1.0).logits, model(ids).logits)
    assert not torch.allclose(model(ids, kept_concepts=0.3).logits, model(ids).logits)


def test_nested_dropout_is_for_training():
    model, ids = tiny_model(ConceptEncoder, "nested_dropout"), document(40)[None].repeat(200, 1)
    assert model(ids).concept_mask.all()
    counts = model.train()(ids).concept_mask.sum(dim=1)
    total = model.eval()(ids[:1]).concept_mask.sum()
    assert 0.4 < (counts < total).float().mean() < 0.6  # half of the rows, but for those that keep all by chance


@pytest.mark.parametrize(("field", "value"), [("concept_ratio", 0), ("kept_concepts", 0.0), ("kept_concepts", 1.5)])
def test_impossible_numbers_of_concepts_are_refused(field, value):
    with pytest.raises(ValueError, match=field):
        tiny_model(ConceptEncoder)(document(9)[None], **{field: value})


def test_a_ratio_for_a_table_is_refused():
    with pytest.raises(ValueError, match="concept_ratio=2"):
        tiny_model(ConceptEncoder, "learned_concepts")(document(9)[None], concept_ratio=2)


def test_the_core_runs_as_often_as_it_is_told():
    model, ids = tiny_model(ConceptEncoderForMaskedLM, "iterated"), document(30, masked=0.3)[None]
    counts = []
    handle = model.model.layers[0].register_forward_hook(lambda *_: counts.append(1))
    logits = {number: model(ids, num_iterations=number).logits for number in (1, 2, 3, 5)}
    assert len(counts) == 11
    handle.remove()
    torch.testing.assert_close(model(ids).logits, logits[3])
    assert not torch.allclose(logits[2], logits[3])
    assert torch.isfinite(logits[5]).all()


def test_training_draws_the_number_of_iterations():
    model, batch = tiny_model(ConceptEncoderForMaskedLM, "sampled_iterations").train(), masked_batch()
    seen = set()
    for seed in range(20):
        torch.manual_seed(seed)
        counts = []
        handle = model.model.layers[0].register_forward_hook(lambda *_, counts=counts: counts.append(1))
        model(**batch)
        handle.remove()
        seen.add(len(counts))
    assert seen == {1, 2, 3}


def test_only_the_last_iterations_are_tracked():
    """Of the vectors of three iterations, the last one alone gets a gradient."""
    model = tiny_model(ConceptEncoderForMaskedLM, "iterated", tracked_iterations=1)
    model(**masked_batch()).loss.backward()
    assert model.model.iterations.grad.any(dim=1).tolist() == [False, False, True]


@pytest.mark.parametrize(("concept_init", "learns"), [("anchored", True), ("learned", False)])
def test_what_is_before_untracked_iterations_learns_by_anchors_alone(concept_init, learns):
    changes = {"tracked_iterations": 1, "concept_init": concept_init, "tie_word_embeddings": False}
    model = tiny_model(ConceptEncoderForMaskedLM, "iterated", **changes)
    model(**masked_batch()).loss.backward()
    stem = [*model.model.token_blocks.parameters(), model.get_input_embeddings().weight]
    assert [weight.grad is not None and bool(weight.grad.any()) for weight in stem] == [learns] * len(stem)


def test_the_funnel_shortens_what_concepts_read():
    model, lengths = tiny_model(ConceptEncoder, "funnel"), []
    model.reads[0].register_forward_pre_hook(lambda _, arguments: lengths.append(arguments[1].shape[1]))
    for length in (1, 2, 37, 40):
        model(document(length)[None])
    assert lengths == [1, 1, 10, 10]


def test_convolution_reaches_half_a_kernel():
    reach = influences(tiny_model(ConceptEncoder, "conv", num_token_layers=1), document(12)[None], "token_blocks")
    index = torch.arange(12)
    assert torch.equal(reach, (index - index[:, None]).abs() <= 2)
    module = TokenConvolution(tiny_config("conv"), 8, None).double()
    torch.nn.init.normal_(module.taps)
    states = torch.randn(1, 12, 8, dtype=torch.float64)
    output, _ = module(states, None, neighbours=F.pad(torch.ones(1, 12, dtype=torch.bool), (2, 2)).unfold(1, 5, 1))
    taps = module.taps.T.unsqueeze(1)
    expected = F.conv1d(module.in_proj(states).mT, taps, padding=2, groups=8).mT
    torch.testing.assert_close(output, module.out_proj(expected))


def test_shifted_blocks_take_turns():
    config = tiny_config("shifted")
    layout, _ = place_tokens(torch.Size([1, 16]), None, None, None, torch.device("cpu"))
    assert len(shifted_mixing(config, layout, layout.stream(1))) == 2
    model, index = tiny_model(ConceptEncoder, "shifted", num_token_layers=1), torch.arange(16)
    one = influences(model, document(16)[None], "token_blocks")
    assert torch.equal(one, index // 8 == index[:, None] // 8)
    two = influences(tiny_model(ConceptEncoder, "shifted", num_token_layers=2), document(16)[None], "token_blocks")
    assert two[5, 9]
    assert not two[0, 15]


def test_the_weighted_decoder_mixes_all_texts_alike():
    model = tiny_model(ConceptEncoderForMaskedLM, "weighted_decoder")
    mixtures = []
    model.decoder.concept_reads[0].attention.register_forward_hook(lambda _, __, output: mixtures.append(output[1]))
    for seed in (0, 1):
        model(document(20, seed)[None])
    assert torch.equal(mixtures[0], mixtures[1])


def test_mixing_layers_let_decoded_positions_see_each_other():
    """A mask in the place of a far token changes a prediction through the concepts only, of a near one directly."""
    model = tiny_model(ConceptEncoderForMaskedLM, "mixing_decoder", masked_tokens="mask")
    states = []
    model.decoder.mixing_blocks[0].register_forward_pre_hook(lambda _, arguments: states.append(arguments[0]))
    ids = document(40)[None]
    ids[0, 3] = MASK
    logits = model(ids).logits
    assert states[0].shape[1] == 40
    wanted = torch.tensor([[3]])
    torch.testing.assert_close(model(ids, masked_positions=wanted).logits[0, 0], logits[0, 3])


def test_every_place_of_a_longer_text_than_any_before_is_finite():
    model = tiny_model(ConceptEncoderForMaskedLM, dtype=torch.float32)
    assert torch.isfinite(model(document(3000, masked=0.3)[None]).logits).all()
