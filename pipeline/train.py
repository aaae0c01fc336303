"""Train one member: (model, fold, seed). A run that was killed goes on where it was; a finished one is left alone."""

import csv
import io
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from base.command import stage_parser
from base.errors import UserError
from base.files import hash_value, read_json, whole_file, write_json, write_text
from config import Member, Run, load_experiment, open_run
from config.training import Train
from folds.assign import read_folds
from folds.check import refuse_bad_folds
from folds.classes import ClassTable
from folds.metrics import confusion, mean_iou
from folds.tiles import hist_of, read_tiles
from models.averaging import Averages, update_batch_statistics
from models.class_weights import class_weights
from models.losses import build_loss, valid_pixels
from models.zoo import build_model, padded_logits
from pipeline.augment import build_augment
from pipeline.checkpoint import TrainState
from pipeline.data import Batch, EpochBatches, TrainTiles, batches_in, train_loader
from pipeline.device import autocast, autocast_dtype, make_deterministic, pick_device, set_threads
from pipeline.pack import Pack, open_pack
from pipeline.predict import forward_probs
from pipeline.prepare import Preparation
from pipeline.progress import TrainProgress
from pipeline.sampler import epoch_order
from pipeline.schedule import Plateau, build_optimizer, lr_at
from pipeline.seeds import EPOCH, WEIGHTS, seed_of
from pipeline.stopping import Stopped, StopRequest

CHECKPOINT_EVERY_S = 60.0  # a kill costs at most this much work
