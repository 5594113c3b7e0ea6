"""The family behind the contract, its registration, and a pair of it with random weights."""

import json

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hsengines.spec import DimRange, EngineSpec, Profile, TensorSpec
from hsexport.checkpoints.documents import read_document
from hsexport.checkpoints.shards import read_headers
from hsexport.checkpoints.weights import Weights, stored
from hsexport.families.family import Family
from hsexport.families.registry import FamilyRow
from hsexport.networks.network import Network
from hsruntime.facts import Latent, Positions, Sigmas, TextSide, TextSlot, Transformer
from rotary import modules

PARTS = ("decoder", "text", "tokenizer")
ROW = FamilyRow("Rotary", "rotary.family:Rotary", "RotaryTransformer", PARTS)
LENGTHS, VOCABULARY, CHANNELS = {"large": 5, "small": 7}, 40, 4


class Rotary(Family):
    """Each member reads the text by an encoder of its own."""

    name = "rotary"
    own_parts = ("text", "tokenizer")

    def read_transformer(self, transformer):
        return read_document(transformer / "config.json"), read_headers(transformer)

    def check_pair(self, large, small, without):
        return {member.role: member.directory.parts for member in (large, small) if member}

    def latent(self, pair):
        return Latent(channels=CHANNELS, patch_size=1, vae_scale=2)

    def trained_size(self, pair):
        return 16

    def reach(self, pair):
        return 32

    def transformer(self, member, latent, sizes):
        config = member.config
        width, layers, (columns, rows) = config["heads"] * config["head_size"], config["layers"], sizes.maximum
        table = {"rows": rows // 2, "columns": columns // 2, "table_size": max(rows, columns) // 2}
        return Transformer(
            source=member.told_source(), parameters=member.parameters, layers=layers, heads=config["heads"],
            head_size=config["head_size"], image_slots=layers, text_slots=layers, text=member.role, given=width,
            positions=Positions(origin="corner", **table),
            operations={"layers": {"G*M": 16 * width**2 * layers, "G*L": 16 * width**2 * layers}},
        )  # fmt: skip

    def sigmas(self, pair):
        return Sigmas(rule="trailing", levels=1000, shift=2.0)

    def text_sides(self, pair, without, longest):
        return {member.role: self._text_side(member.role, LENGTHS[member.role]) for member in pair.members}

    def _text_side(self, role, length):
        slot = TextSlot(
            engine=f"text_{role}",
            tokenizer=f"tokenizers/{role}.json",
            length=length,
            pad_id=0,
            into={"states": "states"},
        )
        return TextSide(join=f"join_{role}", tokens=length, encoders=[slot])

    def tokenizer(self, pair, slot):
        return pair.parts[slot.engine.removeprefix("text_")]["tokenizer"]

    def networks(self, recipe):
        members = recipe.pair.members
        text = [network for member in members for network in self._text(recipe, member)]
        steps = [network for member in members for network in self._transformer(recipe, member)]
        return [*steps, *text, self._decoder(recipe)]

    def _transformer(self, recipe, member):
        arch, ranges, config = getattr(recipe.facts, member.role), recipe.ranges(), member.config
        is_large, text = member.role == "large", DimRange(0, LENGTHS[member.role], LENGTHS[member.role])
        image, none, some = "M" if is_large else "N", DimRange(0, 0, 0), DimRange(0, 1, ranges["N"].maximum)
        inputs = [
            tensor("tokens", "G", image, config["token"]), tensor("positions", "G", image, dtype="int32"),
            tensor("step", 1, dtype="int32"),
        ]  # fmt: skip
        given = [
            tensor("levels", "S", 1, config["heads"] * config["head_size"]),
            tensor("stream", "G", "T", config["heads"] * config["head_size"]),
        ]
        inputs += given
        outputs = [tensor("velocity", "G", image, config["token"])]
        profiles = [Profile("full", {"G": ranges["G"], image: ranges["N"], "T": text, "S": ranges["S"]})]
        if is_large:
            inputs += slots(arch, "past", "R") + slots(arch, "past_text", "U")
            outputs += slots(arch, "present", "M") + slots(arch, "present_text", "T")
            whole = Profile("full", {**profiles[0].dims, "R": none, "U": none})
            profiles = [whole, Profile("region", {**profiles[0].dims, "R": some, "U": text})]

        def skeleton():
            table = modules.rotary_table(arch.positions.rows, arch.positions.columns, arch.head_size)
            with torch.device("meta"):
                return modules.Transformer(config, table, takes_cache=is_large)

        def condition():
            with torch.device("meta"):
                return modules.Condition(config)

        spec = EngineSpec(member.role, tuple(inputs), tuple(outputs), tuple(profiles))
        dims = {"G": 2, "M": 6, "R": 10, "T": 5, "U": 4, "N": 12, "S": 3}
        limits = {"positions": arch.positions.rows * 4, "step": "S"}
        facts, found = {"config": json.dumps(config), "table": str(arch.positions)}, member.directory.transformer
        yield Network(spec, skeleton, dims, limits, weights(found), facts, layers=arch.layers)
        taken = (tensor("timesteps", "S"), tensor("text", "G", "T", config["text_width"]))
        profile = Profile("full", {name: ranges[name] for name in "GS"} | {"T": text})
        spec = EngineSpec(f"condition_{member.role}", taken, tuple(given), (profile,))
        yield Network(spec, condition, dims, weights=weights(found), facts=facts)

    def _text(self, recipe, member):
        length, width, rows = LENGTHS[member.role], member.config["text_width"], recipe.ranges()["G"]
        ids, states = tensor("ids", "B", length, dtype="int32"), tensor("states", "B", length, width)
        profiles = (Profile("all", {"B": rows}),)

        def skeleton():
            with torch.device("meta"):
                return modules.TextEncoder(VOCABULARY, width)

        encoder = EngineSpec(f"text_{member.role}", (ids,), (states,), profiles)
        join = EngineSpec(f"join_{member.role}", (states,), (tensor("text", "B", length, width),), profiles)
        found = weights(member.directory.parts["text"])
        yield Network(encoder, skeleton, {"B": 3}, {"ids": VOCABULARY}, found)
        yield Network(join, modules.Join, {"B": 3})

    def _decoder(self, recipe):
        def skeleton():
            with torch.device("meta"):
                return modules.Decoder(CHANNELS)

        latents, pictures = tensor("latents", "B", CHANNELS, "h", "w"), tensor("pictures", "B", "2*h", "2*w", 3)
        profile = Profile("all", {name: recipe.ranges()[name] for name in ("B", "h", "w")})
        spec = EngineSpec("vae_decoder", (latents,), (pictures,), (profile,))
        return Network(spec, skeleton, {"B": 2, "h": 6, "w": 10}, weights=weights(recipe.pair.shared["decoder"]))


def tensor(name, *shape, dtype="float32"):
    return TensorSpec(name, dtype, shape)


def slots(arch, prefix, tokens):
    return [
        tensor(f"{prefix}_{kv}_{i}", "G", tokens, arch.heads, arch.head_size) for i in range(arch.layers) for kv in "kv"
    ]


def weights(folder):
    headers = read_headers(folder)
    return Weights(folder, {name: stored(header) for name, header in headers.items()}, headers)


def make_rotary_pair(root, seed=0):
    """Folders of large and small, each whole."""
    torch.manual_seed(seed)
    shapes = {"large": (3, 2, 8, 24), "small": (2, 2, 4, 16)}
    return tuple(_make_member(root / role, *shape) for role, shape in shapes.items())


def _make_member(folder, layers, heads, head_size, text_width):
    config = {
        "_class_name": ROW.transformer, "layers": layers, "heads": heads, "head_size": head_size,
        "text_width": text_width, "token": CHANNELS,
    }  # fmt: skip
    table = modules.rotary_table(1, 1, head_size)
    whole = [modules.Transformer(config, table, takes_cache=False), modules.Condition(config)]
    made = {
        "transformer": whole,
        "text": [modules.TextEncoder(VOCABULARY, text_width)],
    } | ({"decoder": [modules.Decoder(CHANNELS)]} if folder.name == "large" else {})
    for name, parts in made.items():
        (folder / name).mkdir(parents=True)
        tensors = {key: value for part in parts for key, value in part.state_dict().items()}
        save_file(tensors, folder / name / "model.safetensors")
    (folder / "transformer" / "config.json").write_text(json.dumps(config))
    vocabulary = {
        "[PAD]": 0,
        "[UNK]": 1,
        **{word: i + 2 for i, word in enumerate(("red", "green", "apple", "fox", "a"))},
    }
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    fast.save_pretrained(folder / "tokenizer")
    return folder
