"""The keys of ``checkpoints``."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from svc_dist.recipe.training.schedules import Decay, Schedule


class CheckpointsEntry(BaseModel):
    """The checkpoints of a training run, and the weights of their mean."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: str = Field(min_length=1, description="folder or URL that holds checkpoint-1000/, checkpoint-2000/, ...")
    schedule: Schedule = Field(
        "wsm",
        description="`wsm`: as a decay of the learning rate; `inverse_sqrt`: wsm with `decay: sqrt`; `ema`: moving "
        "average; `window`: equal weights",
    )
    decay: Decay = Field("sqrt", description="decay that `wsm` stands for")
    beta: float = Field(0.9, gt=0, lt=1, description="share of itself that `ema` keeps at each checkpoint")
    last: int | None = Field(None, ge=2, description="only so many checkpoints, the last ones")
    every: int = Field(1, ge=1, description="only every so many checkpoints, counted from the last one")
    first: int | None = Field(None, alias="from", ge=0, description="only checkpoints from this step on")
    end: int | None = Field(None, alias="to", ge=0, description="only checkpoints up to this step")
