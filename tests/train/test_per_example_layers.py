"""train.per_example: full-rank layers by name, and the upper half of the layers only."""

import pytest
import torch

from tests.reference import per_example as reference
from tests.reference.per_example import relative_error
from tests.tiny import PAD, make_base, make_model, make_rows
from train.models import trainable
from train.per_example import UnsupportedParameterError, find_taps, flat_gradients
from train.per_example.taps import LinearWeight, TransposedWeight

ROWS = make_rows(3)
FLOAT32 = 1e-5  # relative; the same sums in another order


def check_against_autograd(model, taps, mine):
    """Autograd sees the tapped weights as trainable, and the adapter beside them."""
    for tap in taps.values():
        tap.parameter.requires_grad_(True)
    for i, row in enumerate(ROWS):
        wanted = reference.gradient(model, row)
        wanted = {name: wanted[name] for name in taps}
        assert relative_error({name: block[i] for name, block in mine.items()}, wanted) < FLOAT32
        for name, part in wanted.items():
            assert relative_error({name: mine[name][i]}, {name: part}) < 10 * FLOAT32, name


@pytest.mark.parametrize(
    ("architecture", "full_rank", "maps"),
    [
        ("qwen2", ["down_proj"], 2),
        ("qwen2", ["lm_head"], 1),
        ("gpt2", ["c_proj"], 4),  # attention's and the MLP's, one of them under an adapter
        ("gpt2", ["mlp.c_proj", "c_fc"], 4),
        ("phi3", ["gate_up_proj", "qkv_proj", "lm_head"], 5),
        ("gpt_neox", ["lm_head", "query_key_value"], 3),
    ],
)
def test_full_rank_layers_equal_autograd(architecture, full_rank, maps):
    model = make_model(architecture, dora=architecture == "phi3")
    taps = find_taps(model, full_rank=full_rank)
    added = {name: tap for name, tap in taps.items() if name not in trainable(model)}
    assert len(added) == maps
    assert {type(tap) for tap in added.values()} == {TransposedWeight if architecture == "gpt2" else LinearWeight}
    check_against_autograd(model, taps, flat_gradients(model, ROWS, PAD, taps=taps))


def test_full_rank_layers_of_a_model_without_adapter():
    model = make_base("mistral")
    taps = find_taps(model, full_rank=["o_proj"], adapter=False)
    assert list(taps) == [f"model.layers.{i}.self_attn.o_proj.weight" for i in (0, 1)]
    mine = flat_gradients(model, ROWS, PAD, taps=taps)
    assert all(parameter.requires_grad for parameter in model.parameters())
    check_against_autograd(model, taps, mine)


def test_full_rank_tells_names_by_their_last_parts():
    model = make_model("gpt2", targets=("c_attn",))
    assert len(find_taps(model, full_rank=["attn.c_proj"], adapter=False)) == 2
    with pytest.raises(UnsupportedParameterError, match="'proj'"):  # a part of a name is not a name
        find_taps(model, full_rank=["proj"])


def test_unknown_full_rank_layer_is_answered_with_the_nearest():
    with pytest.raises(UnsupportedParameterError, match=r"'down_prj', did you mean 'down_proj'\?; it has .*lm_head"):
        find_taps(make_model("qwen2"), full_rank=["down_prj"])


@pytest.mark.parametrize(("architecture", "embedding"), [("llama", "embed_tokens"), ("gpt2", "wte")])
def test_tied_head_is_refused_because_its_gradient_would_lack_the_embeddings_share(architecture, embedding):
    model = make_model(architecture)
    with pytest.raises(UnsupportedParameterError, match=rf"lm_head and .*{embedding} share one weight"):
        find_taps(model, full_rank=["lm_head"])


@pytest.mark.parametrize(("architecture", "dora"), [("llama", False), ("qwen2", False), ("qwen2", True)])  # llama: tied
def test_adapted_head_equals_autograd(architecture, dora):
    model = make_model(architecture, targets=("v_proj", "lm_head"), dora=dora)
    taps = find_taps(model)
    assert any("lm_head" in name for name in taps)
    check_against_autograd(model, taps, flat_gradients(model, ROWS, PAD, taps=taps))


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox"])
def test_top_half_is_the_same_slice_of_the_whole(architecture):
    model = make_model(architecture, dora=True)
    whole, taps = flat_gradients(model, ROWS, PAD), find_taps(model, layers="top_half")
    half = flat_gradients(model, ROWS, PAD, taps=taps)
    assert list(half) == [name for name in whole if ".1." in name]
    assert len(half) == len(whole) / 2
    assert relative_error(half, {name: whole[name] for name in half}) < FLOAT32


def test_backward_pass_ends_below_the_top_half():
    model, reached = make_model(), []
    layers = model.get_base_model().model.layers
    for i, layer in enumerate(layers):
        layer.register_forward_hook(lambda _m, _x, y, i=i: reached.append((i, torch.as_tensor(y).requires_grad)))
    flat_gradients(model, ROWS[:1], PAD, taps=find_taps(model, layers="top_half"))
    assert reached == [(0, False), (1, True)]
    reached.clear()
    flat_gradients(model, ROWS[:1], PAD)
    assert reached == [(0, True), (1, True)]


def test_top_half_keeps_what_lies_above_the_layers():
    taps = find_taps(make_model("qwen2", targets=("q_proj", "lm_head")), layers="top_half")
    assert [name.split(".lora_")[0].rpartition(".")[2] for name in taps] == ["q_proj"] * 2 + ["lm_head"] * 2


def test_top_half_without_an_adapted_layer_is_an_error():
    model = make_model()
    for name, parameter in trainable(model).items():
        parameter.requires_grad_(".1." not in name)
    with pytest.raises(UnsupportedParameterError, match="no adapted layer is in the top half"):
        find_taps(model, layers="top_half")
