"""train.per_example: what has no per-example gradient here is refused by name, never left out; the rest of such a
model works."""

import pytest
import torch

from tests.reference import per_example as reference
from tests.reference.per_example import relative_error
from tests.tiny import PAD, make_base, make_model, make_rows
from train.models import attach_lora, trainable
from train.per_example import UnsupportedParameterError, find_taps, flat_gradients
from train.settings import LoraSettings

ROWS = make_rows(4)
LORA = LoraSettings(r=2, targets="all-linear")


class Specialists(torch.nn.Module):
    """Tokens of all examples go to one of two linear maps, by their sign in the first coordinate."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.add_module(name, torch.nn.ModuleList(torch.nn.Linear(16, 16) for _ in range(2)))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        tokens = hidden.flatten(0, 1)
        chosen, out = tokens[:, 0] > 0, torch.zeros_like(tokens)
        for expert, mine in zip(self.get_submodule(self.name), (chosen, ~chosen), strict=True):
            out = out.index_put((mine,), expert(tokens[mine]))
        return out.view_as(hidden)


def make_routed(name: str):
    base = make_base()
    base.model.layers[1].mlp = Specialists(name)
    return attach_lora(base, LORA, seed=0)


@pytest.mark.parametrize("ending", ["q_proj.base_layer.bias", "input_layernorm.weight", "embed_tokens.weight"])
def test_trainable_tensor_of_another_kind(ending):
    model = make_model("qwen2")
    next(p for name, p in model.named_parameters() if name.endswith(ending)).requires_grad_(True)
    with pytest.raises(UnsupportedParameterError, match=rf"{ending} is trainable"):
        flat_gradients(model, ROWS, PAD)


def test_adapted_embedding():
    with pytest.raises(UnsupportedParameterError, match=r"embed_tokens\.lora_embedding_A"):
        find_taps(make_model(targets=("q_proj", "embed_tokens")))


def test_dora_on_an_output_without_direction():
    """The padding token's embedding is zero, and so is its row of the tied head."""
    model = make_model("llama", targets=("q_proj", "lm_head"), dora=True)
    with pytest.raises(UnsupportedParameterError, match=r"lm_head\.lora_magnitude_vector.* has zeros"):
        find_taps(model)


def test_no_adapter():
    with pytest.raises(UnsupportedParameterError, match="no trainable parameter"):
        find_taps(make_base().requires_grad_(False))


def test_layer_used_twice():
    base = make_base()
    base.model.layers[1] = base.model.layers[0]
    model = attach_lora(base, LORA, seed=0)
    with pytest.raises(UnsupportedParameterError, match=r"layers\.0\..*lora_[AB].* is used twice"):
        flat_gradients(model, ROWS, PAD)


def test_map_that_the_loss_does_not_reach():
    model = make_model()
    model.extra = torch.nn.Linear(4, 4, bias=False)
    with pytest.raises(UnsupportedParameterError, match=r"did not reach extra\.weight \(1 of 17"):
        flat_gradients(model, ROWS, PAD)


@pytest.mark.parametrize("targets", ["all-linear", ("q_proj", "gate")])
def test_adapter_on_bare_weights_of_experts_or_router(targets):
    """peft adapts Mixtral's fused experts and its router without calling the adapter's maps: no hook would fire."""
    model = make_model("mixtral", targets=targets)
    with pytest.raises(UnsupportedParameterError, match=r"layers\.0\.mlp\..*lora_A.* router's or routed experts'"):
        find_taps(model)


def test_routed_experts_by_name_before_any_work():
    with pytest.raises(UnsupportedParameterError, match=r"mlp\.experts\.0\.lora_A.*routed experts"):
        find_taps(make_routed("experts"))


def test_routed_experts_of_another_name_by_what_reaches_them():
    with pytest.raises(UnsupportedParameterError, match=r"reaches .*mlp\.specialists\.\d.* examples are mixed"):
        flat_gradients(make_routed("specialists"), ROWS, PAD)


@pytest.mark.parametrize(
    ("architecture", "targets"),
    [
        ("mixtral", None),
        ("qwen2_moe", "all-linear"),  # attention, shared experts and their gate, which see the batch flattened
    ],
)
def test_everything_else_of_a_mixture_of_experts_equals_autograd(architecture, targets):
    model = make_model(architecture, targets=targets, dora=True)
    assert targets is None or any("shared_expert_gate" in name for name in trainable(model))
    mine = flat_gradients(model, ROWS, PAD)
    for i, row in enumerate(ROWS):
        wanted = reference.gradient(model, row)
        assert set(mine) == set(wanted)
        assert relative_error({name: block[i] for name, block in mine.items()}, wanted) < 1e-5
