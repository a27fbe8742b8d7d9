# SPDX-License-Identifier: Apache-2.0
"""The heatmap a person reads: slide, colours, and in words what the colours mean and what they do not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from clam_core.heatmap.colormaps import TABLES
from clam_core.heatmap.fonts import HOW_TO_GET, Font, can_be_written, written
from clam_core.heatmap.overlay import COLOR_MAP
from clam_core.slides import Pixels

MARGIN = 28
PANEL_WIDTH = 420
INK, GREY, RED, PAPER = (28, 30, 34), (96, 100, 108), (176, 20, 20), (255, 255, 255)
SMALLEST_FRAME = 18
"""Side of the smallest frame around a patch, in pixels of the picture."""
DEMONSTRATION = "Demonstration, not for clinical use."
NO_FONT = (
    "Letters written as numbers are those that no font has on the computer that drew this: install one there "
    f"({HOW_TO_GET})."
)


@dataclass(frozen=True)
class Caption:
    """What stands beside the pictures.

    Parameters
    ----------
    slide
        By what name the slide is known.
    model
        Name and version of the model.
    predicted_class, probability
        The class the colours explain, and its probability, 0 to 1.
    abstained
        Whether the model declined to answer: then no class is shown as the prediction.
    patches
        Number of patches.
    tissue_mm2
        Tissue looked at; None where the spacing is unknown.
    use
        For what the model may be used, such as "demonstration".
    notes
        Further sentences: why the model abstained, flags.
    """

    slide: str
    model: str
    predicted_class: str
    probability: float
    patches: int
    tissue_mm2: float | None = None
    abstained: bool = False
    use: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Highlight:
    """A patch that is marked on the heatmap and shown beside it.

    Parameters
    ----------
    box
        Left, top, right and bottom as fractions of the slide's width and height.
    picture
        The patch, RGB, (side, side, 3).
    """

    box: tuple[float, float, float, float]
    picture: Pixels


def compose(
    thumbnail: Pixels,
    overlay: Image.Image,
    caption: Caption,
    mpp: tuple[float, float] | None = None,
    highlights: Sequence[Highlight] = (),
) -> Image.Image:
    """Set the slide, the heatmap over it, and the caption on one page.

    Parameters
    ----------
    thumbnail
        The slide, RGB, (height, width, 3).
    overlay
        Transparent, of any size; it covers the whole slide.
    caption
        What stands beside.
    mpp
        Micrometres per pixel of the thumbnail, (x, y), for a scale bar; None: no bar.
    highlights
        The most attended patches, most first; they are numbered from 1.

    Returns
    -------
    PIL.Image.Image
        RGB.
    """
    slide = Image.fromarray(thumbnail)
    heat = _blend(slide, overlay)
    if mpp is not None:
        for picture in (slide, heat):
            _scale_bar(picture, mpp[0])
    for number, highlight in enumerate(highlights, 1):
        _mark(heat, highlight.box, str(number))
    upright = slide.height > slide.width
    width, height = slide.size
    pictures = (2 * width + MARGIN, height) if upright else (width, 2 * height + MARGIN)
    panel = _panel(caption, highlights)
    page = Image.new(
        "RGB", (pictures[0] + panel.width + 3 * MARGIN, max(pictures[1], panel.height) + 2 * MARGIN), PAPER
    )
    page.paste(slide, (MARGIN, MARGIN))
    page.paste(heat, (2 * MARGIN + width, MARGIN) if upright else (MARGIN, 2 * MARGIN + height))
    page.paste(panel, (pictures[0] + 2 * MARGIN, MARGIN))
    return page


def _blend(slide: Image.Image, overlay: Image.Image) -> Image.Image:
    # Twice as fine as the slide is as fine as one sees: mixing more pixels takes long and looks the same.
    finest = (2 * slide.width, 2 * slide.height)
    if overlay.width > finest[0]:
        overlay = overlay.resize(finest, Image.Resampling.NEAREST)
    colours = overlay.convert("RGBA").resize(slide.size, Image.Resampling.BOX)
    return Image.alpha_composite(slide.convert("RGBA"), colours).convert("RGB")


def _scale_bar(picture: Image.Image, mpp: float) -> None:
    """Draw a bar of a round length, about a fifth of the picture's width, at the lower left."""
    target = picture.width * mpp / 5
    magnitude = 10 ** math.floor(math.log10(target))
    length = max(step * magnitude for step in (1, 2, 5) if step * magnitude <= target)
    text = f"{length / 1000:g} mm"
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(15)
    left, bottom = 14, picture.height - 14
    right = left + round(length / mpp)
    box = (left - 8, bottom - 30, max(right, left + round(draw.textlength(text, font=font))) + 8, bottom + 8)
    draw.rectangle(box, fill=PAPER)
    draw.text((left, bottom - 27), text, font=font, fill=INK)
    draw.rectangle((left, bottom - 4, right, bottom), fill=INK)


def _mark(picture: Image.Image, box: tuple[float, float, float, float], label: str) -> None:
    """Frame the part of a patch that lies on the slide, and number it; no frame is smaller than a letter."""
    sides = (picture.width, picture.height) * 2
    left, top, right, bottom = (
        round(min(max(share, 0), 1) * side) for share, side in zip(box, sides, strict=True)
    )
    spare = max(0, SMALLEST_FRAME - (right - left)) // 2
    frame = (
        max(left - spare, 0),
        max(top - spare, 0),
        min(right + spare, picture.width) - 1,
        min(bottom + spare, picture.height) - 1,
    )
    draw = ImageDraw.Draw(picture)
    draw.rectangle(frame, outline=PAPER, width=4)
    draw.rectangle((frame[0] + 1, frame[1] + 1, frame[2] - 1, frame[3] - 1), outline=INK, width=2)
    # Above the frame, where the patch itself stays visible.
    _badge(draw, (frame[0], frame[1] - 20), label)


