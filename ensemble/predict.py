"""Label any images with a finished blend: its models, weights, calibration, specialists, rule and post-processing."""

import sys

import numpy as np
import torch

from base.command import run as run_command
from base.command import stage_parser
from config import Member, Run, open_run
from ensemble.apply import apply_uncleaned, cleaned
from ensemble.build import add_name_option, fitted_variant, named_experiment, read_blend, refuse_outdated
from ensemble.fitted import FittedBlend
from pipeline.batch_norms import PixelSample
from pipeline.device import pick_device, set_up_cpu
from pipeline.image_files import Wanted, add_image_options, wanted_of
from pipeline.images import Decide, Sheet, Strips, label_images, mean_of_members
from pipeline.members import load_member, record_of_trained
from pipeline.scene import PredictPixels


def members_of_blend(run: Run, blend: FittedBlend) -> list[list[Member]]:
    """All members of the blend's models, then of its specialists."""
    models = [run.experiment.model(name) for name in (*blend.models, *blend.specialist_names)]
    return [list(run.members(model)) for model in models]


def decision_of(blend: FittedBlend, keep_probs: bool) -> Decide:
    """A function from the probabilities of every model to those of the blend, and its labels' indices."""
    num_models, num_classes = len(blend.models), len(blend.classes)

    def decide(strips: Strips, height: int) -> tuple[np.ndarray | None, np.ndarray]:
        probs, index = Sheet(height), Sheet(height)
        for predicted in strips:
            probs_MCHW = predicted[: num_models * num_classes].reshape(num_models, num_classes, *predicted.shape[1:])
            probs_CHW, index_HW = apply_uncleaned(blend, probs_MCHW, predicted[num_models * num_classes :])
            if keep_probs or blend.cleans:
                probs.add(probs_CHW)
            index.add(index_HW)
        # Patches and holes are those of the whole image, not of a strip.
        return probs.values, cleaned(blend, probs.values, index.values)

    return decide


def label_by_blend(run: Run, blend: FittedBlend, wanted: Wanted, device: torch.device) -> int:
    """The number of images that were labelled.

    Raises:
        UserError: members that are not trained, images that do not fit them.
    """
    members = members_of_blend(run, blend)

    def predict_of(adapt_to: PixelSample | None) -> PredictPixels:
        """Of the probabilities of every model, one model's channels after another's. All members stay loaded."""
        loaded = [[load_member(run, member, device, adapt_to) for member in each] for each in members]
        predict_each = [mean_of_members(run, each, device) for each in loaded]
        return lambda pixels_NHWB: np.concatenate([predict(pixels_NHWB) for predict in predict_each], axis=1)

    record, decide = record_of_trained(run, members[0][0]), decision_of(blend, wanted.probs)
    return label_images(run, wanted, record, predict_of, decide, blend.classes)


def main(argv: list[str] | None = None) -> None:
    parser = stage_parser("ensemble.predict", __doc__, "--images 'scenes/*.tif' --out labels")
    add_name_option(parser)
    add_image_options(parser, required=True)
    args = parser.parse_intermixed_args(argv)
    run = open_run(named_experiment(args))
    blend = read_blend(run).blend
    refuse_outdated(run)
    if (fitted := fitted_variant(run)) != run.variant:
        print(f"labels by {run.variant}; the blend was fitted on {fitted}", file=sys.stderr)
    set_up_cpu(run.experiment)
    count = label_by_blend(run, blend, wanted_of(args), pick_device(run.experiment.jobs))
    names = ", ".join((*blend.models, *blend.specialist_names))
    print(f"{args.out}: {count} images by blend {run.experiment.blend.name!r} of {names}")


if __name__ == "__main__":
    run_command(main)
