"""One member from start to end in one process: train, predict its held-out fold, predict the test tiles."""

import torch

from base.command import run as run_command
from base.command import stage_parser
from config import load_experiment, open_run
from pipeline.member_command import work_on_member
from pipeline.members import add_member_options, member_of
from pipeline.predict import predict_oof, predict_test
from pipeline.stopping import StopRequest
from pipeline.train import train_member


def main(argv: list[str] | None = None) -> int:
    parser = stage_parser(
        "pipeline.member",
        "Train one member, then predict its held-out fold and the test tiles: what a job of pipeline.cv runs.",
        "--model deeplab_r18 --fold 0",
    )
    add_member_options(parser)
    args = parser.parse_intermixed_args(argv)
    run = open_run(load_experiment(args.config, args.overrides))
    member = member_of(run, args)

    def work(device: torch.device, stop: StopRequest) -> str:
        train_member(run, member, device, stop)
        if member.fold is not None:
            predict_oof(run, member, device, stop)
        predict_test(run, member, device, stop)
        return f"{member}: done"

    return work_on_member(run, member, work)


if __name__ == "__main__":
    run_command(main)
