"""The rule for all sections: unknown keys are refused, values are not coerced across kinds, nothing changes later."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    # protected_namespaces: pydantic reserves names that begin with `model_`, and `models` is a word of ours.
    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=(), allow_inf_nan=False
    )
