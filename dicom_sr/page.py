"""One page for people about a Result, as PDF: who, what was found, where, and by what. The same input gives the same
bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image
from reportlab.lib.colors import HexColor
from reportlab.lib.pagesizes import A4
from reportlab.lib.utils import ImageReader, simpleSplit
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.pdfgen.canvas import Canvas

MARGIN = 42.0
LEAST_PICTURE, TALLEST_PICTURE = 190.0, 340.0
WIDTH, HEIGHT = A4
TEXT, QUIET, RULE, WARNING = HexColor(0x1A1A1A), HexColor(0x666666), HexColor(0xBBBBBB), HexColor(0xB00020)
PLAIN, BOLD = "Vera", "VeraBd"
"""Fonts that come with reportlab and are put into the file: those that readers take instead have other widths."""
UNPRINTABLE = "(characters not printable here)"


@dataclass(frozen=True, eq=False)
class Picture:
    """A key image.

    Parameters
    ----------
    grey : ndarray of uint8, shape (row, column)
    aspect : float
        Height of a pixel by its width.
    outlines : tuple of (ndarray, (int, int, int))
        (column, row) points and a colour, drawn over it.
    caption : str
    """

    grey: np.ndarray
    aspect: float
    outlines: tuple[tuple[np.ndarray, tuple[int, int, int]], ...]
    caption: str


@dataclass(frozen=True, eq=False)
class Page:
    """What stands on the page, from top to bottom.

    Parameters
    ----------
    title : str
    warning : str
        In red under the title.
    banner : tuple of (str, str)
        Patient and study, as the source has them; names and values.
    columns : tuple of str
    rows : tuple of tuple of str
        The findings.
    paragraphs : tuple of str
    pictures : tuple of Picture
    footer : tuple of str
        The model, in small print.
    """

    title: str
    warning: str
    banner: tuple[tuple[str, str], ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    paragraphs: tuple[str, ...]
    pictures: tuple[Picture, ...]
    footer: tuple[str, ...]


def draw_page(page: Page) -> bytes:
    """The page as a PDF file of one page, A4; what does not fit is counted, not lost silently."""
    for name in (PLAIN, BOLD):
        if name not in pdfmetrics.getRegisteredFontNames():
            pdfmetrics.registerFont(TTFont(name, f"{name}.ttf"))
    buffer = BytesIO()
    canvas = Canvas(buffer, pagesize=A4, invariant=1, pageCompression=0)
    canvas.setTitle(_printable(page.title))
    top = _head(canvas, page)
    bottom = _foot(canvas, page.footer)
    picture_height = LEAST_PICTURE if page.pictures else 0.0
    top = _table(canvas, page, top, bottom + picture_height + 60)
    top = _paragraphs(canvas, page.paragraphs, top - 6, bottom + picture_height + 10)
    if page.pictures:
        _pictures(canvas, page.pictures, bottom + 14, min(TALLEST_PICTURE, top - bottom - 24))
    canvas.showPage()
    canvas.save()
    return buffer.getvalue()


def _head(canvas: Canvas, page: Page) -> float:
    """Title, warning and banner; where they end."""
    y = HEIGHT - MARGIN - 6
    _write(canvas, MARGIN, y, page.title, BOLD, 14)
    y -= 17
    for line in simpleSplit(_printable(page.warning), BOLD, 9, WIDTH - 2 * MARGIN):
        _write(canvas, MARGIN, y, line, BOLD, 9, WARNING)
        y -= 13
    y -= 4
    half = (WIDTH - 2 * MARGIN) / 2
    canvas.setStrokeColor(RULE)
    canvas.line(MARGIN, y + 9, WIDTH - MARGIN, y + 9)
    for index, (name, value) in enumerate(page.banner):
        x, line = MARGIN + half * (index % 2), y - 13 * (index // 2) - 4
        _write(canvas, x, line, name, PLAIN, 8, QUIET)
        _write(canvas, x + 82, line, _cut(value, BOLD, 8, half - 88), BOLD, 8)
    y -= 13 * ((len(page.banner) + 1) // 2) + 2
    canvas.line(MARGIN, y, WIDTH - MARGIN, y)
    return y - 16


def _foot(canvas: Canvas, lines: Sequence[str]) -> float:
    """Small print at the bottom; where it begins."""
    wrapped = [part for line in lines for part in simpleSplit(_printable(line), PLAIN, 6.75, WIDTH - 2 * MARGIN)]
    y = MARGIN - 14 + 9.5 * len(wrapped)
    top = y + 12
    canvas.setStrokeColor(RULE)
    canvas.line(MARGIN, top - 1, WIDTH - MARGIN, top - 1)
    for line in wrapped:
        _write(canvas, MARGIN, y, line, PLAIN, 6.75, QUIET)
        y -= 9.5
    return top


def _table(canvas: Canvas, page: Page, top: float, bottom: float) -> float:
    """The findings; where they end. Rows that do not fit are counted in a last line."""
    shares = (0.24, 0.2, 0.22, 0.34)
    widths = [(WIDTH - 2 * MARGIN) * share for share in shares]
    lefts = [MARGIN + sum(widths[:index]) for index in range(len(widths))]
    for left, name in zip(lefts, page.columns, strict=True):
        _write(canvas, left, top, name, BOLD, 8)
    y = top - 5
    canvas.setStrokeColor(RULE)
    canvas.line(MARGIN, y, WIDTH - MARGIN, y)
    y -= 11
    for number, row in enumerate(page.rows):
        cells = [simpleSplit(_printable(cell), PLAIN, 8, width - 6) for cell, width in zip(row, widths, strict=True)]
        height = 11.0 * max(1, *(len(cell) for cell in cells))
        if y - height < bottom:
            rest = len(page.rows) - number
            _write(canvas, MARGIN, y, f"and {rest} more in the structured report", PLAIN, 8, QUIET)
            return y - 14
        for left, cell in zip(lefts, cells, strict=True):
            for line, text in enumerate(cell):
                _write(canvas, left, y - 11 * line, text, PLAIN, 8)
        y -= height + 3
    return y


def _paragraphs(canvas: Canvas, paragraphs: Sequence[str], top: float, bottom: float) -> float:
    y = top
    for paragraph in paragraphs:
        for line in simpleSplit(_printable(paragraph), PLAIN, 8, WIDTH - 2 * MARGIN):
            if y - 11 < bottom:
                _write(canvas, MARGIN, y, "(cut; the whole text is in the structured report)", PLAIN, 8, QUIET)
                return y - 12
            _write(canvas, MARGIN, y, line, PLAIN, 8)
            y -= 11
        y -= 4
    return y


def _pictures(canvas: Canvas, pictures: Sequence[Picture], bottom: float, height: float) -> None:
    """Key images side by side, with their outlines and captions."""
    slot = (WIDTH - 2 * MARGIN) / len(pictures)
    for index, picture in enumerate(pictures):
        rows, columns = picture.grey.shape
        scale = min((slot - 10) / columns, (height - 14) / (rows * picture.aspect))
        wide, high = columns * scale, rows * picture.aspect * scale
        left, base = MARGIN + slot * index + (slot - wide) / 2, bottom + 12
        canvas.drawImage(ImageReader(Image.fromarray(picture.grey)), left, base, wide, high)
        for points, colour in picture.outlines:
            path = canvas.beginPath()
            corners = [(left + x * wide / columns, base + high - y * high / rows) for x, y in points.tolist()]
            path.moveTo(*corners[0])
            for corner in corners[1:]:
                path.lineTo(*corner)
            canvas.setStrokeColorRGB(*(value / 255 for value in colour))
            canvas.setLineWidth(1)
            canvas.drawPath(path)
        _write(canvas, left, bottom, _cut(picture.caption, PLAIN, 7, slot - 4), PLAIN, 7, QUIET)


def _write(canvas: Canvas, x: float, y: float, text: str, font: str, size: float, colour: HexColor = TEXT) -> None:
    canvas.setFillColor(colour)
    canvas.setFont(font, size)
    canvas.drawString(x, y, _printable(text))


def _cut(text: str, font: str, size: float, width: float) -> str:
    lines = simpleSplit(_printable(text), font, size, width)
    return "" if not lines else lines[0] + (" ..." if len(lines) > 1 else "")


def _printable(text: str) -> str:
    """The text, if the fonts can show it (Latin-1); nothing is replaced by look-alikes."""
    shown = "".join(character if character.isprintable() else " " for character in text)
    try:
        shown.encode("cp1252")
    except UnicodeEncodeError:
        return UNPRINTABLE
    return shown
