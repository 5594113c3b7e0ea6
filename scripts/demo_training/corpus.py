"""The corpus: emoji drawn by the Noto Color Emoji font, named by the `emoji` package (CLDR names)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import emoji
import numpy as np
from PIL import Image, ImageDraw, ImageFont

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
BITMAP_SIZE = 109  # the only size a CBDT font holds
PICTURE_SIZE = 128
LAST_EMOJI_VERSION = 15.0  # what Debian's font draws

# Nature, food, things, animals, vehicles. People, faces, hands, signs and clocks are near copies of one
# another: at this size a model spends its capacity telling them apart, so they stay out.
RANGES = [
    (0x1F300, 0x1F3FF), (0x1F400, 0x1F43F), (0x1F451, 0x1F462), (0x1F47B, 0x1F480), (0x1F484, 0x1F4FD),
    (0x1F50B, 0x1F52E), (0x1F56F, 0x1F5FF), (0x1F680, 0x1F6FF), (0x1F940, 0x1F9CC), (0x1F9E0, 0x1FAFF),
]  # fmt: skip
DROPPED = re.compile(
    r"\b(person|people|man|men|woman|women|boy|girl|baby|child|family|prince|princess|face|hand|hands|finger"
    r"|fingers|palms?|thumb|ear|leg|foot|button|arrows?|sign|symbol|no|heart|hearts|input|square|circle|diamond"
    r"|triangle|moon|house|houses|bubble|guard|elf|fairy|genie|mage|troll|vampire|zombie|superhero|supervillain"
    r"|ninja|merperson|detective|dancing|speaker|room|closet|symbols?|passport|customs|baggage|luggage|potable"
    r"|mailbox|chart|page|calendar|envelope|outbox|inbox|shaking|pushing|thumbs|hugging|hug|santa|claus|fog|foggy"
    r"|construction|prohibited|restroom|elevator|index|card)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Corpus:
    """`captions[i]` names `pictures[i]`; pictures is (count, height, width, 3) uint8 on white."""

    captions: list[str]
    pictures: np.ndarray


def emoji_names() -> dict[str, str]:
    """The chosen emoji and their names, in code point order."""
    full = emoji.STATUS["fully_qualified"]
    named = {}
    for text, data in sorted(emoji.EMOJI_DATA.items()):
        bare = text.replace("\ufe0f", "")
        in_range = len(bare) == 1 and any(low <= ord(bare) <= high for low, high in RANGES)
        if data["status"] != full or data["E"] > LAST_EMOJI_VERSION or not in_range:
            continue
        name = data["en"].strip(":").replace("_", " ").replace("’", "'")
        if not DROPPED.search(name):
            named[text] = name
    return named


def render(text: str, font: ImageFont.FreeTypeFont) -> np.ndarray | None:
    """One emoji on white, (128, 128, 3) uint8; None if the font has no picture for it."""
    canvas = Image.new("RGBA", (136, 136), (255, 255, 255, 0))
    ImageDraw.Draw(canvas).text((0, 0), text, font=font, embedded_color=True)
    box = canvas.getbbox()
    if box is None:
        return None
    glyph = canvas.crop(box)
    side = max(glyph.size)
    square = Image.new("RGB", (side, side), "white")
    square.paste(glyph, ((side - glyph.width) // 2, (side - glyph.height) // 2), glyph)
    return np.asarray(square.resize((PICTURE_SIZE, PICTURE_SIZE), Image.Resampling.LANCZOS))


def load_corpus() -> Corpus:
    """Draws every chosen emoji. Raises FileNotFoundError with the package to install if the font is missing."""
    if not FONT.exists():
        raise FileNotFoundError(f"{FONT} is missing; install it: apt-get install fonts-noto-color-emoji")
    font = ImageFont.truetype(str(FONT), BITMAP_SIZE)
    drawn = [(name, render(text, font)) for text, name in emoji_names().items()]
    kept = [(name, picture) for name, picture in drawn if picture is not None]
    return Corpus([name for name, _ in kept], np.stack([picture for _, picture in kept]))
