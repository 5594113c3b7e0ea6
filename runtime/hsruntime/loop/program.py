"""What each mode of the denoising loop runs: rows of engines and buffers, in order. `Loop` binds them, no more.

Shape letters: B pictures · G rows, B or under guidance 2B · L rows that run, G, or B where guidance is held or off ·
N image tokens, M active, R = N - M cached · T text tokens, U cached ones in a region step and V = T - U live ones
(U = 0, or T with text=cached) · P numbers in a token · H heads, D their size · S steps.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import groupby
from typing import NamedTuple

BUFFERS = {
    "latents": ("float32 B N P", "what is denoised"),
    "next_latents": ("float32 B N P", "after the step"),
    "clean": ("float32 B N P", "the picture without noise that the step before foresaw"),
    "next_clean": ("float32 B N P", "that this one does"),
    "guided": ("float32 B N P", "the guided velocity of the step just taken"),
    "previous": ("float32 B N P", "of the step before"),
    "other": ("float32 B N P", "small's, in a hybrid step or for the gap signal"),
    "difference": ("float32 B N P", "cond less uncond, in the last step that ran both on the whole picture"),
    "unread": ("float32 B N P", "cond less uncond where no later step may hold it"),
    "last": ("float32 B N P", "the last velocity that a network computed, where steps are skipped"),
    "second": ("float32 B N P", "the one before it"),
    "third": ("float32 B N P", "and before that"),
    "zero": ("float32 B N P", "nothing"),
    "original": ("float32 B N P", "the picture that this one begins from, without noise"),
    "noise": ("float32 B N P", "what it is mixed with"),
    "drawn": ("float32 B N P", "1 where the picture is drawn anew, 0 where it keeps to the original"),
    "reached": ("float32 S", "the noise levels that the steps lead to"),
    "picture": ("float32 B I P", "what is denoised without what it is drawn after"),
    "picture_index": ("int32 B I", "its tokens' places in `latents`"),
    "scores": ("float32 B N", "how much a token asks for large"),
    "magnitudes": ("float32 B N", "of the velocity before"),
    "step": ("int32 1", "the step's number"),
    "next_step": ("int32 1", "the next one"),
    "timesteps": ("float32 S", "the noise levels of all steps"),
    "coefficients": ("float32 S 5", "the solver's, of latents, velocity, and what the step before left"),
    "extrapolation": ("float32 S 3", "what a skipped step takes of `last`, `second` and `third`"),
    "guidance": ("float32 1", "the scale"),
    "excess": ("float32 1", "the scale less 1"),
    "no_excess": ("float32 1", "0"),
    "cond": ("int32 B", "each picture's row of the prompt"),
    "uncond": ("int32 B", "of the negative prompt; without guidance the same row"),
    "*": ("own L ...", "what the prompts became: the answers of large's text side"),
    "small_*": ("own L ... = *", "of small's, if it has one of its own"),
    "large_given_*": ("own ...", "what large's steps take of prompts and noise levels, of all steps at once"),
    "live_given_*": ("own ... = large_given_*", "the same for region steps, V text tokens in place of T"),
    "small_given_*": ("own ...", "and what small's take"),
    "residual_*": ("own L ...", "what large's middle blocks added in its last whole step, for light"),
    "active_residual_*": ("own L ...", "on the region; read by nobody"),
    "tokens": ("float32 L N P", "all tokens"),
    "index": ("int32 L N", "their places in `latents`"),
    "large_positions": ("int32 L N", "their positions in large"),
    "small_positions": ("int32 L N", "and in small"),
    "velocity": ("float32 L N P", "large's or small's on the whole picture"),
    "active_tokens": ("float32 L M P", "the region's tokens"),
    "active_index": ("int32 L M", "their places in `latents`"),
    "active_positions": ("int32 L M", "their positions in large"),
    "active_velocity": ("float32 L M P", "large's on the region"),
    "active_guided": ("float32 B M P", "the same after guidance"),
    "active_unread": ("float32 B M P", "cond less uncond on the region"),
    "blend_index": ("int32 B N", "places in `active_guided` with another velocity behind it"),
    "cache_*": ("cache G N H D", "keys and values of the whole picture, by slot"),
    "cache_text_*": ("cache G T H D", "of the text"),
    "whole_*": ("cache L N H D = cache_*", "where a whole step of large leaves them"),
    "whole_text_*": ("cache L T H D = cache_text_*", "of the text"),
    "past_*": ("cache L R H D", "of the cached tokens, gathered for the region"),
    "past_text_*": ("cache L U H D = cache_text_*", "of the cached text"),
    "fresh_*": ("cache L M H D", "of the active tokens"),
    "fresh_text_*": ("cache L V H D", "of the live text"),
    "nothing_*": ("cache L 0 H D", "no tokens at all"),
    "merged": ("cache G N H D", "one slot of the whole picture on the way back"),
    "cached_index": ("int32 L R", "the cached tokens' places in `cache_*`"),
    "text_index": ("int32 L U", "the cached text's places in `cache_text_*`"),
    "merge_index": ("int32 G N", "places in `fresh_*` with `cache_*` behind it"),
}
"""dtype and shape of each buffer, and what it holds.

