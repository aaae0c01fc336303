"""What torch raises while a member trains, said so that a person can mend it."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch._dynamo.exc import TorchDynamoException

from base.errors import UserError
from config import Member
from pipeline.data import SHARED
from pipeline.loop import Plan

NO_BATCH = "DataLoader timed out"
ONE_VALUE = "Expected more than 1 value per channel"  # torch's batch norm, of one image of one pixel


@contextmanager
def in_users_words(member: Member, plan: Plan) -> Iterator[None]:
    """What torch raises in the block for a machine or settings that a person can mend becomes a `UserError`.

    A batch that never comes stays a crash, which the grid tries again: a storage may be back, and how much fits into
    shared memory is then asked anew.
    """
    try:
        yield
    except TorchDynamoException as error:
        cause = getattr(error, "inner_exception", error)  # what torch wrapped of the compiler's own
        said = next(iter(str(cause).splitlines()), "")
        raise UserError(
            f"{member}: the network cannot be compiled here: {type(cause).__name__}: {said}. torch.compile needs a C++ "
            f"compiler on a CPU, and triton with a C compiler on a GPU: install them, or set train.compile to false"
        ) from error
    except RuntimeError as error:
        if NO_BATCH not in str(error):
            raise
        raise RuntimeError(
            f"{member}: {error}: the storage of the pack does not answer, or {SHARED} is full and a batch was lost "
            f"(jobs.loader_workers=0 does without it)"
        ) from error
    except ValueError as error:
        if ONE_VALUE not in str(error):
            raise
        raise UserError(
            f"{member}: {member.model.arch} with {member.model.encoder} has a layer of one pixel per image, and its "
            f"batch norm needs two images at once: set train.batch to twice jobs.split_batch or more (they are "
            f"{plan.train.batch} and {plan.split_batch})"
        ) from error
