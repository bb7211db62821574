"""Make the parity fixtures beside the DeepSpec reference: `python tests/data/deepspec/produce.py REFERENCE_CHECKOUT`.

Random tiny checkpoints, written by the reference and read by us and the other way round, draft several rounds from the
same hidden states. What the reference answered is kept; the largest differences are printed for both directions.
Nothing of the reference is part of this repository: it is imported from its own checkout.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
sys.path[:0] = [str(ROOT / "platform"), str(ROOT / "kernels")]
SEED = 20261124
ANCHORS = (3, 9, 10, 22)
LENGTH = ANCHORS[-1] + 1
QWEN3: dict[str, Any] = {
    "vocab_size": 37, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64, "tie_word_embeddings": False,
    "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
}  # fmt: skip


class Arguments(SimpleNamespace):
    """What the reference reads its draft settings from: attributes, and `in`."""

    def __contains__(self, name: str) -> bool:
        return hasattr(self, name)


def case(
    family: str = "qwen3", rope_theta: float = 10_000.0, target: dict[str, Any] | None = None, **draft: Any
) -> Any:
    settings = {
        "num_draft_layers": 2, "block_size": 7, "mask_token_id": 36, "target_layer_ids": [0, 2], "num_anchors": 8,
        "markov_rank": 6, "markov_head_type": "vanilla", "confidence_head_alpha": 1.0,
        "confidence_head_with_markov": True,
    }  # fmt: skip
    return SimpleNamespace(
        family=family, rope_theta=rope_theta, target=target or {}, draft=Arguments(**settings | draft)
    )


GEMMA4: dict[str, Any] = {
    "vocab_size": 37, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "global_head_dim": 16, "num_global_key_value_heads": 1,
    "attention_k_eq_v": True, "hidden_size_per_layer_input": 0, "max_position_embeddings": 64,
    "layer_types": ["sliding_attention", "full_attention"] * 2, "final_logit_softcapping": 3.0,
}  # fmt: skip

CASES = {
    "vanilla": case(),
    "vanilla-one-layer": case(num_draft_layers=1, block_size=3, target_layer_ids=[1], rope_theta=1e6),
    "gated": case(markov_head_type="gated", block_size=5, target_layer_ids=[-1, 1]),
    "rnn": case(markov_head_type="rnn", target_layer_ids=[-1, 0, 2]),
    "rnn-plain-confidence": case(markov_head_type="rnn", confidence_head_with_markov=False, block_size=4),
    "no-markov": case(markov_rank=0, confidence_head_with_markov=False, block_size=6, target_layer_ids=[-1]),
    "dflash": case(markov_rank=0, confidence_head_alpha=0.0, block_size=15, target_layer_ids=[0, 1, 2]),
    "gemma4": case("gemma4"),
    "gemma4-own-values": case(
        "gemma4",
        target={"attention_k_eq_v": False, "final_logit_softcapping": None},
        markov_head_type="rnn",
        num_draft_layers=1,
        block_size=4,
        target_layer_ids=[-1, 2],
    ),
}


def randomize(model: Any) -> None:
    """Weights that matter: matrices with rows near unit length, scales around 1."""
    with torch.no_grad():
        scalars = [each for each in model.named_buffers() if each[0].endswith("layer_scalar")]
        for name, weight in (*model.named_parameters(), *scalars):
            if name.endswith(("norm.weight", "layer_scalar")):
                weight.copy_(1 + 0.3 * torch.randn_like(weight))
            elif name.endswith(".bias"):
                weight.normal_(std=0.5)
            elif weight.dim() == 2:
                weight.normal_(std=1.5 * weight.shape[1] ** -0.5)


def mend_gemma4() -> None:
    """The reference was written for a transformers whose Gemma4 configuration keeps two fields that 5.23 folds away."""
    from deepspec.modeling.dspark.gemma4 import modeling
    from transformers.models.gemma4.configuration_gemma4 import Gemma4TextConfig

    fold, rotary = Gemma4TextConfig.__post_init__, modeling.Gemma4TextRotaryEmbedding

    def keep(self: Any, **kwargs: Any) -> None:
        held = {name: kwargs.get(name) for name in ("global_head_dim", "num_global_key_value_heads")}
        fold(self, **kwargs)
        for name, value in held.items():
            setattr(self, name, value)
        self.allow_global_per_layer_attribute_access = True

    Gemma4TextConfig.__post_init__ = keep
    modeling.Gemma4TextRotaryEmbedding = lambda config, layer_type: rotary(config)


def target_config(one: Any) -> Any:
    from transformers import Qwen3Config
    from transformers.models.gemma4.configuration_gemma4 import Gemma4Config, Gemma4TextConfig

    if one.family == "gemma4":
        return Gemma4Config(text_config=Gemma4TextConfig(**GEMMA4 | one.target).to_dict())
    return Qwen3Config(**QWEN3 | {"rope_parameters": {"rope_type": "default", "rope_theta": one.rope_theta}})


def target_states(one: Any) -> tuple[Tensor, Any]:
    """hidden_states [layers + 1, T, d] of a random target (of Gemma4, random ones), and its config."""
    from transformers import Qwen3ForCausalLM

    config = target_config(one)
    if one.family == "gemma4":
        return torch.randn(GEMMA4["num_hidden_layers"] + 1, LENGTH, GEMMA4["hidden_size"]), config
    model = Qwen3ForCausalLM(config).eval()
    randomize(model)
    tokens = torch.randint(0, config.vocab_size, (1, LENGTH))
    with torch.no_grad():
        states = model(tokens, output_hidden_states=True).hidden_states
    return torch.stack([state[0] for state in states]), config


def theirs_for(one: Any, config: Any) -> Any:
    from deepspec.modeling.dspark import gemma4, qwen3

    family = gemma4 if one.family == "gemma4" else qwen3
    draft = family.build_draft_config(config, one.draft)
    if one.family == "gemma4":  # all layers of a drafter are full attention: read so, as from its own file
        draft = type(draft)(**{key: value for key, value in draft.to_dict().items() if key != "per_layer_config"})
    model = their_class(one)(draft)
    randomize(model)
    return model


def their_class(one: Any) -> Any:
    from deepspec.modeling.dspark import Gemma4DSparkModel, Qwen3DSparkModel

    return Gemma4DSparkModel if one.family == "gemma4" else Qwen3DSparkModel


@torch.no_grad()
def drafted_by_them(model: Any, states: Tensor, first_tokens: Tensor) -> dict[str, Tensor]:
    """Greedy rounds at ANCHORS in turn, one cache, through the reference's own proposal code."""
    from deepspec.eval.dspark.draft_ops import build_dspark_proposal, forward_dspark_draft_block
    from deepspec.modeling.dspark.common import extract_context_feature
    from transformers import DynamicCache

    class Cache(DynamicCache):  # the reference means a length; transformers 5.23 takes tokens to drop, negative
        def crop(self, max_length: int) -> None:
            super().crop(max_length - self.get_seq_length())

    gamma, cache, done = model.block_size, Cache(), 0
    logits, tokens, confidences, hiddens = [], [], [], []
    for anchor, token in zip(ANCHORS, first_tokens, strict=True):
        block = torch.full((1, gamma), model.mask_token_id)
        block[0, 0] = token
        hidden = forward_dspark_draft_block(
            model,
            draft_input_ids=block,
            position_ids=torch.arange(LENGTH + gamma)[None],
            past_key_values_draft=cache,
            target_hidden_states=extract_context_feature(states[:, None, done:anchor], model.target_layer_ids),
            start=anchor,
            block_size=gamma,
        )
        proposal = build_dspark_proposal(
            model,
            draft_input_ids=block,
            block_hidden=hidden,
            block_size=gamma,
            temperature=0.0,
            confidence_threshold=0.0,
        )
        _, corrected = model.sample_draft_tokens(
            model.compute_logits(hidden), first_prev_token_ids=block[:, 0], temperature=0.0, hidden_states=hidden
        )
        logits.append(corrected[0])
        tokens.append(proposal.verify_input_ids[0, 1:])
        hiddens.append(hidden[0])
        if proposal.confidence_logits is not None:
            confidences.append(proposal.confidence_logits[0])
        done = anchor
    found = {"logits": torch.stack(logits), "tokens": torch.stack(tokens), "hidden": torch.stack(hiddens)}
    return found | ({"confidence_logits": torch.stack(confidences)} if confidences else {})


