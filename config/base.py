"""The rule for all sections: unknown keys are refused, nothing changes later. Numbers in quotes are numbers, since YAML
takes 1e-3 for a text.
"""

import os
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]
"""That folders and files are called by: neither hidden, nor "..", nor a command's option."""
Folder = Annotated[str, AfterValidator(os.path.expanduser)]
"""A path that may begin with ~."""


class Section(BaseModel):
    # protected_namespaces: pydantic reserves names that begin with `model_`, and `models` is a word of ours.
    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=(), allow_inf_nan=False
    )
