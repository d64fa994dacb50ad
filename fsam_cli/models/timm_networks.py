"""Networks of timm, by timm's name, and the two vision transformers of the Fisher SAM paper.

`vit_b16`: ViT-B/16 (Dosovitskiy et al. 2021), which the paper fine-tunes (Table 3): 85,875,556
parameters for 100 classes. `deit_b`: DeiT-B (Touvron et al. 2021), the same network trained
otherwise (Table 2): 86,567,656 parameters for 1,000 classes. Their published weights are for
images of 224x224 pixels; other sizes build, and need weights of their own.

Pre-trained weights come from a file (`model.init_from`), so that a run's identity can name their
content; docs/reproducing.md says how timm writes one. Needs the package timm.
"""

from __future__ import annotations

import difflib
import re
from typing import Any, Literal

from pydantic import Field
from torch import nn

from fsam_cli.errors import UsageError
from fsam_cli.models._contract import Model
from fsam_cli.models._layers import require_image_size


class Timm(Model):
    """`timm`: any architecture that `timm.list_models()` names, drawn as timm draws it."""

    architecture: str
    drop_path: float = Field(0.0, ge=0, lt=1)  # chance that a residual branch is left out

    def check(self) -> None:
        # Imported here because it takes seconds, and most commands build none of its networks.
        try:
            import timm
        except ImportError:
            raise UsageError(
                f"model: '{self.architecture}' is a network of timm, which is not installed; "
                "pip install 'fsam-cli[timm]'"
            ) from None
        if not timm.is_model(self.architecture):
            near = timm.list_models(f"{self.architecture}*")[:3] or difflib.get_close_matches(
                self.architecture, timm.list_models()
            )
            raise UsageError(
                f"model.architecture: timm {timm.__version__} has no '{self.architecture}'; "
                + (f"did you mean {' or '.join(near)}?" if near else "see timm.list_models()")
            )

    def build(self, *, channels: int, classes: int, image_size: int) -> nn.Module:
        self.check()
        import timm

        given: dict[str, Any] = {"in_chans": channels, "num_classes": classes}
        if self.drop_path:
            given["drop_path_rate"] = self.drop_path
        published = timm.get_pretrained_cfg(self.architecture)
        if published is not None and published.fixed_input_size:
            given["img_size"] = image_size
        try:
            network: nn.Module = timm.create_model(self.architecture, **given)
        except (TypeError, AssertionError, ValueError) as error:
            raise UsageError(
                f"model: timm builds no '{self.architecture}' with {given} ({error}); choose other "
                "images (data.resize), or leave out drop_path"
            ) from None
        patches = getattr(getattr(network, "patch_embed", None), "patch_size", None)
        if patches is not None:
            side = patches if isinstance(patches, int) else max(patches)  # XCiT's is a number
            require_image_size(image_size, at_least=side, model=self.architecture)
        return network


class VitB16(Timm):
    """`vit_b16`: 12 blocks of width 768, patches of 16x16 pixels."""

    architecture: Literal["vit_base_patch16_224"] = "vit_base_patch16_224"


class DeitB(Timm):
    """`deit_b`: the same, for DeiT's weights."""

    architecture: Literal["deit_base_patch16_224"] = "deit_base_patch16_224"


def as_timms(name: str) -> str:
    """How a recipe names a network of timm's, for a model that fsam has not.

    Returns:
        Nothing where timm has no such network either or, without timm, where it does not look like
        one: letters with a digit or `_`.
    """
    written = f"write {{name: timm, architecture: {name}}}"
    try:
        import timm
    except ImportError:
        if not re.fullmatch(r"[a-z]\w*[\d_]\w*", name):
            return ""
        return f"if it is one of timm's, pip install 'fsam-cli[timm]' and {written}"
    return f"timm has it: {written}" if timm.is_model(name) else ""


PROVIDES = {"timm": Timm, "vit_b16": VitB16, "deit_b": DeitB}