def compare(directory: Path, states: Tensor, first: Tensor, theirs: dict[str, Tensor]) -> dict[str, float]:
    """The largest absolute difference between our answers for a checkpoint and the reference's."""
    sys.path.insert(0, str(ROOT / "tests"))
    from support.deepspec import drafted_by_us

    ours = drafted_by_us(directory, states, ANCHORS, first)
    assert ours.keys() == theirs.keys(), (ours.keys(), theirs.keys())
    assert torch.equal(ours["tokens"], theirs["tokens"]), "sampled blocks differ"
    return {name: float((ours[name] - theirs[name]).abs().max()) for name in ours if name != "tokens"}


def trained_here(name: str) -> dict[str, float]:
    """A demo drafter, as shipped, read by the reference: the largest differences on real states of its target."""
    from deepspec.modeling.dspark import Qwen3DSparkModel
    from transformers import AutoModelForCausalLM

    from outrider.text import TextModel

    demo = ROOT / "platform/outrider/demo_models"
    drafter, target = demo / f"{name}-drafter", demo / name
    model, info = Qwen3DSparkModel.from_pretrained(
        drafter, dtype=torch.float32, attn_implementation="sdpa", output_loading_info=True
    )
    assert not [*info["missing_keys"], *info["unexpected_keys"]], info
    asked = TextModel.load(target).encode_chat([{"role": "user", "content": "What is 12 plus 7? Explain each step."}])
    tokens = torch.tensor([(asked * LENGTH)[:LENGTH]])
    with torch.no_grad():
        stock = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32)
        states = torch.stack([state[0] for state in stock(tokens, output_hidden_states=True).hidden_states])
    first = tokens[0, list(ANCHORS)]
    return compare(drafter, states, first, drafted_by_them(model.eval(), states, first))