A star stands for a cache slot's name; of what is "own", for a tensor's, whose shape and type are those of the engines
that answer it. "cache" is the type that the bundle's engines take keys and values in. `= other`: the other buffer
itself, where both have one shape. A buffer with rows L exists once for each L, and what is "own" has such rows.
"""


class Row(NamedTuple):
    """One run of an engine: its inputs and outputs, and the buffers they are bound to.

    "copy" is the device's own. A starred tensor stands for as many as its buffer has names: of what is "own" its
    tensors', else all cache slots. With starred buffers alone, rows that follow one another run for one cache slot
    after the other.
    """

    engine: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    beside: bool = False
    """It may run at the same time as the row before: neither reads what the other writes."""


def _run(engine: str, inputs: str, outputs: str, *, beside: bool = False) -> Row:
    """Of words like `index=active_index`, or `step` for step=step."""
    words = [[word.partition("=") for word in text.split()] for text in (inputs, outputs)]
    reads, writes = ({tensor: buffer or tensor for tensor, _, buffer in each} for each in words)
    return Row(engine, reads, writes, beside)


def _copy(source: str, target: str) -> Row:
    return Row("copy", {"source": source}, {"target": target})


BEGIN = _copy("guided", "previous")
PREPARE = _run("prepare", "latents index", "tokens")
PREPARE_ACTIVE = _run("prepare", "latents index=active_index", "tokens=active_tokens")
LARGE = _run(
    "large",
    "tokens positions=large_positions step *=large_given_* past_*=nothing_*",
    "velocity present_*=whole_* residual_*",
)
LARGE_ACTIVE = _run(
    "large",
    "tokens=active_tokens positions=active_positions step *=live_given_* past_*",
    "velocity=active_velocity present_*=fresh_* residual_*=active_residual_*",
)
SMALL = _run("small", "tokens positions=small_positions step *=small_given_*", "velocity")
LIGHT = _run("light", "tokens positions=large_positions step *=large_given_* residual_*", "velocity")
ADVANCE = (
    _run("advance", "velocity=guided previous clean latents coefficients step", "next_latents next_clean next_step"),
    _copy("next_latents", "latents"),
    _copy("next_clean", "clean"),
    _copy("next_step", "step"),
)


def _guide(guidance: str, velocity: str, index: str, guided: str, difference: str) -> Row:
    """Both rows of each picture, or the prompt's alone and a difference held, or none."""
    if not guidance:
        return _run("guide", f"velocity={velocity} cond uncond guidance", f"guided={guided} difference={difference}")
    excess = "excess" if guidance == "+held" else "excess=no_excess"
    return _run("guide_held", f"velocity={velocity} difference index={index} {excess}", f"guided={guided}")


