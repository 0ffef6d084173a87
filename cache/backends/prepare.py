"""The child that looks before anything is started: pins both models, reads their headers, aligns their tensors.

Has the network and the token; reads no weights. Run as `python -m cache.backends.prepare`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from analysis.adapter_alignment import align_adapter
from analysis.adapter_config import read_recipe
from analysis.alignment import align
from analysis.errors import NoWeights, WeightsError
from analysis.labels import visible
from analysis.tensors import BYTES_OF_DTYPE, Alignment, TensorInfo
from cache import catalog
from cache.backends.child import Send, serve
from cache.found import FoundModel
from cache.records import ModelCard
from cache.settings import Settings


def prepare(request: dict[str, Any], send: Send) -> None:
    """Sends one message 'prepared'. Without a base, it holds only the tuned model and which base its card names."""
    settings = Settings.from_environment()
    any_folder = bool(request["any_folder"])
    tuned_ref = catalog.reference(request["tuned"], any_folder=any_folder)
    if not request["base"].strip():
        suggestion = catalog.suggest_base(tuned_ref, settings, any_folder=any_folder)
        send({"event": "prepared", "suggested_base": suggestion})
        return
    base_ref = catalog.reference(request["base"], any_folder=any_folder)
    tuned = catalog.find(tuned_ref, settings, any_folder=any_folder)
    base = catalog.find(base_ref, settings, any_folder=any_folder)
    if base.is_adapter:
        raise NoWeights(
            f"'{base.pinned.title}' is an adapter",
            expected="The base is a whole model",
            do="Name it as the tuned side, and the model it was trained on as the base",
        )
    base_tensors = catalog.list_tensors(base, settings)
    tuned_tensors = catalog.list_tensors(tuned, settings)
    alignment = aligned(base, base_tensors, tuned, tuned_tensors)
    send(
        {
            "event": "prepared",
            "suggested_base": None,
            "base": base.pinned,
            "tuned": tuned.pinned,
            "notes": [f"{found.pinned.title}: {note}" for found in (base, tuned) for note in found.notes],
            "base_card": card(base, base_tensors),
            "tuned_card": card(tuned, tuned_tensors),
            "alignment": alignment,
            "to_fetch": catalog.to_fetch_of_both(
                base, needed_files(alignment, "base"), tuned, needed_files(alignment, "tuned"), settings
            ),
            "downloads_dir": catalog.downloads_dir(),
        }
    )


def aligned(
    base: FoundModel, base_tensors: list[TensorInfo], tuned: FoundModel, tuned_tensors: list[TensorInfo]
) -> Alignment:
    """Which tensor is which; of an adapter, what it makes of each of the base's. Raises WeightsError."""
    if not tuned.is_adapter:
        return align(base_tensors, tuned_tensors, base_tied=is_tied(base), tuned_tied=is_tied(tuned))
    try:
        recipe = read_recipe(tuned.adapter_config)
        return align_adapter(base_tensors, tuned_tensors, recipe, base_tied=is_tied(base))
    except WeightsError as error:
        raise catalog.about(tuned, error) from error


def needed_files(alignment: Alignment, side: Literal["base", "tuned"]) -> tuple[str, ...]:
    """The weight files of one side that hold a compared tensor or its scales; no other file is fetched."""
    return tuple(dict.fromkeys(file for pair in alignment.pairs for file in pair.files(side)))


_SHOWN = (
    *("architectures", "model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("head_dim", "num_experts", "vocab_size", "tie_word_embeddings", "torch_dtype", "dtype"),
    *("n_head", "n_embd", "n_heads", "num_heads", "d_model", "n_layer"),  # as other families spell them
)
_NESTED = "text_config"  # where a model of several kinds of input keeps its language model's values
_MAX_TEXT = 200


def _shown(config: Mapping[str, object]) -> dict[str, object]:
    """The few plain values of config.json that pages use, those of a nested language model among them, which its
    layers are built by. The rest is a stranger's and stays in this process."""
    nested = config.get(_NESTED)
    return _plain_values(config) | (_plain_values(nested) if isinstance(nested, Mapping) else {})


def _plain_values(config: Mapping[str, object]) -> dict[str, object]:
    plain: dict[str, object] = {}
    for name in _SHOWN:
        value = config.get(name)
        if isinstance(value, list) and all(isinstance(entry, str) for entry in value):
            plain[name] = [visible(entry[:_MAX_TEXT]) for entry in value[:4]]
        elif isinstance(value, str):
            plain[name] = visible(value[:_MAX_TEXT])
        elif isinstance(value, bool) or (isinstance(value, int | float) and abs(value) < 2**53):
            plain[name] = value
    return plain


def is_tied(found: FoundModel) -> bool | None:
    """Whether the config says that the output head is the embedding; None where it says nothing."""
    said = found.config.get("tie_word_embeddings")
    nested = found.config.get("text_config")
    if said is None and isinstance(nested, Mapping):
        said = nested.get("tie_word_embeddings")
    return said if isinstance(said, bool) else None


def card(found: FoundModel, tensors: list[TensorInfo]) -> ModelCard:
    """What the store remembers of a model beside its measurements."""
    entries_of_dtype: dict[str, int] = {}
    tensors = [tensor for tensor in tensors if not tensor.aside]
    for tensor in tensors:
        entries_of_dtype[tensor.dtype] = entries_of_dtype.get(tensor.dtype, 0) + tensor.parameters
    by_weight = sorted(entries_of_dtype, key=lambda dtype: -entries_of_dtype[dtype])
    compared = [dtype for dtype in by_weight if dtype in BYTES_OF_DTYPE] or by_weight
    return ModelCard(
        title=found.pinned.title,
        commit=found.pinned.commit,
        config=_shown(found.config),
        dtype=" + ".join(compared),
        parameters=sum(tensor.parameters for tensor in tensors),
        bytes=sum(tensor.end - tensor.begin for tensor in tensors),
        declared=found.declared,
        restricted=found.restricted,
    )


if __name__ == "__main__":
    serve(prepare)
