"""What SharedLLM can be set to, declared once: the config, the harness and training all read this declaration.

It imports neither torch nor transformers, so that listing the settings costs nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    create_model,
    model_serializer,
)

from sharedllm.errors import UserError
from sharedllm.validation import misfit

MOST = 2**20
"""Upper bound of sizes and counts: beyond it a number is a typing error, not a setting."""

Ratio = Annotated[float, Field(ge=1, le=MOST, allow_inf_nan=False)]


class MethodFields:
    """The method's own settings (paper sections 3.1 to 3.3) with their ranges and the paper's values as defaults."""

    chunk_size: Annotated[
        int, Field(ge=2, le=MOST, description="tokens per chunk (paper: 1024 for LM, 512 for SFT)")
    ] = 1024
    ratios: Annotated[
        list[Ratio],
        Field(
            min_length=1,
            max_length=20,
            description="down-sampling ratio of each tree level, coarse to fine; their number is the tree's height "
            "(paper: 16, 8, 4; 64, 32, 16, 1 keeps the leaves whole)",
        ),
    ] = [16, 8, 4]  # noqa: RUF012  # a declaration: instances get copies
    lower_layers: Annotated[
        int,
        Field(ge=1, le=MOST, description="layers M of the lower model (paper: 4 for LM, 16 for SFT)"),
    ] = 4
    injection: Annotated[
        Literal["bottom", "top", "interleaved"], Field(description="upper layers that carry a cross-attention")
    ] = "bottom"
    injection_start: Annotated[
        int,
        Field(
            ge=0,
            le=MOST,
            description="with injection at the bottom, bottom layers without a cross-attention; the lower model runs "
            "through them all the same (paper: 0)",
        ),
    ] = 0
    attention: Annotated[
        Literal["cross", "joint"],
        Field(
            description="how a reading layer reads compressed entries: cross is an attention of its own after the "
            "self-attention (paper), joint lets the self-attention read entries and running text in one softmax"
        ),
    ] = "cross"
    rank: Annotated[
        int,
        Field(ge=1, le=MOST, description="with joint attention, rank of the updates of query and output projections"),
    ] = 32
    policy: Annotated[
        Literal["right", "last_token", "maxsim"],
        Field(
            description="which half of a node a question expands: last_token compares last tokens (paper), maxsim sums "
            "the best cosine of each question token, right never searches"
        ),
    ] = "last_token"
    key_positions: Annotated[
        Literal["chunk", "node", "node+chunk"],
        Field(
            description="with cross-attention, RoPE position of compressed keys: chunk index (paper), position in the "
            "node (the released code's effect), or their sum (the released code's intention)"
        ),
    ] = "chunk"
    query_position: Annotated[
        Literal["n", "n+1"],
        Field(description="RoPE position of cross-attention queries after n chunks: n (paper) or n+1 (released code)"),
    ] = "n"
    sampling: Annotated[
        Literal["equidistant", "strided"],
        Field(
            description="tokens of a node that are kept: equidistant takes fractional strides, strided is the released "
            "rule (every floor(ratio)-th token, leaf pairs of even length)"
        ),
    ] = "equidistant"
    leaf_overlap: Annotated[
        int | None,
        Field(
            ge=0,
            le=MOST,
            description="the two leaves become one node, wider by this many tokens on either side, so that facts "
            "across a border survive; null keeps two leaves (paper)",
        ),
    ] = None
    fine_chunks: Annotated[
        int | None,
        Field(
            ge=1,
            le=MOST,
            description="with maxsim, chunks per question that keep their leaves at the finest ratio, the best "
            "matches; the others get the ratio of the level above; null keeps all (paper)",
        ),
    ] = None
    fine_recent: Annotated[
        int | None,
        Field(
            ge=1,
            le=MOST,
            description="where nothing is searched, last chunks that keep their leaves at the finest ratio; the others "
            "get the ratio of the level above; null keeps all (paper)",
        ),
    ] = None
    nodes: Annotated[
        Literal["chosen", "all"],
        Field(
            description="nodes of the tree that are encoded where a question searches: chosen, those that it keeps "
            "(paper), or all of them once, so that a further question only searches"
        ),
    ] = "chosen"
    split_noise: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            allow_inf_nan=False,
            description="standard deviation of the split point as a share of the node's length, in training only "
            "(paper: 0.2 for LM, 0.1 for SFT)",
        ),
    ] = 0.0
    own_lower: Annotated[
        bool, Field(description="the lower model is a trainable copy of the upper model's bottom layers")
    ] = False


TRAINING_ONLY = ("split_noise", "own_lower")
"""Settings that an adapter fixes when it is trained."""
FIXED = ("attention", "rank", "lower_layers", "injection", "injection_start", "own_lower")
"""Settings that say which weights there are and what each of them reads: an adapter has them for good. The others say
how a context is cut, sampled, searched and numbered, which the same weights can read in another way."""
YOUNGER = ("attention", "rank", "fine_recent", "nodes")
"""Settings that came after runs were recorded: unset, they are no part of a cell's identity."""
HINTS: Mapping[str, Any] = get_type_hints(MethodFields, include_extras=True)
SETTINGS = tuple(HINTS)
DEFAULTS: Mapping[str, Any] = {name: getattr(MethodFields, name) for name in SETTINGS}
_PLAIN = ConfigDict(extra="forbid", frozen=True, strict=True)
_FIELDS: dict[str, Any] = {name: (hint, DEFAULTS[name]) for name, hint in HINTS.items()}
MethodSettings: type[BaseModel] = create_model("MethodSettings", __config__=_PLAIN, **_FIELDS)
"""All settings of a model, validated."""