def main(reference: Path) -> None:
    sys.path.insert(0, str(reference))
    mend_gemma4()
    from outrider.drafter.model import DSparkModel

    report = {f"{name}-drafter as shipped": {"ours_read_by_them": trained_here(name)} for name in ("flash", "pro")}
    for index, (name, one) in enumerate(CASES.items()):
        torch.manual_seed(SEED + index)
        states, config = target_states(one)
        first = torch.randint(0, config.get_text_config().vocab_size, (len(ANCHORS),))
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            theirs_for(one, config).to(torch.bfloat16).save_pretrained(folder / "theirs")
            reader = their_class(one)
            model = reader.from_pretrained(folder / "theirs", dtype=torch.float32, attn_implementation="sdpa").eval()
            expected = drafted_by_them(model, states, first)
            worst = compare(folder / "theirs", states, first, expected)

            ours = DSparkModel.load(folder / "theirs")
            randomize(ours)
            ours.save(folder / "ours", torch.float32)
            back, info = reader.from_pretrained(
                folder / "ours", dtype=torch.float32, attn_implementation="sdpa", output_loading_info=True
            )
            assert not [*info["missing_keys"], *info["unexpected_keys"]], info
            worst_back = compare(folder / "ours", states, first, drafted_by_them(back.eval(), states, first))

            report[name] = {"theirs_read_by_us": worst, "ours_read_by_them": worst_back}
            kept = HERE / name
            shutil.rmtree(kept, ignore_errors=True)
            kept.mkdir()
            for file in ("config.json", "model.safetensors"):
                shutil.copy(folder / "theirs" / file, kept / file)
            inputs = {"states": states, "anchors": torch.tensor(ANCHORS), "first_tokens": first}
            save_file(
                {**inputs, **{key: value for key, value in expected.items() if key != "hidden"}},
                HERE / f"{name}.safetensors",
            )
    (HERE / "differences.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    for name, both in report.items():
        print(name, {way: f"{max(each.values()):.1e}" for way, each in both.items()})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