def _blended(guidance: str, elsewhere: str) -> tuple[Row, ...]:
    """Large's velocity on the region, another one elsewhere."""
    return (
        _guide(guidance, "active_velocity", "active_index", "active_guided", "active_unread"),
        _run("blend", f"active=active_guided elsewhere={elsewhere} index=blend_index", "blended=guided"),
    )


def _modes(guidance: str) -> dict[str, tuple[Row, ...]]:
    """Each mode's step, what fills the cache that its region steps read, and what each transformer is given."""
    whole = _guide(guidance, "velocity", "index", "guided", "difference")
    sketch = _guide(guidance, "velocity", "index", "other", "unread")
    return {
        f"large{guidance}": (BEGIN, PREPARE, LARGE, whole, *ADVANCE),
        f"small{guidance}": (BEGIN, PREPARE, SMALL, whole, *ADVANCE),
        f"light{guidance}": (BEGIN, PREPARE, LIGHT, whole, *ADVANCE),
        f"hybrid{guidance}": (
            BEGIN, PREPARE, PREPARE_ACTIVE, LARGE_ACTIVE, SMALL._replace(beside=True), sketch,
            *_blended(guidance, "other"), *ADVANCE,
        ),
        f"refined{guidance}": (
            BEGIN, PREPARE, PREPARE_ACTIVE, LARGE_ACTIVE, LIGHT._replace(beside=True), sketch,
            *_blended(guidance, "other"), *ADVANCE,
        ),
        f"region{guidance}": (BEGIN, PREPARE_ACTIVE, LARGE_ACTIVE, *_blended(guidance, "previous"), *ADVANCE),
        f"gather{guidance}": (
            _run("select_cache", "everything=cache_* index=cached_index", "selected=past_*"),
            _run("select_cache", "everything=cache_text_* index=text_index", "selected=past_text_*"),
        ),
        f"condition large{guidance}": (_run("condition_large", "timesteps *", "*=large_given_*"),),
        f"condition small{guidance}": (_run("condition_small", "timesteps *=small_*", "*=small_given_*"),),
    }  # fmt: skip


MARKED = "mask"
"""The signal that is no signal: the region is what the caller marked."""

SIGNALS: dict[str, tuple[Row, ...]] = {
    "change": (_run("score", "first=guided second=previous", "scores"),),
    "gap": (_run("score", "first=guided second=other", "scores"),),
    "std": (_run("spread", "velocity=guided", "scores"),),
    "random": (),
    "center": (),
    MARKED: (),
}
"""What scores the tokens after a step; signals without rows look at no velocity (hsruntime.loop.region).

One that reads `other` has small or light asked for its velocity first; one that reads `previous` needs two steps in a
row.
"""

PROGRAM: dict[str, tuple[Row, ...]] = {
    **_modes(""),
    **_modes("+held"),
    **_modes("+off"),
    "skip": (
        BEGIN,
        _run("extrapolate", "last second third weights=extrapolation step", "velocity=guided"),
        *ADVANCE,
    ),
    "gap small": (PREPARE, SMALL, _guide("", "velocity", "index", "other", "unread")),
    "gap light": (PREPARE, LIGHT, _guide("", "velocity", "index", "other", "unread")),
    **{f"score {signal}": rows for signal, rows in SIGNALS.items() if rows},
    "settle": (
        _run("score", "first=guided second=previous", "scores"),
        _run("score", "first=previous second=zero", "scores=magnitudes"),
    ),
    "remember": (_copy("second", "third"), _copy("last", "second"), _copy("guided", "last")),
    "keep": (_run("keep", "latents original noise drawn reached step", "kept=next_latents"), ADVANCE[1]),
    "picture": (_run("prepare", "latents index=picture_index", "tokens=picture"),),
    "merge": (
        _run("merge_cache", "fresh=fresh_* everything=cache_* index=merge_index", "merged"),
        _copy("merged", "cache_*"),
    ),
}
"""Every sequence: steps by mode, "+held" and "+off" where only the prompts' rows run, and what is done between steps.

"condition" comes before the first step; "gather" fills a new region's cache; "gap" asks small, or light, for its
velocity at the latents of the step about to be taken; "score" follows a step; "settle" compares it with the one before;
"picture" leaves out what the pictures are drawn after; "remember" keeps its velocity for steps that are skipped; "keep"
puts the original back, with as much noise as the step led to, where a picture is not drawn anew; "merge" takes back
into the cache what the last region step made of it.
"""