class _Partial(BaseModel):
    model_config = _PLAIN

    @model_serializer(mode="wrap")
    def _without_unset(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found = plain(self).items()
        return {n: v for n, v in found if (v is not None or n not in YOUNGER) and (v or n in HINTS)}


def partial_settings(name: str, without: Collection[str] = TRAINING_ONLY, **more: Any) -> type[BaseModel]:
    """A pydantic model of the same fields in which each may be left out (None): changes to an adapter's settings.

    more: further fields, type and default, that are no part of a cell's identity while they are off.
    """
    fields: dict[str, Any] = {
        field: (hint | None, Field(None, description=MethodSettings.model_fields[field].description))
        for field, hint in HINTS.items()
        if field not in without
    }
    return create_model(name, __base__=_Partial, **(fields | more))


def check_settings(settings: Mapping[str, object]) -> None:
    """Refuse settings of the wrong name, type or range, with a UserError that names the field and what it wants."""
    try:
        MethodSettings.model_validate({k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()})
    except ValidationError as error:
        found = misfit(error)
        if found.place not in HINTS and found.kind == "extra_forbidden":
            raise UserError(f"SharedLLM has no setting '{found.place}': choose from {', '.join(SETTINGS)}.") from error
        raise UserError(f"{found.place}: {found.reason}.") from error


def check_together(settings: Mapping[str, Any]) -> None:
    """Refuse settings, each of which fits by itself, that do not fit each other. settings: all of them by name.

    Raises UserError that names one of them.
    """
    size, height, overlap = settings["chunk_size"], len(settings["ratios"]), settings["leaf_overlap"]
    start, injection = settings["injection_start"], settings["injection"]
    room = settings["lower_layers"] if injection == "bottom" else 1
    if start >= room:
        raise UserError(f"injection_start is {start}: use 0 to {room - 1} with injection '{injection}'.")
    if settings["attention"] == "joint" and injection != "bottom":
        raise UserError(f"injection is '{injection}': with joint attention a layer reads its own keys, use 'bottom'.")
    if size < 2**height:
        raise UserError(f"chunk_size {size} cannot be halved {height} times: use at least {2**height}.")
    parts = 2 ** (height - (overlap is not None))
    if settings["nodes"] == "all" and size % parts:
        raise UserError(f"chunk_size {size} has no {parts} equal parts: use nodes 'chosen'.")
    if overlap is not None and overlap >= size:
        raise UserError(f"leaf_overlap is {overlap}: a chunk has {size} tokens, use fewer.")