def _badge(draw: ImageDraw.ImageDraw, corner: tuple[int, int], label: str) -> None:
    left, top = max(corner[0], 0), max(corner[1], 0)
    draw.rectangle((left, top, left + 17, top + 19), fill=INK)
    draw.text((left + 9, top + 10), label, font=ImageFont.load_default(15), fill=PAPER, anchor="mm")


class _Column:
    """Text set from top to bottom."""

    def __init__(self) -> None:
        self.image = Image.new("RGB", (PANEL_WIDTH, 3000), PAPER)
        self.draw = ImageDraw.Draw(self.image)
        self.y = 0

    def text(self, text: str, size: int, colour: tuple[int, int, int] = INK, gap: int = 6) -> None:
        """Set a paragraph, broken into lines that fit."""
        text, font = written(text, size)
        for line in _lines(self.draw, text, font):
            self.draw.text((0, self.y), line, font=font, fill=colour)
            self.y += round(size * 1.3)
        self.y += gap

    def bar(self, labels: Sequence[tuple[float, str]], name: str) -> None:
        """Set the colour bar with labels at shares of its length."""
        height = 22
        ramp = Image.fromarray(np.ascontiguousarray(TABLES[name][None])).resize((PANEL_WIDTH, height))
        self.image.paste(ramp, (0, self.y))
        self.y += height + 4
        font = ImageFont.load_default(14)
        for share, label in labels:
            width = self.draw.textlength(label, font=font)
            self.draw.text((share * (PANEL_WIDTH - width), self.y), label, font=font, fill=INK)
        self.y += 28

    def pictures(self, pictures: Sequence[Pixels], columns: int = 2) -> None:
        """Set numbered pictures in rows."""
        gap = 10
        side = (PANEL_WIDTH - gap * (columns - 1)) // columns
        for index, picture in enumerate(pictures):
            row, column = divmod(index, columns)
            corner = (column * (side + gap), self.y + row * (side + gap))
            square = Image.fromarray(picture).resize((side, side), Image.Resampling.BICUBIC)
            self.image.paste(square, corner)
            self.draw.rectangle((*corner, corner[0] + side - 1, corner[1] + side - 1), outline=GREY)
            _badge(self.draw, corner, str(index + 1))
        self.y += math.ceil(len(pictures) / columns) * (side + gap)

    def finished(self) -> Image.Image:
        """Return what was set, without the empty rest."""
        return self.image.crop((0, 0, PANEL_WIDTH, self.y))


def _lines(draw: ImageDraw.ImageDraw, text: str, font: Font) -> list[str]:
    lines = [""]
    for word in _words(draw, text, font):
        longer = f"{lines[-1]} {word}".strip()
        if draw.textlength(longer, font=font) <= PANEL_WIDTH:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _words(draw: ImageDraw.ImageDraw, text: str, font: Font) -> list[str]:
    """Return the words; UIDs and file names that fit on no line are cut into pieces."""
    words = []
    for word in text.split():
        rest = word
        while draw.textlength(rest, font=font) > PANEL_WIDTH:
            fits = max(n for n in range(1, len(rest)) if draw.textlength(rest[:n], font=font) <= PANEL_WIDTH)
            words.append(rest[:fits])
            rest = rest[fits:]
        words.append(rest)
    return words


def _panel(caption: Caption, highlights: Sequence[Highlight]) -> Image.Image:
    column = _Column()
    if "demo" in caption.use.lower():
        column.text(DEMONSTRATION, 20, RED, gap=14)
    if not all(map(can_be_written, (caption.slide, caption.predicted_class, caption.model, *caption.notes))):
        column.text(NO_FONT, 15, RED, gap=14)
    column.text("Slide", 14, GREY, gap=0)
    column.text(caption.slide, 18, gap=12)
    column.text("Prediction", 14, GREY, gap=0)
    answer = f"{caption.predicted_class}: {caption.probability:.1%}"
    column.text("None: the model abstains" if caption.abstained else answer, 30, gap=2)
    column.text(_looked_at(caption), 15, GREY, gap=12)
    for note in caption.notes:
        column.text(note, 16, RED, gap=10)
    column.text("Model", 14, GREY, gap=0)
    column.text(caption.model, 18, gap=0)
    if caption.use:
        column.text(f"Use: {caption.use}", 15, GREY, gap=18)
    leaning = ", to which it leaned" if caption.abstained else ""
    column.text(f'Attention for "{caption.predicted_class}"{leaning}', 20, gap=8)
    column.bar([(0, "least"), (0.5, "median"), (1, "most")], COLOR_MAP)
    column.text(
        "Each patch is coloured by its rank among all patches of this slide: red are the patches that "
        "weighed most in this prediction, blue those that weighed least. Colour covers only what was "
        "taken for tissue; a patch is used whole, as its frame shows.",
        15,
        gap=8,
    )
    column.text(
        "Ranks compare patches within this slide only. Every slide has red patches, also a healthy one: the "
        "colour says where the model looked, not that the tissue there is diseased.",
        15,
        gap=18,
    )
    if highlights:
        column.text("Most attended patches, as framed", 20, gap=8)
        column.pictures([highlight.picture for highlight in highlights])
    return column.finished()


def _looked_at(caption: Caption) -> str:
    tissue = "" if caption.tissue_mm2 is None else f" on {caption.tissue_mm2:.2f} mm2 of tissue"
    return f"from {caption.patches:,} patches{tissue}"