Line = tuple[str, str, str, str]


def listed() -> Iterator[Line]:
    """The program in lines: sequence, engine, reads, writes. Of "+held" and "+off" the rows that differ."""
    for name, rows in PROGRAM.items():
        plain = PROGRAM[name.partition("+")[0]] if "+" in name else ()
        for row in rows:
            if row not in plain:
                engine = f"{row.engine}, beside it" if row.beside else row.engine
                yield name, engine, _words(row, row.inputs), _words(row, row.outputs)


def _words(row: Row, entries: Mapping[str, str]) -> str:
    plain = row.engine == "copy"
    return ", ".join(b if plain or tensor == b else f"{tensor}={b}" for tensor, b in entries.items())


def markdown(*names: str) -> str:
    """Two tables for the documentation: these sequences, or all, and the buffers that they bind."""
    first, sequences = "", ["| sequence | engine | reads | writes |", "|---|---|---|---|"]
    for name, engine, *bound in listed():
        if name in names or not names:
            cells = [f"`{name}`" if name != first else "", engine, *(f"`{each}`" for each in bound)]
            sequences.append(f"| {' | '.join(cells)} |")
            first = name
    shown = {pattern_of(buffer) for name in names for row in PROGRAM[name] for buffer in buffers_of(row)} or BUFFERS
    buffers = ["| buffer | type and shape | what it holds |", "|---|---|---|"]
    buffers += [f"| `{name}` | `{shape}` | {what} |" for name, (shape, what) in BUFFERS.items() if name in shown]
    return "\n".join([*sequences, "", *buffers, ""])


def reads(signal: str, buffer: str) -> bool:
    """Whether a signal's rows look at `buffer`."""
    return any(buffer in row.inputs.values() for row in SIGNALS[signal])


@cache
def pattern_of(buffer: str) -> str:
    """The entry of BUFFERS that `buffer` falls under: its own, or the longest that fits."""
    if buffer in BUFFERS:
        return buffer
    return max((p for p in BUFFERS if p.endswith("*") and buffer.startswith(p[:-1])), key=len)


def expanded(
    rows: Iterable[Row], slots: Mapping[str, Sequence[str]], own: Mapping[str, Collection[str]]
) -> Iterator[Row]:
    """Rows without stars: `slots` of "image" and "text" tokens, names of what is "own" by buffer, each in order."""
    for kind, each in groupby(rows, _runs_by_slot_of):
        group = tuple(each)
        for slot in slots[kind] if kind else [""]:
            for row in group:
                everything = [*slots["image"], *(f"text_{name}" for name in slots["text"])]
                reads, writes = (_without_stars(e, slot, everything, own) for e in (row.inputs, row.outputs))
                yield row._replace(inputs=reads, outputs=writes)


def buffers_of(row: Row) -> tuple[str, ...]:
    """Everything that a row is bound to."""
    return (*row.inputs.values(), *row.outputs.values())


def _runs_by_slot_of(row: Row) -> str:
    """Which tokens' slots it runs for one by one: "image", "text", or none where it takes all at once."""
    entries = {**row.inputs, **row.outputs}.items()
    starred = [buffer for tensor, buffer in entries if "*" in buffer and "*" not in tensor]
    return "" if not starred else "text" if any(buffer.endswith("_text_*") for buffer in starred) else "image"


def _without_stars(
    entries: Mapping[str, str], slot: str, slots: Sequence[str], own: Mapping[str, Collection[str]]
) -> dict[str, str]:
    found = {}
    for tensor, buffer in entries.items():
        for star in own.get(buffer, () if tensor == "*" else slots) if "*" in tensor else [slot]:
            found[tensor.replace("*", star)] = buffer.replace("*", star)
    return found
