"""Open a picture of any make: a path, bytes, a PIL image or an array, as RGB of a given size.

What a camera or a browser does silently is done here on purpose: EXIF turns are applied, alpha is
laid on white, 16 bits become 8. This file knows nothing of models.
"""

from __future__ import annotations

import io
import os
import warnings
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image

Fit = Literal["crop", "pad"]
WHITE = (255, 255, 255)
# Others may be handed to a program outside (EPS to Ghostscript); a file's content decides.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
_FORMATS = "PNG, JPEG, WebP, GIF, BMP or TIFF"


class PictureError(ValueError):
    """Something cannot be read as a picture; the message says why and what to do."""


def load_image(source: Any, size: int | tuple[int, int], fit: Fit = "crop") -> Image:
    """Open a picture and bring it to a size.

    Args:
        source: A path, the bytes of a file or an open file, a PIL image, a numpy array (H, W),
            (H, W, 1), (H, W, 3) or (H, W, 4), or a torch tensor (3, H, W) or (1, 3, H, W).
            Integers count 0…255 (16 bits 0…65535), floats 0…1.
        size: An int for squares, or (height, width).
        fit: "crop" fills the size and cuts off what juts out, the same on both sides; "pad" shows
            the whole picture on white.

    Returns:
        A PIL image in RGB, width and height as asked.

    Raises:
        PictureError: If the source is no picture, broken, or empty.
    """
    from PIL import ImageOps
    from PIL.Image import Resampling

    if fit not in get_args(Fit):
        raise ValueError(f"fit={fit!r} is not known; use one of {get_args(Fit)}.")
    height, width = (size, size) if isinstance(size, int) else size
    picture = _on_white(_open(source))
    if (picture.width, picture.height) == (width, height):
        return picture
    if fit == "crop":
        return ImageOps.fit(picture, (width, height), Resampling.LANCZOS)
    return ImageOps.pad(picture, (width, height), Resampling.LANCZOS, color=WHITE)


def to_tensor(picture: Image, dtype: torch.dtype = torch.float32) -> Tensor:
    """Turn an RGB image into a tensor (1, 3, H, W) in [0, 1]."""
    array = np.asarray(picture.convert("RGB"))  # (H, W, 3)
    return torch.tensor(array).permute(2, 0, 1)[None].to(dtype) / 255  # (1, 3, H, W)


def _open(source: Any) -> Image:
    from PIL import Image

    if isinstance(source, Image.Image):
        return _decode(_known(source), "the image")
    if isinstance(source, (str, os.PathLike)):
        return _open_path(os.fspath(source))
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _open_file(io.BytesIO(bytes(source)), f"{len(source)} bytes")
    if hasattr(source, "read"):
        return _open_file(source, getattr(source, "name", "the file"))
    if isinstance(source, (np.ndarray, Tensor)):
        return _from_array(source)
    raise PictureError(
        f"A {type(source).__name__} is no picture. Give a path, the bytes of a file, a PIL image, "
        "a numpy array or a torch tensor."
    )


def _open_path(path: Any) -> Image:
    if isinstance(path, str) and "://" in path:
        raise PictureError(
            f"{path} is an address on the web. Download the picture and give its path."
        )
    if not os.path.isfile(path):
        raise PictureError(f"There is no file {str(path)!r}.")
    return _open_file(path, os.path.basename(path))


def _open_file(file: Any, name: str) -> Image:
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            return _decode(Image.open(file, formats=FORMATS), name)
        except PictureError:
            raise
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise PictureError(
                f"{name} has too many pixels to open safely. Shrink it first."
            ) from error
        except Exception as error:  # decoders raise whatever a broken file makes them stumble on
            raise PictureError(
                f"{name} cannot be read as a picture: it is broken, or not a {_FORMATS}. "
                "Open it in a picture viewer and save it again as PNG."
            ) from error


def _known(image: Image) -> Image:
    """Return an image if decoding it, which PIL does late, runs PIL's own code alone.

    Raises:
        PictureError: If it was opened from a format that another program decodes.
    """
    if image.format in ("EPS", "WMF"):
        raise PictureError(
            f"The image comes from an {image.format} file, which is handed to another program to "
            f"be drawn. Save it as PNG first; {_FORMATS} are read here."
        )
    return image


def _decode(image: Image, name: str) -> Image:
    """Decode the first frame and turn it as its EXIF says."""
    from PIL import ImageOps

    try:
        image.load()
    except OSError as error:
        raise PictureError(
            f"{name} is broken or cut off ({error}). Get the file again, or save it anew as PNG."
        ) from error
    if 0 in image.size:
        raise PictureError(f"{name} is empty: {image.width}×{image.height} pixels.")
    return ImageOps.exif_transpose(image) or image


def _on_white(image: Image) -> Image:
    """Return the image in RGB, 8 bits a channel, its transparent parts laid on white."""
    from PIL import Image

    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_to_bytes(_sixteen_bits(np.asarray(image)))).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        clear = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", clear.size, (*WHITE, 255)), clear).convert(
            "RGB"
        )
    return image.convert("RGB")


def _sixteen_bits(grey: NDArray[Any]) -> NDArray[Any]:
    """Return a grey picture of 16 bits as such, also where PIL opens it with 32; floats as is.

    The range is that of the mode, not of what happens to be in the picture: dark stays dark.
    """
    if grey.dtype.kind == "f" or grey.dtype == np.uint16:
        return grey
    if grey.min() < 0 or grey.max() > 65535:
        raise PictureError(
            f"A grey picture of whole numbers lies in 0…65535, got {grey.min()} to {grey.max()}. "
            "Scale it to 8 or 16 bits first."
        )
    return grey.astype(np.uint16)


def _from_array(values: NDArray[Any] | Tensor) -> Image:
    from PIL import Image

    array = _channels_last(values.detach().cpu()) if isinstance(values, Tensor) else values
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    coloured = array.ndim == 3 and array.shape[-1] in (3, 4)
    if array.size == 0 or not (array.ndim == 2 or coloured):
        raise PictureError(
            f"An array of shape {tuple(values.shape)} is no picture. Give (H, W), (H, W, 3) or "
            "(H, W, 4) for numpy, (3, H, W) or (1, 3, H, W) for torch."
        )
    return Image.fromarray(_to_bytes(array))


def _channels_last(tensor: Tensor) -> NDArray[Any]:
    if tensor.ndim == 4 and tensor.shape[0] == 1:
        tensor = tensor[0]
    if tensor.ndim == 3 and tensor.shape[0] in (1, 3, 4):
        tensor = tensor.permute(1, 2, 0)  # (H, W, C)
    array: NDArray[Any] = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    return array


def _to_bytes(array: NDArray[Any]) -> NDArray[np.uint8]:
    """Turn numbers of any kind into 8 bits, refusing ranges that are not stated."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * 255
    if array.dtype.kind in "iu":
        top = 65535 if array.dtype == np.uint16 else 255
    elif array.dtype.kind == "f":
        top = 1
    else:
        raise PictureError(f"An array of {array.dtype} is no picture. Give numbers.")
    low, high = array.min(), array.max()
    if not (np.isfinite(low) and np.isfinite(high)) or low < -1e-3 or high > top * (1 + 1e-3):
        raise PictureError(
            f"A picture of {array.dtype} must lie in 0…{top}, got {low:.4g} to {high:.4g}. "
            "Scale it first."
        )
    return np.asarray((np.clip(array / top, 0, 1) * 255).round(), dtype=np.uint8)
