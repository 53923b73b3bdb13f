"""Folders of pictures: every file one row, every sub-folder one class.

| picture | rows | levels |
|---|---|---|
| black and white (1 bit) | (1, H, W) | 2 |
| grey, 8 bit | (1, H, W) | 256 |
| grey, 16 bit | (1, H, W) | 65,536 |
| colour, 8 bit | (3, H, W) | 256 |
| palette | as its colours, grey or not | 256 |

All pictures of a folder are of one size and one kind. Rows stand in the order of the names, class
by class. An alpha channel is dropped where it is opaque and refused where it is not. JPEGs are
turned upright as their camera noted. Hidden files and files with other suffixes are passed over.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from latently.data.arrays import check_memory
from latently.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["SUFFIXES", "Folder", "read_folder"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif")


class Folder(NamedTuple):
    """Pictures `(n, C, H, W)`, their labels and class names (None and () if flat), the levels."""

    x: np.ndarray
    y: np.ndarray | None
    classes: tuple[str, ...]
    levels: int


def read_folder(path: Path, classes: Sequence[str] = ()) -> Folder:
    """Read every picture of a folder, or of its sub-folders.

    Args:
        path: The folder.
        classes: Names of classes in the order of their labels, as a model was fitted with;
            others follow in the order of their names.

    Raises:
        UserError: No pictures; pictures that differ in size or kind; one that is damaged,
            animated, transparent or not readable; a folder over the memory limit.
    """
    try:
        files, labels, found = _listed(path)
    except OSError as error:
        raise UserError(f"folder {str(path)!r}: not readable ({error.strerror})") from None
    order = (*classes, *(name for name in found if name not in classes)) if found else ()
    first, levels = _picture(files[0])
    what = f"folder {str(path)!r}: {len(files):,} pictures of shape {first.shape} are"
    check_memory(len(files) * first.size, first.dtype, what)
    x = np.empty((len(files), *first.shape), first.dtype)
    for row, file in enumerate(files):
        picture, its_levels = _picture(file)
        _check_same(files[0], first, levels, file, picture, its_levels)
        x[row] = picture
    y = None if labels is None else _numbered(labels, order)
    return Folder(x, y, order, levels)


def _listed(path: Path) -> tuple[list[Path], list[str] | None, tuple[str, ...]]:
    """Files, the class of each (None if flat), and the classes there are."""
    files = _pictures_in(path)
    inner = {p.name: _pictures_in(p) for p in sorted(path.iterdir()) if _is_class(p)}
    inner = {name: found for name, found in inner.items() if found}
    if files and inner:
        raise UserError(
            f"folder {str(path)!r}: {files[0].name} stands beside the class folder "
            f"{next(iter(inner))!r}; move pictures into class folders, or all into one"
        )
    if not files and not inner:
        raise UserError(
            f"folder {str(path)!r}: no pictures in it or in its sub-folders "
            f"({', '.join(SUFFIXES)})"
        )
    if files:
        return files, None, ()
    labels = [name for name, found in inner.items() for _ in found]
    return [file for found in inner.values() for file in found], labels, tuple(inner)


def _is_class(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(".")


def _pictures_in(path: Path) -> list[Path]:
    return sorted(
        file
        for file in path.iterdir()
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()
    )


def _numbered(labels: list[str], classes: Sequence[str]) -> np.ndarray:
    number = {name: label for label, name in enumerate(classes)}
    return np.array([number[name] for name in labels])


def _picture(file: Path) -> tuple[np.ndarray, int]:
    """A picture as integers (C, H, W), and its levels."""
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tags that do not matter
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                _check_kind(image, file)
                image.load()
                return _integers(ImageOps.exif_transpose(image), file)
    except UserError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise UserError(
            f"picture {_name(file)}: over {Image.MAX_IMAGE_PIXELS:,} pixels, a decompression bomb "
            "by all appearance; remove it or scale it down"
        ) from None
    except PermissionError:
        raise UserError(f"picture {_name(file)}: not readable by you") from None
    # a damaged picture raises whatever its decoder does (OSError, SyntaxError, struct.error, ...)
    except Exception as error:
        cause = " ".join(f"{type(error).__name__}: {error}".split())[:100]
        cause = cause.replace(str(file), file.name)
        raise UserError(
            f"picture {_name(file)}: damaged or no picture ({cause}); remove it or save it again"
        ) from None


def _check_kind(image: Image, file: Path) -> None:
    """Refuse what would be read in part, before it is unpacked."""
    if getattr(image, "n_frames", 1) > 1:
        raise UserError(f"picture {_name(file)}: animated or of several pages; save one as .png")
    raw = str([tile[3] for tile in getattr(image, "tile", ())])
    if re.search(";16[BLNS]", raw) and not image.mode.startswith(
        "I"
    ):  # Pillow would drop the lower byte
        raise UserError(
            f"picture {_name(file)}: 16 bits a channel are read of grey pictures only; save it "
            "with 8 bits, or all pictures as one .npz"
        )
    width, height = image.size
    check_memory(width * height, np.uint8, f"picture {_name(file)}: {width} x {height} pixels,")


def _integers(image: Image, file: Path) -> tuple[np.ndarray, int]:
    image = _plain(image, file)
    if image.mode == "1":
        return np.asarray(image, dtype=np.uint8)[None], 2
    if image.mode == "L":
        return np.asarray(image)[None], 256
    if image.mode == "RGB":
        return np.asarray(image).transpose(2, 0, 1), 256
    values = np.asarray(image)
    if image.mode.startswith("I") and values.min() >= 0 and values.max() < 65536:
        return values.astype(np.uint16)[None], 65536
    raise UserError(
        f"picture {_name(file)}: mode {image.mode} is neither grey nor RGB of 8 or 16 bits; "
        "convert it"
    )


def _plain(image: Image, file: Path) -> Image:
    """Without palette and opaque alpha."""
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")
        red, green, blue, alpha = image.split()
        if red.tobytes() == green.tobytes() == blue.tobytes():
            from PIL import Image as pillow

            image = pillow.merge("LA", (red, alpha))
    elif image.mode in ("L", "RGB", "1") and "transparency" in image.info:
        image = image.convert("RGBA" if image.mode == "RGB" else "LA")
    if image.mode not in ("LA", "RGBA"):
        return image
    if image.getchannel("A").getextrema()[0] != 255:
        raise UserError(
            f"picture {_name(file)}: has transparent pixels; put it on a background first"
        )
    return image.convert(image.mode[:-1])


def _check_same(
    first: Path, one: np.ndarray, levels: int, file: Path, other: np.ndarray, its_levels: int
) -> None:
    if one.shape[1:] != other.shape[1:]:
        raise UserError(
            f"pictures {_name(first)} ({_size(one)}) and {_name(file)} ({_size(other)}) differ in "
            "size; scale all to one size"
        )
    if (one.shape, levels) != (other.shape, its_levels):
        raise UserError(
            f"pictures {_name(first)} ({_kind(one, levels)}) and {_name(file)} "
            f"({_kind(other, its_levels)}) differ in kind; convert all to one"
        )


def _name(file: Path) -> str:
    return repr(f"{file.parent.name}/{file.name}"[-80:])


def _size(picture: np.ndarray) -> str:
    return f"{picture.shape[2]} x {picture.shape[1]}"


def _kind(picture: np.ndarray, levels: int) -> str:
    return f"{'RGB' if len(picture) == 3 else 'grey'}, {levels.bit_length() - 1} bit"
